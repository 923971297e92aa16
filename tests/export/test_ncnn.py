"""Files of ncnn: what they hold, byte by byte, what the engine makes of them, and what they compute."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.support.small_networks import Joined, TwoInputs, context_on, made, snr_db

pytest.importorskip("ncnn")
pytest.importorskip("pnnx")

from compress.errors import InvalidInput
from compress.quantize import TARGETS, Encoding, Quantize, simulate
from compress.quantize.scheme import SchemeName
from export.format import Exported, Job
from export.ncnn.exporter import export
from runtimes.runtime import Runtime, load

NCNN = TARGETS["ncnn"]


class Chained(nn.Module):
    """Convolutions that read each other, a grouped and a shared one, a hard-swish, a residual and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.grouped = nn.Conv2d(16, 8, 3, padding=1, groups=2, bias=False)
        self.shared = nn.Conv2d(8, 8, 1)
        self.swish = nn.Hardswish()
        self.classify = nn.Linear(8, 5)

    def forward(self, image: Tensor) -> Tensor:
        x = torch.relu(self.grouped(torch.relu(self.stem(image))))
        x = self.swish(self.shared(x)) + self.shared(x - 1)
        logits: Tensor = self.classify(x.mean((2, 3)))
        return logits


@dataclass(frozen=True)
class Written:
    """A file, the network in it, what it was quantized with, and inputs."""

    exported: Exported
    model: nn.Module
    encodings: dict[str, Encoding]
    inputs: tuple[Tensor, ...]

    def outputs(self) -> dict[str, Tensor]:
        return {name: torch.from_numpy(y) for name, y in run(load(self.exported.file), self.inputs).items()}

    def expected(self) -> dict[str, Tensor]:
        model: nn.Module = self.model
        if self.encodings:
            model = simulate(self.model, self.encodings, self.inputs, target="ncnn")
        with torch.no_grad():
            y = model(*self.inputs)
        return {f"out{n}": each for n, each in enumerate((y,) if isinstance(y, Tensor) else y)}


def run(runtime: Runtime, inputs: tuple[Tensor, ...]) -> dict[str, np.ndarray]:
    return dict(runtime.run({spec.name: x.numpy() for spec, x in zip(runtime.inputs, inputs, strict=True)}))


def written(folder: Path, kind: type[nn.Module], scheme: SchemeName | None = None) -> Written:
    if kind is Chained:
        torch.manual_seed(0)
        model: nn.Module = Chained().eval()
        inputs: tuple[Tensor, ...] = (torch.randn(20, 3, 12, 12),)
        context = context_on(inputs)
    else:
        model, inputs, context = made(kind, samples=20)
    encodings: dict[str, Encoding] = {}
    if scheme is not None:
        result = Quantize(scheme=scheme).apply(model, context)
        model, encodings = result.model, dict(result.encodings)
    name = f"{kind.__name__}_{scheme}.ncnn.param"
    return Written(export(Job(model, inputs, "ncnn", encodings), folder / name), model, encodings, inputs)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ncnn")


@pytest.fixture(scope="module")
def two_inputs(folder: Path) -> Written:
    return written(folder, TwoInputs)


@pytest.fixture(scope="module")
def chained(folder: Path) -> Written:
    return written(folder, Chained, "int8")


@pytest.fixture(scope="module")
def joined(folder: Path) -> Written:
    return written(folder, Joined, "int8")


@pytest.fixture(scope="module")
def half(folder: Path) -> Written:
    return written(folder, Joined, "fp16")


def layers(file: Path) -> Iterator[tuple[str, str, dict[str, str]]]:
    """Kind, name and parameters of each layer."""
    for line in file.read_text().splitlines()[2:]:
        words = line.split()
        yield words[0], words[1], dict(word.split("=", 1) for word in words[4 + int(words[2]) + int(words[3]) :])


