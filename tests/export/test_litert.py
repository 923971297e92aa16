"""LiteRT files: against torch and the simulation, by their own bytes and by the engine."""

from __future__ import annotations

import io
import zipfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("litert_torch")

import flatbuffers
from flatbuffers import number_types

from compress.errors import InvalidInput
from compress.graph.trace import trace
from compress.integers.encoding import Encoding
from compress.quantize import Quantize, simulate
from export.format import Exported, Job
from export.litert import exporter as litert
from export.litert import file as litert_file
from export.litert.file import File
from export.litert.interface import set_interface
from runtimes.runtime import load
from tests.support.small_networks import Joined, Tokens, context_on, made


class Mixed(nn.Module):
    """Two inputs and two results; padded max pooling, a channel shuffle, halves of the channels, a mean."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.pool = nn.MaxPool2d(3, 2, 1)
        self.conv = nn.Conv2d(8, 8, 3)
        self.linear = nn.Linear(5, 8)

    def forward(self, image: Tensor, vector: Tensor) -> tuple[Tensor, Tensor]:
        x = self.conv(self.pool(torch.relu(self.stem(image))))
        n, c, h, w = x.shape
        left, right = x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w).chunk(2, 1)
        features = self.conv(torch.cat([torch.relu(right), left], 1)).mean((2, 3))
        return features + self.linear(vector), features


def mixed() -> tuple[nn.Module, tuple[Tensor, ...]]:
    torch.manual_seed(0)
    return Mixed().eval(), (torch.randn(6, 3, 16, 16), torch.randn(6, 5))


@dataclass(frozen=True)
class Made:
    """A network in integers (its result too), and the file that was made from it."""

    model: nn.Module
    encodings: dict[str, Encoding]
    inputs: tuple[Tensor, ...]
    exported: Exported

    @property
    def expected(self) -> list[np.ndarray]:
        model = self.model
        if self.encodings:
            model = simulate(model, self.encodings, tuple(x[:1] for x in self.inputs), target="litert")
        with torch.no_grad():
            found = model(*self.inputs)
        return [x.numpy() for x in (found if isinstance(found, tuple) else (found,))]


def quantized(kind: type[nn.Module], scheme: str = "int8") -> tuple[nn.Module, dict[str, Encoding], tuple[Tensor, ...]]:
    """A network with its encodings, those of its results too."""
    model, inputs, context = made(kind)
    result = Quantize(scheme=scheme, ranges={"samples": 16}).apply(model, context)
    encodings = dict(result.encodings)
    with torch.no_grad():
        value = result.model(*inputs)
    for node in trace(result.model, tuple(x[:1] for x in inputs), dynamic_batch=True).outputs:
        if scheme == "int8":
            encodings.setdefault(node.name, Encoding((float(value.min()),), (float(value.max()),)))
    return result.model, encodings, inputs


@pytest.fixture(scope="module")
def integers(tmp_path_factory: pytest.TempPathFactory) -> Made:
    model, encodings, inputs = quantized(Joined)
    job = Job(model, (inputs[0][:1],), "litert", encodings, labels=tuple("abcde"), metadata={"accuracy": "0.9"})
    return Made(model, encodings, inputs, litert.export(job, tmp_path_factory.mktemp("litert") / "integers.tflite"))


@pytest.fixture(scope="module")
def bytes_nhwc(integers: Made, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    job = Job(integers.model, (integers.inputs[0][:1],), "litert", integers.encodings, interface="uint8", layout="nhwc")
    return litert.export(job, tmp_path_factory.mktemp("litert") / "bytes.tflite")


@pytest.fixture(scope="module")
def floats(tmp_path_factory: pytest.TempPathFactory) -> Made:
    model, inputs = mixed()
    job = Job(model, tuple(x[:1] for x in inputs), "litert")
    return Made(model, {}, inputs, litert.export(job, tmp_path_factory.mktemp("litert") / "floats.tflite"))


@pytest.fixture(scope="module")
def halves(tmp_path_factory: pytest.TempPathFactory) -> Made:
    model, inputs = mixed()
    encodings = dict(Quantize(scheme="fp16").apply(model, context_on(inputs)).encodings)
    job = Job(model, tuple(x[:1] for x in inputs), "litert", encodings)
    return Made(model, encodings, inputs, litert.export(job, tmp_path_factory.mktemp("litert") / "halves.tflite"))


def operators(exported: Exported) -> Counter[str]:
    """How often the file has each operator, with the types that it reads and yields."""
    file = File(exported.file.read_bytes())

    def types(indices: list[int]) -> str:
        return ",".join(file.dtype(index) for index in indices if index >= 0)

    return Counter(f"{file.kind(o)} {types(o.inputs)} {types(o.outputs)}" for o in file.operators)


def test_float_file_computes_what_torch_does_at_any_batch(floats: Made) -> None:
    assert floats.exported.inputs == ("image", "vector")
    assert floats.exported.outputs == ("output_0", "output_1")
    assert floats.exported.notes == ()
    runtime = load(floats.exported.file)
    assert [(spec.name, spec.shape) for spec in runtime.inputs] == [("image", (None, 3, 16, 16)), ("vector", (None, 5))]
    found = runtime.run({"image": floats.inputs[0].numpy(), "vector": floats.inputs[1].numpy()})
    for name, expected in zip(floats.exported.outputs, floats.expected, strict=True):
        np.testing.assert_allclose(found[name], expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


def test_images_stay_channels_last_between(floats: Made) -> None:
    """One transposition for the image, one for the shuffle; pooling after a ReLU reads zeros around."""
    kinds = Counter(name.split()[0] for name in operators(floats.exported).elements())
    assert (kinds["TRANSPOSE"], kinds["MEAN"], kinds["PAD"], kinds["PADV2"]) == (2, 1, 1, 0)
    graph = load(floats.exported.file).executed_graph()
    assert graph is not None and all(op.startswith("XNNPACK:") for op in graph.ops)


def test_float16_weights_take_half_the_bytes_and_compute_the_same(floats: Made, halves: Made) -> None:
    found = operators(halves.exported)
    assert found["DEQUANTIZE float16 float32"] == 3
    stored = File(halves.exported.file.read_bytes())
    names = [item.name for item in stored.model.metadata]
    assert b"reduced_precision_support" in names
    runtime = load(halves.exported.file)
    got = runtime.run({"image": halves.inputs[0].numpy(), "vector": halves.inputs[1].numpy()})
    for name, expected in zip(halves.exported.outputs, halves.expected, strict=True):
        np.testing.assert_allclose(got[name], expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())


def test_every_operator_between_is_one_in_integers(integers: Made) -> None:
    found = operators(integers.exported)
    assert found["CONV_2D int8,int8,int32 int8"] == 3
    assert found["DEPTHWISE_CONV_2D int8,int8,int32 int8"] == 1
    assert found["FULLY_CONNECTED int8,int8,int32 int8"] == 1
    floats = {name for name in found if "float32" in name}
    assert floats == {"QUANTIZE float32 int8", "DEQUANTIZE int8 float32"}
    assert found["QUANTIZE float32 int8"] == found["DEQUANTIZE int8 float32"] == 1
    assert sum(count for name, count in found.items() if name.startswith("TRANSPOSE")) == 1
    graph = load(integers.exported.file).executed_graph()
    assert graph is not None and graph.float == 0 and graph.integer >= 7
    assert all(op.startswith("XNNPACK:") for op in graph.ops)


def test_integers_are_those_of_the_encodings(integers: Made) -> None:
    """Weights bit for bit, biases in the scale of the product, ReLU6 fused."""
    from compress.integers.target import target_named

    target = target_named("litert")
    file = File(integers.exported.file.read_bytes())
    names = {tensor.name.decode(): index for index, tensor in enumerate(file.tensors)}
    parameters = target.weight_parameters(integers.encodings["stem.weight"], 1.0)
    expected = parameters.quantize(integers.model.stem.weight.detach().numpy(), 0)  # type: ignore[operator, union-attr]
    index = names["stem.weight"]
    np.testing.assert_array_equal(file.constant(index), expected.transpose(0, 2, 3, 1))
    np.testing.assert_allclose(file.tensors[index].quantization.scale, parameters.scale, rtol=1e-6)
    read = target.activation_parameters(integers.encodings["image"])
    bias = file.tensors[names["stem.bias"]]
    np.testing.assert_allclose(bias.quantization.scale, parameters.scale * read.scale, rtol=1e-5)
    real = file.constant(names["stem.bias"]) * bias.quantization.scale
    np.testing.assert_allclose(real, integers.model.stem.bias.detach().numpy(), atol=bias.quantization.scale.max())  # type: ignore[operator, union-attr]
    fused = [o.builtinOptions.fusedActivationFunction for o in file.operators if file.kind(o) == "CONV_2D"]
    assert sorted(fused) == [1, 1, 3]  # two ReLU and a ReLU6


def test_integer_file_computes_what_the_simulation_does(integers: Made) -> None:
    runtime = load(integers.exported.file)
    found = runtime.run({"image": integers.inputs[0].numpy()})["output"]
    (expected,) = integers.expected
    step = np.ptp(expected) / 255
    assert np.abs(found - expected).max() <= 2.5 * step
    assert (found.argmax(1) == expected.argmax(1)).mean() >= 0.95
    assert np.abs(found - expected).mean() < 0.25 * step


class Pooled(nn.Module):
    """A convolution that is averaged, and joined with another: (N, 3, 8, 8) -> (N, 8, 4, 4)."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1, 2)
        self.last = nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.cat([nn.functional.avg_pool2d(self.left(x), 2), self.right(x)], 1))


