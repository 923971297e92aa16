"""Programs that torch.onnx need not trace again: the same files, and what is changed in place is read as in torch."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.nn import functional
from torch.onnx._internal.exporter._registration import ONNXRegistry

from export.onnx.conversion import program, site, torchlib
from export.onnx.edits import qdq
from export.onnx.exporter import export_onnx


class InPlace(nn.Module):
    """What convolutional networks do in place, with a channel shuffle and both ends of a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.second = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.third = nn.Conv2d(4, 4, 1)
        self.classifier = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.hardtanh_(self.first(x), 0.0, 6.0)
        x = functional.relu6(self.second(x), inplace=True).add_(x)
        left, right = x.chunk(2, dim=1)
        x = torch.cat((left, functional.hardswish(self.third(right), inplace=True)), dim=1)
        n, c, h, w = x.shape
        x = x.view(n, 2, c // 2, h, w).transpose(1, 2).contiguous().view(n, c, h, w)
        x = functional.adaptive_avg_pool2d(functional.relu_(x.mul(2.0)), 1)
        return self.classifier(functional.dropout(torch.flatten(x, 1), training=self.training))


class _Changing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)


class ReadAfterwards(_Changing):
    """A value is read again after it was changed."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        y = x.relu_()
        return x + 2 * y


class ReadBeforeAndAfter(_Changing):
    """The sum of a value as it was, and as it is."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        before = x.mul(3.0)
        return before + x.clamp_(-0.1, 0.1)


class ChangedView(_Changing):
    """A view is changed, and what it views is read."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        y = x.view(-1, 2, 2, 16)
        functional.hardtanh_(y, -0.1, 0.1)
        return x * 2


class ReadView(_Changing):
    """A value is changed, and its view, made before, is read."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        part = x[:, 1:3]
        functional.hardtanh_(x, -0.1, 0.1)
        return part * 2


class DroppedOut(_Changing):
    """Dropout returns its input itself in evaluation, which is then changed."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        y = functional.relu_(functional.dropout(x, training=self.training))
        return x + y


class ChangedInput(_Changing):
    """The network's own input is changed."""

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x.relu_()) + x[:, :1]


def exported(model: nn.Module, inputs: tuple[Tensor, ...], path: Path) -> onnx.ModelProto:
    """The file of a network that computes in ONNX Runtime, for another batch size too, what torch computes."""
    export_onnx(model, inputs, path)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    for x in (inputs[0], torch.cat([inputs[0], -inputs[0], inputs[0] * 2])):
        got = session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]
        with torch.no_grad():
            np.testing.assert_allclose(got, model(x.clone()).numpy(), rtol=1e-4, atol=1e-5)
    return onnx.load(str(path))


def seeded(kind: type[nn.Module], size: int = 4) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """A network in evaluation mode and an input (1, 3, size, size), the same each time."""
    torch.manual_seed(0)
    return kind().eval(), (torch.randn(1, 3, size, size),)


def contents(model: onnx.ModelProto) -> tuple[list[str], Counter[tuple[int, tuple[int, ...], bytes]]]:
    """The operations in order, and the stored tensors."""
    stored = Counter((t.data_type, tuple(t.dims), t.raw_data) for t in model.graph.initializer)
    return [node.op_type for node in model.graph.node], stored


def test_is_converted_as_it_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a second trace, and to the same file that it gives."""
    model, inputs = seeded(InPlace, 8)
    with monkeypatch.context() as patch:
        patch.setattr(program, "_STANDING", frozenset())
        again = exported(model, inputs, tmp_path / "again.onnx")

    def refuse(*_: object, **__: object) -> ExportedProgram:
        raise AssertionError("traced again")

    monkeypatch.setattr(ExportedProgram, "run_decompositions", refuse)
    at_once = exported(model, inputs, tmp_path / "at_once.onnx")
    assert contents(at_once) == contents(again)


def test_translations_are_read_once_and_shared_with_no_other_export(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The marks of our own export are in no registry that torch.onnx makes for someone else."""
    model, inputs = seeded(InPlace, 8)
    first = exported(model, inputs, tmp_path / "first.onnx")
    reads = torchlib._read.cache_info().misses
    assert exported(model, inputs, tmp_path / "second.onnx") == first
    assert torchlib._read.cache_info().misses == reads
    with monkeypatch.context() as patch:  # another version of torch may have none of what is kept
        patch.setattr(torchlib, "_attribute", lambda module, name: None)
        assert exported(model, inputs, tmp_path / "third.onnx") == first
    ours = site.OPERATION.name()
    with torchlib.read_once():
        kept = ONNXRegistry.from_torchlib(opset_version=18)
    plain = ONNXRegistry.from_torchlib(opset_version=18)
    assert ours not in kept.functions and kept.functions.keys() == plain.functions.keys()
    assert {name: len(found) for name, found in kept.functions.items()} == {
        name: len(found) for name, found in plain.functions.items()
    }


def test_no_translation_is_parsed_to_be_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """The source of each of hundreds is parsed when it is asked for alone, and then says what it always did."""
    from onnxscript.values import TracedOnnxFunction

    whole = TracedOnnxFunction.function_ir
    parsed: list[str] = []

    def parse(function: TracedOnnxFunction) -> object:
        parsed.append(function.name)
        return whole.__get__(function)

    monkeypatch.setattr(TracedOnnxFunction, "function_ir", property(parse))
    torchlib._read.cache_clear()
    with torchlib.read_once():
        kept = ONNXRegistry.from_torchlib(opset_version=18)
    assert not parsed
    assert len(kept.functions) > 100
    translations = (each.onnx_function for found in kept.functions.values() for each in found)
    function = next(each for each in translations if isinstance(each, TracedOnnxFunction))
    outline = torchlib._Outline(function, whole)  # type: ignore[arg-type]
    assert outline.domain == whole.__get__(function).domain
    assert [value.name for value in outline.inputs] == [value.name for value in whole.__get__(function).inputs]


CHANGING = (ReadAfterwards, ReadBeforeAndAfter, ChangedView, ReadView, DroppedOut, ChangedInput)


@pytest.mark.parametrize("kind", CHANGING, ids=[kind.__name__ for kind in CHANGING])
def test_changes_in_place_are_seen_where_torch_sees_them(kind: type[nn.Module], tmp_path: Path) -> None:
    """Whether the operation could be written otherwise or not."""
    if kind is ChangedInput:
        model, inputs = seeded(kind)
        path = tmp_path / "net.onnx"
        expected = model(inputs[0].clone()).detach().numpy()
        export_onnx(model, (inputs[0].clone(),), path)
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        got = session.run([session.get_outputs()[-1].name], {session.get_inputs()[0].name: inputs[0].numpy()})[0]
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)
    else:
        exported(*seeded(kind), tmp_path / "net.onnx")


def test_a_shape_does_not_take_the_name_of_a_value() -> None:
    """What the converter stores as "x/shape" is no parameter, and "x" is a value."""
    nodes = [helper.make_node("Relu", ["input"], ["x"]), helper.make_node("Reshape", ["x", "x/shape"], ["y"])]
    stored = [
        helper.make_tensor("x/shape", TensorProto.INT64, [2], [-1, 4]),
        helper.make_tensor("conv.weight/site", TensorProto.INT8, [1], [3]),
    ]
    graph = helper.make_graph(nodes, "network", [], [], stored)
    qdq._restore_names(graph)
    assert [tensor.name for tensor in graph.initializer] == ["x/shape", "conv.weight"]
