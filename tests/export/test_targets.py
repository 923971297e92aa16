"""Files for each target and in each scheme: what they hold, what ONNX Runtime makes of them, and what they compute."""

from __future__ import annotations

from collections import Counter
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from compress import Context, Result
from compress.errors import InvalidInput
from compress.quantize import Quantize, simulate
from compress.quantize.scheme import SCHEMES, SchemeName
from export.format import Exported
from export.onnx.exporter import TARGETS, export_onnx
from export.rules import check
from tests.support.small_networks import Joined, context_on, file_outputs, made, snr_db

WRITTEN = TARGETS


class Layers(nn.Module):
    """Three linear layers, one with more features than a block and one with a part of one: (N, 72) -> (N, 5)."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(72, 40)
        self.second = nn.Linear(40, 24)
        self.third = nn.Linear(24, 5, bias=False)

    def forward(self, vector: Tensor) -> Tensor:
        y: Tensor = self.third(nn.functional.relu6(self.second(torch.relu(self.first(vector)))))
        return y


@cache
def quantized(kind: type[nn.Module], scheme: SchemeName = "int8") -> tuple[Result, tuple[Tensor, ...], Context]:
    if kind is not Layers:
        model, inputs, context = made(kind)
    else:
        torch.manual_seed(0)
        model, inputs = Layers().eval(), (torch.randn(40, 72),)
        context = context_on(inputs)
    return Quantize(scheme=scheme).apply(model, context), inputs, context


def exported(
    folder: Path, kind: type[nn.Module], scheme: SchemeName = "int8", target: str = "ort-x86"
) -> tuple[Exported, float, Counter[str]]:
    """The file, how near its outputs are to those of its simulation (dB), and the nodes that ONNX Runtime runs."""
    result, inputs, context = quantized(kind, scheme)  # type: ignore[arg-type]
    written = export_onnx(
        result.model, context.example_inputs, folder / "net.onnx", encodings=result.encodings, target=target
    )
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    onnxruntime.InferenceSession(str(written.file), options, providers=["CPUExecutionProvider"])
    simulated = simulate(result.model, result.encodings, context.example_inputs, target=target)
    with torch.no_grad():
        agreement = snr_db(simulated(*inputs), file_outputs(written.file, inputs, target)[0])
    optimized = onnx.load(str(folder / "optimized.onnx"))
    return written, agreement, Counter(node.op_type for node in optimized.graph.node)


@pytest.mark.parametrize("target", WRITTEN)
def test_int8_files_compute_what_their_simulation_does(target: str, tmp_path: Path) -> None:
    written, agreement, _ = exported(tmp_path, Joined, target=target)
    # OpenVINO adds up before it rounds, which is simulated; ONNX Runtime, which runs the file here, rounds before.
    assert agreement > (45 if target.startswith("openvino") else 50)
    assert not check(written.file, target)
    types = {t.name: t.data_type for t in onnx.load(str(written.file)).graph.initializer}
    assert ("uint8" in written.contents.bytes_by_dtype) == (  # type: ignore[union-attr]
        target in ("ort-x86", "ort-avx2", "openvino", "openvino-avx2")
    )
    if target == "tensorrt":
        assert types["stem.bias"] == onnx.TensorProto.FLOAT
    weights = onnx.numpy_helper.to_array(
        next(t for t in onnx.load(str(written.file)).graph.initializer if t.name == "right.weight")
    )
    assert np.abs(weights).max() == (63 if target.endswith("avx2") else 127)


@pytest.mark.parametrize("scheme", ["w4a8", "w8a16"])
def test_schemes_that_tensorrt_cannot_run_are_refused(scheme: SchemeName, tmp_path: Path) -> None:
    result, _, context = quantized(Layers, scheme)
    with pytest.raises(InvalidInput, match="target tensorrt: its engine"):
        export_onnx(
            result.model, context.example_inputs, tmp_path / "x.onnx", encodings=result.encodings, target="tensorrt"
        )


CONVOLUTIONS = 3 * 8 * 9 + 8 * 9 + 2 * 8 * 4 - 8 * 4 + 8 * 4 * 9  # stem, depthwise, left, right
MATRIX = 8 * 5


@pytest.mark.parametrize(
    "scheme", [name for name, scheme in SCHEMES.items() if name != "int8" and scheme.kind != "levels"]
)
def test_convolutions_in_every_scheme(scheme: SchemeName, tmp_path: Path) -> None:
    written, agreement, nodes = exported(tmp_path, Joined, scheme)
    weights = CONVOLUTIONS + MATRIX
    stored = written.contents.bytes_by_dtype  # type: ignore[union-attr]
    held = {"w4a8": "int4", "w8a16": "int8", "w8": "int8", "w4": "int4", "fp16": "float16", "bf16": "bfloat16"}[scheme]
    size = {"int4": weights // 2, "int8": weights}.get(held, weights * 2)
    assert size <= stored[held] <= size + 30, "each weight once, and zero points"
    assert stored["float"] <= 4 * (2 * 29 + 12), "scales and biases"
    assert any(scheme in note for note in written.notes)
    assert agreement > (45 if scheme in ("w8", "w4") else 60)
    if scheme == "w4a8":
        assert nodes["QLinearConv"] == 4 and nodes["QGemm"] == 1, nodes
        assert not {"Cast", "DequantizeLinear", "Conv"} & set(nodes), "unpacked at load, and run as int8"
    elif scheme == "w8a16":
        assert nodes["Conv"] == 4 and not nodes["QLinearConv"], "there is no product of 16 bits"
    else:
        assert nodes["Conv"] == 4 and not {"Cast", "Mul", "DequantizeLinear"} & set(nodes), "restored at load"
        assert nodes["MatMulNBits"] == (scheme in ("w8", "w4"))
    assert not [v for v in check(written.file, "ort-x86") if v.effect != "slow"]


@pytest.mark.parametrize("scheme", ["w4a8", "w8", "w4", "fp16"])
def test_linear_layers_in_every_scheme(scheme: SchemeName, tmp_path: Path) -> None:
    written, agreement, nodes = exported(tmp_path, Layers, scheme)
    weights = 72 * 40 + 40 * 24 + 24 * 5
    size = {"w4a8": weights // 2, "w8": weights, "w4": weights // 2, "fp16": weights * 2}[scheme]
    stored = written.contents.bytes_by_dtype  # type: ignore[union-attr]
    assert stored[{"w8": "int8", "fp16": "float16"}.get(scheme, "int4")] == size
    assert agreement > (40 if scheme in ("w8", "w4") else 60)
    if scheme in ("w8", "w4"):
        assert nodes["MatMulNBits"] == 3, "multiplied by their integers; clipping does not come between"
        assert not nodes["DequantizeLinear"]
    if scheme == "w4":
        blocks = [t for t in onnx.load(str(written.file)).graph.initializer if list(t.dims) == [3, 40]]
        assert len(blocks) == 1, "72 features are two blocks of 32, and one of 8"
    assert written.opset == (21 if scheme in ("w4a8", "w4") else 18)


def test_16_bit_images_load(tmp_path: Path) -> None:
    """What makes 8-bit convolutions of 3 channels fast (a Pad of integers) exists for 8 bits alone."""
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU()).eval(), torch.randn(2, 3, 8, 8)
    result = Quantize(scheme="w8a16").apply(model, context_on((x,)))
    written = export_onnx(result.model, (x,), tmp_path / "net.onnx", encodings=result.encodings)
    assert "Pad" not in written.contents.operators  # type: ignore[union-attr]
    onnxruntime.InferenceSession(str(written.file), providers=["CPUExecutionProvider"])


def test_few_bits_need_a_new_opset(tmp_path: Path) -> None:
    result, _, context = quantized(Layers, "w4")
    with pytest.raises(InvalidInput, match="opset 20 has no 4-bit and 16-bit integers; give 21 or newer"):
        export_onnx(result.model, context.example_inputs, tmp_path / "x.onnx", encodings=result.encodings, opset=20)


@pytest.mark.parametrize("kind", [Joined, Layers])
def test_half_precision_for_tensorrt_is_the_whole_graph(kind: type[nn.Module], tmp_path: Path) -> None:
    written, agreement, _ = exported(tmp_path, kind, "fp16", "tensorrt")
    assert agreement > 50
    assert set(written.contents.bytes_by_dtype) <= {"float16", "int64"}  # type: ignore[union-attr]
    file = onnx.load(str(written.file))
    types = {v.type.tensor_type.elem_type for v in (*file.graph.input, *file.graph.output)}
    assert types == {onnx.TensorProto.FLOAT}, "the interface stays float32"
    assert not check(written.file, "tensorrt")


@pytest.mark.parametrize("scheme", ["w8", "w4"])
def test_weights_alone_for_tensorrt_are_dequantized(scheme: SchemeName, tmp_path: Path) -> None:
    written, agreement, _ = exported(tmp_path, Joined, scheme, "tensorrt")
    assert agreement > 45
    assert written.contents.operators["DequantizeLinear"] == 5  # type: ignore[union-attr]
    assert "Cast" not in written.contents.operators  # type: ignore[union-attr]
    broken = {violation.rule for violation in check(written.file, "tensorrt")}
    assert broken == ({"last dimension of int4"} if scheme == "w4" else set()), "its kernels have 3 and 5 columns"
