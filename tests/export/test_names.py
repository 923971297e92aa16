"""The names of inputs and outputs, from a network or an ONNX file to its exported files."""

from __future__ import annotations

from collections import namedtuple
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from compress.graph.interface import Names, names_of
from compress.graph.trace import trace
from compress.sources.onnx_import import load_onnx
from export.format import Job, exporter
from export.onnx.exporter import export_onnx
from runtimes.runtime import load

AWKWARD = Names(("class", "images/0:rgb"), ("output", "self", "a b"))
"""A keyword of Python, separators of paths, a name that exporters use themselves, a space."""


def file_with(names: Names, path: Path) -> Path:
    """An ONNX file of two inputs (N, 4) with three results: their product, its ReLU, and the first input itself."""
    first, second = names.inputs
    floats = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 4]) for name in names.inputs]
    given = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 4]) for name in names.outputs]
    weight = numpy_helper.from_array(np.eye(4, dtype=np.float32)[::-1].copy(), "output_0")
    nodes = [
        helper.make_node("MatMul", [first, "output_0"], ["product"]),
        helper.make_node("Add", ["product", second], [names.outputs[0]]),
        helper.make_node("Relu", [names.outputs[0]], [names.outputs[1]]),
        helper.make_node("Identity", [first], [names.outputs[2]]),
    ]
    graph = helper.make_graph(nodes, "g", floats, given, [weight])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), str(path))
    return path


def test_names_of_an_onnx_file_survive(tmp_path: Path) -> None:
    network = load_onnx(file_with(AWKWARD, tmp_path / "source.onnx"))
    inputs = (torch.randn(2, 4), torch.randn(2, 4))
    written = export_onnx(network, inputs, tmp_path / "made.onnx")
    assert (written.inputs, written.outputs) == (AWKWARD.inputs, AWKWARD.outputs)
    feed = dict(zip(AWKWARD.inputs, (x.numpy() for x in inputs), strict=True))
    found, wanted = (load(file).run(feed) for file in (written.file, tmp_path / "source.onnx"))
    for name in AWKWARD.outputs:
        np.testing.assert_allclose(found[name], wanted[name], rtol=1e-5, atol=1e-6)


def test_they_survive_a_second_time(tmp_path: Path) -> None:
    inputs = (torch.randn(2, 4), torch.randn(2, 4))
    first = export_onnx(load_onnx(file_with(AWKWARD, tmp_path / "a.onnx")), inputs, tmp_path / "b.onnx")
    second = export_onnx(load_onnx(first.file), inputs, tmp_path / "c.onnx")
    assert (second.inputs, second.outputs) == (AWKWARD.inputs, AWKWARD.outputs)


class Several(nn.Module):
    """Returns what ``form`` makes of a product, its double, the product again and an input."""

    def __init__(self, form: object) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)
        self.form = form

    def forward(self, input: Tensor, output: Tensor) -> object:  # noqa: A002 - what users call theirs
        y = self.fc(input)
        return self.form(y, 2 * y + output, y, input)  # type: ignore[operator]


Boxes = namedtuple("Boxes", ("logits", "double", "again", "passed"))
FORMS = {
    "dict": (lambda a, b, c, d: {"logits": a, "two words": b, "again": c, "input": d}),
    "nested": (lambda a, b, c, d: {"heads": (a, b), "again": {"x": c, 7: d}}),
    "named tuple": Boxes,
    "tuple": (lambda *values: values),
    "single": (lambda a, b, c, d: b),
}
NAMED = {
    "dict": ("logits", "two words", "again", "input_2"),
    "nested": ("heads_0", "heads_1", "again_x", "again_7"),
    "named tuple": ("logits", "double", "again", "passed"),
    "tuple": ("output_0", "output_1", "output_2", "output_3"),
    "single": ("output_2",),
}


@pytest.mark.parametrize("form", FORMS)
def test_results_are_called_by_their_keys(form: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network, inputs = Several(FORMS[form]).eval(), (torch.randn(2, 4), torch.randn(2, 4))
    assert names_of(trace(network, inputs)) == Names(("input", "output"), NAMED[form])
    written = export_onnx(network, inputs, tmp_path / "net.onnx")
    assert (written.inputs, written.outputs) == (("input", "output"), NAMED[form])
    found = load(written.file).run({"input": inputs[0].numpy(), "output": inputs[1].numpy()})
    y = network.fc(inputs[0])
    wanted = {"logits": y, "double": 2 * y + inputs[1], "again": y, "passed": inputs[0]}
    values = [wanted["double"]] if form == "single" else wanted.values()
    for name, value in zip(NAMED[form], values, strict=True):
        np.testing.assert_allclose(found[name], value.detach().numpy(), rtol=1e-5, atol=1e-6)


def convolution(names: Names, path: Path) -> Path:
    """An ONNX file of one convolution and its ReLU."""
    first, last = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3, 8, 8]) for name in (*names.inputs, *names.outputs)
    )
    weight = numpy_helper.from_array(np.random.default_rng(0).normal(size=(3, 3, 3, 3)).astype(np.float32), "w")
    nodes = [
        helper.make_node("Conv", [first.name, "w"], ["product"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["product"], [last.name]),
    ]
    graph = helper.make_graph(nodes, "g", [first], [last], [weight])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), str(path))
    return path


@pytest.mark.parametrize(
    ("format_name", "package", "suffix"),
    [
        ("litert", "litert_torch", ".tflite"),
        ("openvino", "openvino", ".xml"),
        ("ncnn", "pnnx", ".ncnn.param"),
        ("coreml", "coremltools", ".mlpackage"),
    ],
)
def test_every_format_has_the_names_of_the_file(format_name: str, package: str, suffix: str, tmp_path: Path) -> None:
    pytest.importorskip(package)
    # "1" is what ncnn's converter calls values inside, "output" what other networks' results are called.
    names = Names(("class",), ("1",) if format_name != "coreml" else ("output",))
    network, x = load_onnx(convolution(names, tmp_path / "source.onnx")), torch.randn(1, 3, 8, 8)
    written = exporter(format_name).export(Job(network, (x,), format_name), tmp_path / f"net{suffix}")
    assert Names(written.inputs, written.outputs) == names
    if format_name == "coreml":  # runs on Apple's systems alone
        import coremltools

        told = coremltools.utils.load_spec(str(written.file)).description
        assert [feature.name for feature in (*told.input, *told.output)] == ["class", "output"]
        return
    engine = load(written.file)
    assert [spec.name for spec in (*engine.inputs, *engine.outputs)] == ["class", "1"]
    np.testing.assert_allclose(engine.run({"class": x.numpy()})["1"], network(x).detach().numpy(), atol=1e-4)


@pytest.mark.parametrize(
    ("format_name", "package", "name"),
    [("ncnn", "pnnx", "an image"), ("ncnn", "pnnx", "画" * 86), ("coreml", "coremltools", "an image")],
)
def test_names_that_a_format_cannot_have_are_told(format_name: str, package: str, name: str, tmp_path: Path) -> None:
    pytest.importorskip(package)
    network = load_onnx(convolution(Names((name,), ("out",)), tmp_path / "source.onnx"))
    suffix = {"ncnn": ".ncnn.param", "coreml": ".mlpackage"}[format_name]
    job = Job(network, (torch.randn(1, 3, 8, 8),), format_name)
    written = exporter(format_name).export(job, tmp_path / f"net{suffix}")
    assert name not in written.inputs
    assert any(name[:20] in note for note in written.notes)
