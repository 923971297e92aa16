"""Values that float16 does not hold, and the float16 file that a file for TensorRT is timed beside."""

from __future__ import annotations

from pathlib import Path

import onnx
import torch
from torch import Tensor, nn

from compress import deploy
from compress.quantize import Quantize
from compress.sources.load import Network
from compress.sources.specification import Source
from export.format import Job
from export.onnx.exporter import export
from tests.support.small_networks import context_on


class Squared(nn.Module):
    """A linear layer whose squares are far larger than its values, as in a norm written by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.wide = nn.Linear(8, 8, bias=False)
        self.last = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.wide(x)
        return self.last(y / (y * y).mean(1, keepdim=True).sqrt())


def in_half(scale: float, folder: Path, target: str = "tensorrt") -> tuple[str, ...]:
    torch.manual_seed(0)
    model, inputs = Squared().eval(), (torch.ones(2, 8),)
    model.wide.weight.data.fill_(scale)
    result = Quantize(scheme="fp16").apply(model, context_on(inputs))
    return export(Job(result.model, inputs, target, dict(result.encodings)), folder / "net.onnx").notes


def test_values_beyond_float16_are_told_with_their_layer(tmp_path: Path) -> None:
    assert not [note for note in in_half(1.0, tmp_path) if "float16:" in note]
    (note,) = [note for note in in_half(100.0, tmp_path) if "float16:" in note]
    assert "2 tensors go beyond 65504 on the example inputs" in note and "(6.4e+05)" in note
    assert not [note for note in in_half(100.0, tmp_path, "ort-x86") if "beyond" in note], "stored in float16 only"


def test_a_network_in_integers_is_timed_beside_float16_for_tensorrt(tmp_path: Path) -> None:
    model, inputs = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).eval(), (torch.randn(4, 3, 8, 8),)
    network = Network(model, Source("file", "net.py", "build"), example_inputs=inputs)
    result = Quantize().apply(model, context_on(inputs))
    quantized = Network(
        result.model, Source("file", "net.py", "build"), encodings=dict(result.encodings), example_inputs=inputs
    )
    ((scheme, half),) = deploy.beside(quantized, "tensorrt")
    assert scheme == "fp16" and {encoding.kind for encoding in half.encodings.values()} == {"float16"}
    deploy.export(half, "half", tmp_path / "half.onnx", deploy.Wanted("onnx", "tensorrt"))
    graph = onnx.load(tmp_path / "half.onnx").graph
    assert {tensor.data_type for tensor in graph.initializer if len(tensor.dims) == 4} == {onnx.TensorProto.FLOAT16}
    assert deploy.beside(network, "tensorrt") == [] and deploy.beside(quantized, "ort-x86") == []