def stored(file: Path) -> dict[str, list[np.ndarray]]:
    """By layer: its weight as stored, bias, scales of the weight, of the input, of the result. As ncnn reads them."""
    content, at, found = file.with_suffix(".bin").read_bytes(), 0, {}
    types = {0: "<f4", 0x01306B47: "<f2", 0x000D4B38: "i1"}

    def take(count: int, dtype: str = "<f4") -> np.ndarray:
        nonlocal at
        taken = np.frombuffer(content, dtype, count, at)
        at += -(-taken.nbytes // 4) * 4
        return taken

    for kind, name, settings in layers(file):
        if kind not in ("Convolution", "ConvolutionDepthWise", "InnerProduct"):
            continue
        is_linear = kind == "InnerProduct"
        outputs, term = int(settings["0"]), int(settings.get("8", 0))
        tag = int(take(1, "<u4")[0])
        found[name] = [take(int(settings["2" if is_linear else "6"]), types[tag])]
        found[name].append(take(outputs if settings.get("1" if is_linear else "5") == "1" else 0))
        if term:
            found[name] += [take(int(settings["7"]) if kind == "ConvolutionDepthWise" else outputs), take(1)]
        if term > 100:
            found[name].append(take(1))
    assert at == len(content)
    return found


def test_float_file_computes_what_torch_does(two_inputs: Written) -> None:
    exported = two_inputs.exported
    assert (exported.inputs, exported.outputs) == (("in0", "in1"), ("out0", "out1"))
    assert exported.size_bytes == sum(file.stat().st_size for file in (exported.file, *exported.beside))
    runtime = load(exported.file)
    assert [spec.shape for spec in runtime.inputs] == [(None, 3, 8, 8), (None, 5)]
    assert [spec.shape for spec in runtime.outputs] == [(None, 4), (None, 4)]
    for name, expected in two_inputs.expected().items():
        torch.testing.assert_close(two_inputs.outputs()[name], expected, rtol=1e-5, atol=1e-5)
    graph = runtime.executed_graph()
    assert graph is not None and graph.integer == 0


@pytest.mark.parametrize("name", ["chained", "joined", "half"])
def test_file_computes_what_the_simulation_does(name: str, request: pytest.FixtureRequest) -> None:
    file: Written = request.getfixturevalue(name)
    # Some values at the middle of two integers are rounded the other way.
    assert snr_db(file.expected()["out0"], file.outputs()["out0"]) > (100 if name == "half" else 40)


def test_every_product_runs_in_integers(chained: Written) -> None:
    graph = load(chained.exported.file).executed_graph()
    assert graph is not None
    assert [node.op for node in graph.nodes if node.kind == "integer"] == [
        *("Convolution", "ConvolutionDepthWise", "Convolution", "Convolution", "InnerProduct")
    ]
    assert graph.ops["HardSwish"] == 1


def test_stored_integers_are_those_of_the_encodings(chained: Written) -> None:
    weights, encodings = dict(chained.model.named_parameters()), chained.encodings
    order = ["stem", "grouped", "shared", "shared", "classify"]
    found = list(stored(chained.exported.file).values())
    for layer, (integers, bias, scales, read, *_) in zip(order, found, strict=True):
        groups = 2 if layer == "grouped" else 1
        weight = weights[f"{layer}.weight"].detach().numpy()
        parameters = NCNN.weight_parameters(encodings[f"{layer}.weight"], 1.0, groups=groups)
        assert integers.dtype == np.int8
        np.testing.assert_array_equal(integers.reshape(weight.shape), parameters.quantize(weight, 0))
        np.testing.assert_allclose(np.repeat(scales, len(weight) // len(scales)), 1 / parameters.scale, rtol=1e-6)
        ranges = [127 / max(-e.low[0], e.high[0]) for e in encodings.values() if e.axis is None]
        assert np.isclose(ranges, read[0], rtol=1e-6).any()
        if layer != "grouped":
            np.testing.assert_array_equal(bias, weights[f"{layer}.bias"].detach().numpy())
    # One weight, read by two convolutions: each has the scale of what it reads itself.
    assert found[2][3] != found[3][3]
    assert len(found[1][2]) == 2


def test_results_that_only_convolutions_read_are_integers_at_once(chained: Written) -> None:
    terms = {name: settings["8"] for _, name, settings in layers(chained.exported.file) if "8" in settings}
    assert list(terms.values()) == ["102", "1", "2", "2", "2"]
    first, second = list(stored(chained.exported.file).values())[:2]
    assert first[4] == second[3]


def test_table_has_the_scales_of_the_file(chained: Written) -> None:
    table = chained.exported.file.with_suffix(".table")
    assert chained.exported.beside == (chained.exported.file.with_suffix(".bin"), table)
    told = {line.split()[0]: np.float32(line.split()[1:]) for line in table.read_text().splitlines()}  # type: ignore[arg-type]
    for name, (_, _, scales, read, *_) in stored(chained.exported.file).items():
        np.testing.assert_array_equal(told[f"{name}_param_0"], scales)
        np.testing.assert_array_equal(told[name], read)


def test_half_file_stores_half(half: Written) -> None:
    weights = dict(half.model.named_parameters())
    found = stored(half.exported.file)
    assert {stored_as.dtype.name for stored_as, *_ in found.values()} == {"float16"}
    stem = next(iter(found.values()))[0]
    np.testing.assert_array_equal(stem, weights["stem.weight"].detach().numpy().ravel().astype(np.float16))


def test_simulation_rounds_only_what_products_read(joined: Written) -> None:
    """The residual adds floats: what the sum yields is no multiple of a scale."""
    simulated = simulate(joined.model, joined.encodings, joined.inputs, target="ncnn")
    rounds = [n for n in simulated.graph.nodes if "fake_quantize_per_tensor" in str(n.target)]
    assert len(rounds) == len([n for n in simulated.graph.nodes if "fake_quantize_per_channel" in str(n.target)]) == 4
    assert {str(user.target) for node in rounds for user in node.users} <= {
        "aten.conv2d.default",
        "aten.linear.default",
    }


def test_depthwise_convolutions_stay_in_float(joined: Written) -> None:
    """Their weights are stored as they are, and the convolution before yields floats."""
    (settings,) = (settings for kind, _, settings in layers(joined.exported.file) if kind == "ConvolutionDepthWise")
    assert "8" not in settings
    graph = load(joined.exported.file).executed_graph()
    assert graph is not None
    assert Counter(node.op for node in graph.nodes if node.kind == "integer") == {"Convolution": 3, "InnerProduct": 1}
    assert any("depthwise" in note for note in joined.exported.notes)


class Grouped(nn.Module):
    """Groups of eight channels, and a result that is read as well: (N, 3, 6, 6) -> (N, 16, 6, 6) twice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.grouped = nn.Conv2d(16, 16, 3, padding=1, groups=2)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        x = torch.relu(self.stem(image))
        return self.grouped(x), x


def test_groups_that_ncnn_miscomputes_are_convolutions_of_their_own(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, inputs = Grouped().eval(), (torch.randn(20, 3, 6, 6),)
    result = Quantize().apply(model, context_on(inputs))
    exported = export(Job(result.model, inputs, "ncnn", result.encodings), tmp_path / "net.param")
    file = Written(exported, result.model, dict(result.encodings), inputs)
    for name, expected in file.expected().items():
        assert snr_db(expected, file.outputs()[name]) > 50
    graph = load(exported.file).executed_graph()
    assert graph is not None
    assert Counter(node.op for node in graph.nodes if node.kind == "integer") == {"Convolution": 3}
    # The table is for the float network, whose grouped convolution is one layer.
    lines = (tmp_path / "net.table").read_text().splitlines()
    assert sorted(len(line.split()) for line in lines) == [2, 2, 3, 17]


class Ranks(nn.Module):
    """Products that ncnn has in float only: a 1-d convolution, and a linear layer of sequences."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 4, 4)
        self.along = nn.Conv1d(8, 8, 3, padding=1)
        self.mix = nn.Linear(8, 6)

    def forward(self, image: Tensor) -> Tensor:
        x = torch.relu(self.along(torch.relu(self.stem(image)).flatten(2)))
        tokens: Tensor = self.mix(x.transpose(1, 2))
        return tokens


def test_products_without_integers_stay_in_float(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, inputs = Ranks().eval(), (torch.randn(20, 3, 16, 16),)
    result = Quantize().apply(model, context_on(inputs))
    encodings = dict(result.encodings)
    exported = export(Job(result.model, inputs, "ncnn", encodings), tmp_path / "ranks.param")
    assert "along, mix" in exported.notes[0]
    file = Written(exported, result.model, encodings, inputs)
    assert snr_db(file.expected()["out0"], file.outputs()["out0"]) > 60
    alone = {name: encoding for name, encoding in encodings.items() if name != "stem.weight"}
    with pytest.raises(InvalidInput, match="along"):
        export(Job(result.model, inputs, "ncnn", alone), tmp_path / "none.param")


class Packed(nn.Module):
    """Attention as it is often written, with queries, keys and values of one linear layer: (N, 3, 8, 8) -> (N, 12)."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, 12, 4, 4)
        self.packed = nn.Linear(12, 36)

    def forward(self, image: Tensor) -> Tensor:
        x = self.embed(image).flatten(2).transpose(1, 2)
        n, tokens, channels = x.shape
        query, key, value = self.packed(x).reshape(n, tokens, 3, 2, channels // 2).permute(2, 0, 3, 1, 4).unbind(0)
        x = nn.functional.scaled_dot_product_attention(query, key, value)
        return x.transpose(1, 2).reshape(n, tokens, channels).mean(1)


def test_attention_with_packed_queries_keys_and_values(tmp_path: Path) -> None:
    torch.manual_seed(0)
    inputs = (torch.randn(3, 3, 8, 8),)
    model = Packed().eval()
    file = Written(export(Job(model, inputs, "ncnn"), tmp_path / "net.param"), model, {}, inputs)
    torch.testing.assert_close(file.outputs()["out0"], file.expected()["out0"], rtol=1e-5, atol=1e-5)
    assert "SDPA" in {kind for kind, *_ in layers(file.exported.file)}


class Vectors(nn.Module):
    """No convolution tells where the batch is: (N, 4) -> (N, 3)."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return torch.softmax(self.linear(x), -1)


def test_inputs_and_outputs_are_samples(tmp_path: Path) -> None:
    model, x = Vectors().eval(), torch.randn(5, 4)
    file = tmp_path / "net.param"
    file.with_suffix(".table").write_text("of an earlier file")
    runtime = load(export(Job(model, (x,), "ncnn"), file).file)
    assert [str(spec) for spec in (*runtime.inputs, *runtime.outputs)] == ["in0 float32[?, 4]", "out0 float32[?, 3]"]
    torch.testing.assert_close(torch.from_numpy(run(runtime, (x,))["out0"]), model(x).detach())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["net.bin", "net.param"]


class Sums(nn.Module):
    """An operation that ncnn has not."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cumprod(torch.relu(x), 2)


def test_unsupported_operation_is_named_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"cumprod \(test_ncnn\.py:\d+: return torch\.cumprod"):
        export(Job(Sums(), (torch.randn(1, 3, 4),), "ncnn"), tmp_path / "net.param")
    assert not list(tmp_path.iterdir())


JOB = Job(Vectors().eval(), (torch.zeros(1, 4),), "ncnn")


@pytest.mark.parametrize(
    ("job", "name", "message"),
    [
        (JOB, "net.onnx", r"ends in \.param"),
        (replace(JOB, target="litert"), "net.param", "target ncnn"),
        (replace(JOB, interface="int8"), "net.param", "interface int8"),
        (replace(JOB, layout="nhwc"), "net.param", "layout nhwc"),
        (replace(JOB, example_inputs=(torch.zeros(1, 4, dtype=torch.int64),)), "net.param", "expected float32"),
    ],
)
def test_what_these_files_have_no_place_for(job: Job, name: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=message):
        export(job, tmp_path / name)
    assert not list(tmp_path.iterdir())
