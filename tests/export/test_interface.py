"""What goes in and out of an ONNX file: the order of dimensions, the type of elements, sizes, labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from compress.errors import InvalidInput
from compress.quantize import Quantize, simulate
from export.facts import format_of, formats
from export.format import Job, exporter
from export.onnx.exporter import export
from runtimes.bound import Binding, call
from runtimes.runtime import load
from tests.support.small_networks import Joined, context_on, made


class Whole(nn.Module):
    """Nothing but integers from end to end: (N, 3, H, W) -> (N, 4)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.conv(x).relu().mean((2, 3)))


@pytest.fixture(scope="module")
def job() -> Job:
    torch.manual_seed(0)
    model = Whole().eval()
    context = context_on((torch.randn(32, 3, 8, 8),))
    result = Quantize(quantize_outputs=True).apply(model, context)
    return Job(result.model, context.example_inputs, "ort-x86", result.encodings)


def expected(job: Job, x: Tensor) -> np.ndarray:
    with torch.no_grad():
        return simulate(job.model, job.encodings, job.example_inputs, target=job.target)(x).numpy()


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize(("target", "interface"), [("ort-x86", "uint8"), ("ort-arm", "int8"), ("ort-x86", "float32")])
def test_every_interface_gives_the_same(job: Job, tmp_path: Path, target: Any, interface: Any, layout: Any) -> None:
    asked = Job(job.model, job.example_inputs, target, job.encodings, interface=interface, layout=layout)
    written = export(asked, tmp_path / "net.onnx")
    runtime = load(written.file)
    (taken,), (given,) = runtime.inputs, runtime.outputs
    assert taken.dtype == interface and (taken.scale is not None) == (interface != "float32")
    assert given.dtype == interface and not written.notes
    assert taken.shape[1:] == ((3, 8, 8) if layout == "nchw" else (8, 8, 3))
    x = torch.randn(20, 3, 8, 8)
    (found,) = call(runtime, Binding(written.inputs, written.outputs, layout), [x.numpy()])
    np.testing.assert_allclose(found, expected(asked, x), atol=0.05)
    ops = {node.op_type for node in onnx.load(str(written.file)).graph.node}
    assert ("QuantizeLinear" in ops) or interface != "float32"


def test_results_that_are_not_rounded_stay_floats(job: Job, tmp_path: Path) -> None:
    result = Quantize().apply(job.model, context_on((torch.randn(32, 3, 8, 8),)))
    assert len(result.encodings) == len(job.encodings) - 1
    asked = Job(result.model, job.example_inputs, "ort-x86", result.encodings, interface="uint8")
    written = export(asked, tmp_path / "net.onnx")
    runtime = load(written.file)
    assert runtime.inputs[0].dtype == "uint8" and runtime.outputs[0].dtype == "float32"
    assert "stays float32" in written.notes[0]


def test_other_integers_than_the_target_has_are_refused(job: Job, tmp_path: Path) -> None:
    asked = Job(job.model, job.example_inputs, "ort-x86", job.encodings, interface="int8")
    with pytest.raises(InvalidInput, match="is in uint8, not int8; choose another --interface"):
        export(asked, tmp_path / "net.onnx")
    plain = Job(job.model, job.example_inputs, "ort-x86", interface="uint8")
    with pytest.raises(InvalidInput, match="is not quantized first; leave --interface out"):
        export(plain, tmp_path / "net.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("quantized", [False, True])
def test_images_of_any_size(job: Job, tmp_path: Path, quantized: bool) -> None:
    encodings = job.encodings if quantized else {}
    asked = Job(job.model, job.example_inputs, "ort-x86", encodings, dynamic_size=True)
    runtime = load(export(asked, tmp_path / "net.onnx").file)
    assert runtime.inputs[0].shape == (None, 3, None, None)
    x = torch.randn(2, 3, 13, 9)
    (found,) = call(runtime, Binding(), [x.numpy()])
    with torch.no_grad():
        want = expected(job, x) if quantized else job.model(x).numpy()
    np.testing.assert_allclose(found, want, atol=0.05 if quantized else 1e-4)


def test_a_network_that_fixes_the_size_is_refused(tmp_path: Path) -> None:
    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(3 * 8 * 8, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(x.flatten(1))

    with pytest.raises(InvalidInput, match="fixes the size of its images"):
        export(Job(Fixed(), (torch.zeros(1, 3, 8, 8),), "ort-x86", dynamic_size=True), tmp_path / "net.onnx")


def test_labels_are_in_the_file(tmp_path: Path) -> None:
    model, inputs, _ = made(Joined)
    written = export(Job(model, inputs, "ort-x86", labels=("cat", "dog")), tmp_path / "net.onnx")
    told = {entry.key: entry.value for entry in onnx.load(str(written.file)).metadata_props}
    assert told["labels"] == "cat\ndog"


def test_every_format_tells_what_it_is() -> None:
    known = formats()
    assert {"onnx", "litert", "executorch", "openvino", "ncnn", "coreml", "tensorrt"} <= set(known)
    assert len({each.suffix for each in known.values()}) == len(known)
    assert format_of("litert").name == "litert" and format_of("tensorrt").name == "onnx"
    with pytest.raises(InvalidInput, match="format 'tflite': expected one of"):
        exporter("tflite")
    with pytest.raises(InvalidInput, match="target 'tpu'"):
        format_of("tpu")
