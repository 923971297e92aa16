"""The forms that integer kernels want: exact, and only where nothing else is touched."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from compress.quantize import Quantize
from export.onnx.edits import kernels
from export.onnx.exporter import export_onnx
from tests.support.small_networks import EXACT_TARGET, context_on


class Inverted(nn.Module):
    """An image of three channels, and a depthwise convolution of 24 between two others."""

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, 2, 1)
        self.expand = nn.Conv2d(16, width, 1)
        self.depthwise = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.pool = nn.AvgPool2d(2)
        self.project = nn.Conv2d(width, 8, 1)

    def forward(self, image: Tensor) -> Tensor:
        x = torch.relu(self.expand(torch.relu(self.stem(image))))
        y: Tensor = self.project(torch.relu(self.depthwise(x)))
        return self.pool(y)


def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, width: int = 24) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """The network's file without the forms of x86, and with them."""
    torch.manual_seed(0)
    model, images = Inverted(width).eval(), torch.randn(16, 3, 12, 12)
    result = Quantize().apply(model, context_on((images,)))
    made = []
    for x86 in (False, True):
        with monkeypatch.context() as patch:
            original = kernels.use_integer_kernels
            patch.setattr("export.onnx.exporter.use_integer_kernels", lambda graph, **_: original(graph, x86=x86))  # noqa: B023
            path = tmp_path / f"{x86}.onnx"
            export_onnx(result.model, (images[:1],), path, encodings=dict(result.encodings), target=EXACT_TARGET)
        made.append(onnx.load(str(path)))
    return made[0], made[1]


def outputs(model: onnx.ModelProto) -> np.ndarray:
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), settings)
    images = np.random.default_rng(0).standard_normal((4, 3, 12, 12)).astype(np.float32)
    return session.run(None, {session.get_inputs()[0].name: images})[0]


def widths(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    weights = {t.name: tuple(t.dims) for t in model.graph.initializer if len(t.dims) == 4}
    found = {node.output[0]: weights.get(node.input[0]) for node in model.graph.node}
    return {node.name: found[node.input[1]] for node in model.graph.node if node.op_type == "Conv"}  # type: ignore[misc]


def test_padded_channels_change_no_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, fast = files(tmp_path, monkeypatch)
    np.testing.assert_array_equal(outputs(plain), outputs(fast))
    shapes = widths(fast)
    assert shapes["stem"] == (16, 4, 3, 3)
    assert shapes["expand"] == (32, 16, 1, 1) and shapes["depthwise"] == (32, 1, 3, 3)
    assert shapes["project"] == (8, 32, 1, 1)
    assert shapes["pool"] == (8, 1, 2, 2) and "AveragePool" not in {node.op_type for node in fast.graph.node}
    assert widths(plain)["depthwise"] == (24, 1, 3, 3)


def test_few_channels_are_not_padded_to_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, fast = files(tmp_path, monkeypatch, width=8)
    assert widths(fast)["depthwise"] == (8, 1, 3, 3)


def test_padded_parts_still_run_in_integers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, fast = files(tmp_path, monkeypatch)
    settings = onnxruntime.SessionOptions()
    settings.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    settings.log_severity_level = 4
    onnxruntime.InferenceSession(fast.SerializeToString(), settings)
    operators = [node.op_type for node in onnx.load(settings.optimized_model_filepath).graph.node]
    assert operators.count("QLinearConv") == 5 and "Conv" not in operators


def quantized_values(*, scale: float = 0.5, zero: int = 3) -> list[onnx.NodeProto]:
    return [onnx.helper.make_node("DequantizeLinear", ["x", "scale", "zero"], ["real"])]


def graph_of(nodes: list[onnx.NodeProto], stored: dict[str, np.ndarray]) -> onnx.ModelProto:
    graph = onnx.helper.make_graph(
        nodes,
        "g",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.UINT8, [1, 2, 3, 3])],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1, 2, 3, 3])],
        [numpy_helper.from_array(array, name) for name, array in stored.items()],
    )
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9)


@pytest.mark.parametrize(
    ("edit", "operation", "number"),
    [
        (kernels.fold_scalings, "Mul", 1 / 6),
        (kernels.quantize_numbers, "Add", 3.0),
        (kernels.quantize_numbers, "Mul", 0.25),
    ],
)
def test_numbers_beside_dequantized_values(edit: object, operation: str, number: float) -> None:
    nodes = [*quantized_values(), onnx.helper.make_node(operation, ["real", "number"], ["y"])]
    stored = {"scale": np.float32(0.5), "zero": np.uint8(3), "number": np.float32(number)}
    model = graph_of(nodes, {name: np.asarray(value) for name, value in stored.items()})
    x = np.arange(18, dtype=np.uint8).reshape(1, 2, 3, 3)

    def run() -> np.ndarray:
        return onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": x})[0]

    before = run()
    assert edit(model.graph) == 1  # type: ignore[operator]
    np.testing.assert_allclose(run(), before, rtol=1e-6)
    assert edit(model.graph) == 0 or operation == "Mul"  # type: ignore[operator]
    if edit is kernels.fold_scalings:
        assert [node.op_type for node in model.graph.node if node.op_type != "DequantizeLinear"] == []


def test_a_shift_joins_the_integer_bias(tmp_path: Path) -> None:
    class Shifted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 1)

        def forward(self, image: Tensor) -> Tensor:
            return nn.functional.hardsigmoid(self.conv(image)).mean((2, 3))

    torch.manual_seed(0)
    model, images = Shifted().eval(), torch.randn(16, 3, 6, 6)
    result = Quantize().apply(model, context_on((images,)))
    export_onnx(result.model, (images[:1],), tmp_path / "net.onnx", encodings=dict(result.encodings))
    written = onnx.load(str(tmp_path / "net.onnx"))
    assert not {"Add", "Clip", "Mul"} & {node.op_type for node in written.graph.node}
    session = onnxruntime.InferenceSession(written.SerializeToString())
    got = session.run(None, {session.get_inputs()[0].name: images.numpy()})[0]
    with torch.no_grad():
        np.testing.assert_allclose(got, model(images).numpy(), atol=0.01)