def test_an_average_of_windows_that_is_joined_keeps_its_scale(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, inputs = Pooled().eval(), (torch.randn(16, 3, 8, 8),)
    result = Quantize(ranges={"samples": 16}).apply(model, context_on(inputs))
    job = Job(result.model, (inputs[0][:1],), "litert", result.encodings)
    exported = litert.export(job, tmp_path / "pooled.tflite")
    file = File(exported.file.read_bytes())
    (pool,) = (o for o in file.operators if file.kind(o) == "AVERAGE_POOL_2D")
    scales = [file.tensors[index].quantization.scale for index in (*pool.inputs, *pool.outputs)]
    assert scales[0] == scales[1] and file.dtype(pool.outputs[0]) == "int8"
    expected = simulate(result.model, result.encodings, (inputs[0][:1],), target="litert")(*inputs).detach().numpy()
    (got,) = load(exported.file).run({"x": inputs[0].numpy()}).values()
    # Either average may round up where the other rounds down.
    assert np.abs(got - expected).max() < 0.05 * np.abs(expected).max()


def test_bytes_in_and_out_channels_last_without_a_transposition(integers: Made, bytes_nhwc: Exported) -> None:
    found = operators(bytes_nhwc)
    assert not any("float" in name or name.startswith("TRANSPOSE") for name in found)
    assert found["QUANTIZE uint8 int8"] == found["QUANTIZE int8 uint8"] == 1
    runtime = load(bytes_nhwc.file)
    (taken,), (given,) = runtime.inputs, runtime.outputs
    assert (taken.shape, taken.dtype, given.dtype) == ((None, 16, 16, 3), "uint8", "uint8")
    assert taken.scale is not None and given.scale is not None
    images = integers.inputs[0].permute(0, 2, 3, 1).numpy()
    stored = np.clip(np.rint(images / taken.scale) + taken.zero_point, 0, 255).astype(np.uint8)
    got = (runtime.run({"image": stored})["output"].astype(np.float32) - given.zero_point) * given.scale
    same = load(integers.exported.file).run({"image": integers.inputs[0].numpy()})["output"]
    np.testing.assert_allclose(got, same, atol=1e-5)


def test_integers_at_the_interface_need_integers_between(floats: Made) -> None:
    file = File(floats.exported.file.read_bytes())
    with pytest.raises(InvalidInput, match=r"interface int8: input 0 .* is float32") as caught:
        set_interface(file, "int8")
    assert "--scheme int8" in str(caught.value)


def field(table: flatbuffers.table.Table, slot: int) -> int:
    offset = number_types.UOffsetTFlags.py_type(table.Offset(4 + 2 * slot))
    assert offset, f"field {slot} is missing"
    return int(table.Pos + offset)


def child(table: flatbuffers.table.Table, slot: int, place: int = 0) -> flatbuffers.table.Table:
    start = table.Vector(field(table, slot) - table.Pos)
    return flatbuffers.table.Table(table.Bytes, table.Indirect(start + 4 * place))


def test_labels_and_metadata_are_where_tools_look(integers: Made) -> None:
    content = integers.exported.file.read_bytes()
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert archive.read("labels.txt").decode().splitlines() == list("abcde")
    file = File(content)
    stored = {item.name.decode(): bytes(file.model.buffers[item.buffer].data) for item in file.model.metadata}
    assert stored["accuracy"] == b"0.9"
    told = stored["TFLITE_METADATA"]
    assert told[4:8] == b"M001"
    root = flatbuffers.table.Table(bytearray(told), int.from_bytes(told[:4], "little"))
    output = child(child(root, 3), 3)
    assert output.String(field(output, 0)) == b"output"
    labels = child(output, 6)
    assert labels.String(field(labels, 0)) == b"labels.txt"
    assert labels.Bytes[field(labels, 2)] == 2  # TENSOR_AXIS_LABELS
    assert integers.exported.size_bytes == len(content)


def test_stored_values_are_aligned(integers: Made) -> None:
    from ai_edge_litert import schema_py_generated as schema

    content = integers.exported.file.read_bytes()
    model = schema.Model.GetRootAs(content, 0)
    starts = []
    for place in range(model.BuffersLength()):
        buffer = model.Buffers(place)
        if buffer.DataLength() >= 16:
            starts.append(buffer._tab.Vector(buffer._tab.Offset(4)))
    assert starts and all(start % 16 == 0 for start in starts)


def test_four_bit_integers_are_packed_the_lower_half_first() -> None:
    values = np.array([[1, -2, 7], [-8, 0, 5]], np.int8)
    packed = litert_file._packed(values)
    low, high = packed & 0xF, packed >> 4
    both = np.stack([low, high], 1).reshape(-1)[:6].astype(np.int8)
    np.testing.assert_array_equal(np.where(both > 7, both - 16, both), values.reshape(-1))


def test_blocks_that_do_not_fit_are_refused_before_the_conversion(tmp_path: Path) -> None:
    model, encodings, inputs = quantized(Tokens, "w4")
    with pytest.raises(InvalidInput, match=r"8 features.*blocks of 32.*--scheme w8"):
        litert.export(Job(model, (inputs[0][:1],), "litert", encodings), tmp_path / "x.tflite")
    assert list(tmp_path.iterdir()) == []


class Spectrum(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.fft.fft(x).abs()


class Factor(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.linalg.cholesky(x @ x.mT + torch.eye(3))


@pytest.mark.parametrize(
    ("model", "shape", "told"),
    [(Spectrum(), (1, 8), "complex numbers .*torch.fft.fft"), (Factor(), (1, 3, 3), "cholesky.*export to onnx")],
)
def test_what_the_format_lacks_is_named_with_the_users_line(
    model: nn.Module, shape: tuple[int, ...], told: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(InvalidInput, match=told) as caught:
        litert.export(Job(model, (torch.randn(shape),), "litert"), tmp_path / "x.tflite")
    assert "test_litert.py" in str(caught.value) and "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("kind", ["convolution", "linear"])
def test_a_layer_in_float_between_integers_is_computed_in_float(kind: str, tmp_path: Path) -> None:
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    torch.manual_seed(0)
    images = kind == "convolution"
    made_of = [nn.Conv2d(4, 4, 3) if images else nn.Linear(4, 4) for _ in range(3)]
    model = nn.Sequential(made_of[0], nn.ReLU(), made_of[1], nn.ReLU(), made_of[2]).eval()
    x = torch.randn(16, 4, 8, 8) if images else torch.randn(16, 4)
    result = Quantize(exclude=("2",), quantize_outputs=True).apply(model, context_on((x,)))
    exported = litert.export(Job(result.model, (x[:1],), "litert", result.encodings), tmp_path / "net.tflite")
    engine = Interpreter(
        str(exported.file), experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    )
    types = {tensor["index"]: tensor["dtype"] for tensor in engine.get_tensor_details()}
    products = [op for op in engine._get_ops_details() if op["op_name"] in ("CONV_2D", "FULLY_CONNECTED")]
    assert [types[op["outputs"][0]] for op in products] == [np.int8, np.float32, np.int8]
    assert types[products[1]["inputs"][1]] is np.float32, "its weight is not rounded again"
    expected = simulate(result.model, result.encodings, (x[:1],), target="litert")(x[:1]).detach().numpy()
    runtime = load(exported.file)
    (found,) = runtime.run({runtime.inputs[0].name: x[:1].numpy()}).values()
    np.testing.assert_allclose(found, expected, atol=0.02 * np.abs(expected).max())
