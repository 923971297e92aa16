"""OpenVINO's files: what they compute against torch and the simulation, what they hold, what really runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.support.small_networks import Joined, Tokens, TwoInputs, context_on, made, snr_db

ov = pytest.importorskip("openvino")

from compress.errors import GateFailed, InvalidInput  # noqa: E402
from compress.quantize import Quantize, simulate  # noqa: E402
from compress.quantize.detect import suited  # noqa: E402
from export.facts import format_of, formats  # noqa: E402
from export.format import Exported, Job, exporter  # noqa: E402
from export.openvino import exporter as openvino  # noqa: E402
from runtimes.runtime import Options, load  # noqa: E402

TARGET = suited(openvino.TARGETS)
"""Whose files OpenVINO's integer kernels compute exactly on this processor."""


class Shuffled(nn.Module):
    """Two halves, one through a convolution, shuffled; every value ends in integers: (N, 4, 8, 8) -> (N, 8, 8, 8)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(4, 8, 1)
        self.branch = nn.Conv2d(4, 4, 3, padding=1)
        self.last = nn.Conv2d(8, 8, 1)

    def forward(self, image: Tensor) -> Tensor:
        left, right = torch.relu(self.stem(image)).chunk(2, 1)
        x = torch.cat([left, torch.relu(self.branch(right))], 1)
        x = x.view(x.shape[0], 2, 4, 8, 8).transpose(1, 2).reshape(x.shape[0], 8, 8, 8)
        return torch.relu(self.last(x))


def network(kind: type[nn.Module], scheme: str | None = None) -> tuple[Any, dict[str, Any], tuple[Tensor, ...], Any]:
    """The network, its encodings, inputs, and what a file must give for them."""
    if kind is Shuffled:
        torch.manual_seed(0)
        model: nn.Module = Shuffled().eval()
        inputs: tuple[Tensor, ...] = (torch.randn(8, 4, 8, 8),)
        context = context_on(inputs)
    else:
        model, inputs, context = made(kind)
    encodings: dict[str, Any] = {}
    reference = model
    if scheme is not None:
        result = Quantize(scheme=scheme).apply(model, context)
        model, encodings = result.model, dict(result.encodings)
        reference = simulate(model, encodings, context.example_inputs, target=TARGET)
    with torch.no_grad():
        expected = reference(*inputs)
    return model, encodings, inputs, expected if isinstance(expected, tuple) else (expected,)


def written(folder: Path, model: nn.Module, inputs: tuple[Tensor, ...], **job: Any) -> Exported:
    return openvino.export(Job(model, tuple(x[:1] for x in inputs), TARGET, **job), folder / "net.xml")


def stored_types(file: Path) -> set[str]:
    """The types of the stored tensors with more than one dimension."""
    constants = [op for op in ov.Core().read_model(str(file)).get_ops() if op.get_type_name() == "Constant"]
    return {op.get_element_type().get_type_name() for op in constants if op.get_data().ndim > 1}


def outputs(file: Path, *inputs: np.ndarray) -> list[np.ndarray]:
    engine = load(file)
    try:
        return list(engine.run({spec.name: x for spec, x in zip(engine.inputs, inputs, strict=True)}).values())
    finally:
        engine.close()


@pytest.fixture(scope="module")
def floats(tmp_path_factory: pytest.TempPathFactory) -> tuple[Exported, Any]:
    """Channels last, with labels and metadata."""
    model, _, inputs, expected = network(Joined)
    folder = tmp_path_factory.mktemp("floats")
    labels, metadata = ("a big cat", "dog"), {"source": "made <here> & now"}
    return written(folder, model, inputs, layout="nhwc", labels=labels, metadata=metadata), (inputs, expected)


@pytest.fixture(scope="module")
def integers(tmp_path_factory: pytest.TempPathFactory) -> tuple[Exported, Any]:
    model, encodings, inputs, expected = network(Joined, "int8")
    return written(tmp_path_factory.mktemp("integers"), model, inputs, encodings=encodings), (inputs, expected)


def test_the_format_is_found_by_its_target() -> None:
    assert format_of("openvino").name == "openvino"
    assert formats()["openvino"].suffix == ".xml" and exporter("openvino").ENGINE == "openvino"  # type: ignore[attr-defined]


def test_floats_with_channels_last(floats: tuple[Exported, Any]) -> None:
    account, (inputs, expected) = floats
    (got,) = outputs(account.file, inputs[0].permute(0, 2, 3, 1).contiguous().numpy())
    assert float(np.abs(got - expected[0].numpy()).max()) < 1e-5 * float(expected[0].abs().max())
    engine = load(account.file)
    assert (engine.inputs[0].name, engine.inputs[0].shape) == ("image", (None, 16, 16, 3))
    assert account.inputs == ("image",) and account.outputs == ("output",) == (engine.outputs[0].name,)
    graph = engine.executed_graph()
    assert graph is not None and graph.integer == 0 and graph.float >= 6


def test_the_files_are_whole(floats: tuple[Exported, Any]) -> None:
    account, _ = floats
    weights = account.file.with_suffix(".bin")
    assert account.beside == (weights,) and sorted(account.file.parent.iterdir()) == sorted([account.file, weights])
    assert account.size_bytes == account.file.stat().st_size + weights.stat().st_size
    told = ov.Core().read_model(str(account.file))
    assert told.get_rt_info(["model_info", "labels"]).value == "a_big_cat dog", "as OpenVINO Model API reads them"
    assert told.get_rt_info(["model_info", "source"]).value == "made <here> & now"
    text = account.file.read_text()
    assert str(account.file.parent) not in text and "/tmp" not in text, "no path of this machine"


def test_integers_compute_what_the_simulation_does(integers: tuple[Exported, Any]) -> None:
    account, (inputs, expected) = integers
    (got,) = outputs(account.file, inputs[0].numpy())
    assert snr_db(expected[0], torch.from_numpy(got)) > 50
    assert account.notes == (), "nothing is slower than it could be"


@pytest.mark.parametrize("target", openvino.TARGETS)
def test_integers_evaluated_in_floats_are_right_on_every_processor(target: str, tmp_path: Path) -> None:
    model, inputs, context = made(Joined)
    result = Quantize().apply(model, context)
    job = Job(result.model, context.example_inputs, target, result.encodings)
    file = openvino.export(job, tmp_path / "net.xml").file
    engine = load(file, options=Options(reference=True))
    (got,) = engine.run({engine.inputs[0].name: inputs[0].numpy()}).values()
    simulated = simulate(result.model, result.encodings, context.example_inputs, target=target)(*inputs)
    assert snr_db(simulated.detach(), torch.from_numpy(got)) > 45


def test_integers_really_run(integers: tuple[Exported, Any]) -> None:
    graph = load(integers[0].file).executed_graph()
    assert graph is not None
    assert graph.float == 0, graph.float_nodes
    assert graph.ops["Convolution"] == 4, "the residual is added by the depthwise one"
    constants = [op for op in ov.Core().read_model(str(integers[0].file)).get_ops() if op.get_type_name() == "Constant"]
    stored = {op.get_friendly_name(): op.get_element_type().get_type_name() for op in constants}
    assert stored["stem.weight"] == stored["classify.weight"] == "i8"


def test_half_precision_is_stored(tmp_path: Path) -> None:
    model, encodings, inputs, expected = network(TwoInputs, "fp16")
    account = written(tmp_path, model, inputs, encodings=encodings, dynamic_batch=False)
    got = outputs(account.file, *(x[:1].numpy() for x in inputs))
    for want, have in zip(expected, got, strict=True):
        assert float(np.abs(want[:1].numpy() - have).max()) < 1e-3 * float(want.abs().max())
    engine = load(account.file)
    assert [spec.shape for spec in engine.inputs] == [(1, 3, 8, 8), (1, 5)]
    assert stored_types(account.file) == {"f16"}


def test_a_shuffle_stays_one_layer_and_integers_go_in_and_out(tmp_path: Path) -> None:
    model, encodings, inputs, expected = network(Shuffled, "int8")
    account = written(tmp_path, model, inputs, encodings=encodings, interface="uint8")
    engine = load(account.file)
    (taken,), (given,) = engine.inputs, engine.outputs
    assert taken.dtype == given.dtype == "uint8" and taken.scale is not None and given.scale is not None
    x = np.clip(np.rint(inputs[0].numpy() / taken.scale) + taken.zero_point, 0, 255).astype(np.uint8)
    (got,) = outputs(account.file, x)
    real = (got.astype(np.float32) - given.zero_point) * np.float32(given.scale)
    assert snr_db(expected[0], torch.from_numpy(real)) > 45
    graph = engine.executed_graph()
    assert graph is not None and graph.float == 0, graph
    assert graph.ops["ShuffleChannels"] == 1 and graph.ops["Convolution"] == 3


def test_bad_input(tmp_path: Path) -> None:
    model, encodings, inputs, _ = network(Tokens, "w4")
    with pytest.raises(InvalidInput, match=r"query.weight has 8 features, no multiple of its blocks of 32"):
        written(tmp_path, model, inputs, encodings=encodings)
    with pytest.raises(InvalidInput, match="metadata 'two words': expected a name"):
        written(tmp_path, model, inputs, metadata={"two words": "x"})
    with pytest.raises(InvalidInput, match=r"expected a name that ends with .xml"):
        openvino.export(Job(model, inputs, "openvino"), tmp_path / "net.bin")
    assert not list(tmp_path.iterdir())


def test_nothing_is_left_of_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, _, inputs, _ = network(Tokens)

    def fail(network: object, file: Path, **_: object) -> None:
        Path(file).write_bytes(b"half of it")
        raise RuntimeError("Exception from src/core/x.cpp:1:\nno space left\n")

    monkeypatch.setattr(openvino.ov, "save_model", fail)  # type: ignore[attr-defined]
    with pytest.raises(GateFailed, match=r"cannot write the network: no space left"):
        written(tmp_path, model, inputs)
    assert not list(tmp_path.iterdir())


def test_images_of_any_size(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    job = Job(model, (torch.zeros(1, 3, 8, 8),), "openvino", dynamic_size=True)
    runtime = load(openvino.export(job, tmp_path / "net.xml").file)
    assert runtime.inputs[0].shape == (None, 3, None, None)
    x = torch.randn(2, 3, 13, 9)
    found = runtime.run({runtime.inputs[0].name: x.numpy()})[runtime.outputs[0].name]
    with torch.no_grad():
        np.testing.assert_allclose(found, model(x).numpy(), atol=1e-5)
