"""The plan of a network's integers: files, simulation and learnt weights all have it, and nothing else derives one."""

from __future__ import annotations

import ast
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import Tensor, nn
from torch.fx import GraphModule, Node

import compress
from compress.errors import InvalidInput
from compress.integers.plan import Plan, plan
from compress.quantize import TARGETS, Quantize, simulate
from compress.quantize.train.aware_training import learnable
from export.onnx.exporter import TARGETS as ONNX_TARGETS
from export.onnx.exporter import export_onnx
from tests.support.small_networks import Joined, TwoInputs, Unfolded, context_on, made, snr_db

Array = NDArray[np.float32]
aten = torch.ops.aten


class Windows(nn.Module):
    """Averages of windows between convolutions, one of them grouped: (N, 3, 8, 8) -> (N, 4)."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.grouped = nn.Conv2d(8, 8, 3, padding=1, groups=2)
        self.classify = nn.Linear(8, 4)

    def forward(self, image: Tensor) -> Tensor:
        x = nn.functional.avg_pool2d(torch.relu(self.first(image)), 2)
        y: Tensor = self.classify(torch.relu(self.grouped(x)).mean((2, 3)))
        return y


def planned(kind: type[nn.Module], target: str, **settings: object) -> tuple[nn.Module, tuple[Tensor, ...], Plan]:
    model: nn.Module
    inputs: tuple[Tensor, ...]
    if kind is Windows:
        torch.manual_seed(0)
        model, inputs = Windows().eval(), (torch.randn(8, 3, 8, 8),)
        context = context_on(inputs)
    else:
        model, inputs, context = made(kind)
    quantize = Quantize.model_validate({"ranges": {"samples": 8}, "target": target, "revert_slower": False, **settings})
    result = quantize.apply(model, context)
    return result.model, inputs, plan(result.model, context.example_inputs, result.encodings, target)


def attribute(module: GraphModule, node: object) -> Array:
    assert isinstance(node, Node)
    value = module
    for part in str(node.target).split("."):
        value = getattr(value, part)
    assert isinstance(value, Tensor)
    return value.detach().numpy()


def simulated_integers(module: GraphModule) -> tuple[dict[str, Array], set[tuple[float, int]]]:
    """The integers of each weight, and the scales and zero points of activations, read off a simulation's own nodes."""
    weights: dict[str, Array] = {}
    values: set[tuple[float, int]] = set()
    for node in module.graph.nodes:
        if node.target is aten.fake_quantize_per_tensor_affine.default:
            values.add((float(np.float32(node.args[1])), int(node.args[2])))
        elif node.target is aten.fake_quantize_per_channel_affine.default and node.args[5] < 2**15:
            real, scale = attribute(module, node.args[0]), attribute(module, node.args[1])
            integers = np.clip(np.rint(real / scale.reshape(-1, *(1,) * (real.ndim - 1))), node.args[4], node.args[5])
            weights[str(node.args[0].target)] = integers
    return weights, values


@pytest.mark.parametrize("target", ONNX_TARGETS)
@pytest.mark.parametrize("kind", [Joined, Unfolded, Windows, TwoInputs])
def test_a_file_has_exactly_the_integers_that_were_simulated(
    kind: type[nn.Module], target: str, tmp_path: Path
) -> None:
    model, inputs, plan_of_it = planned(kind, target)
    encodings = plan_of_it.encodings
    export_onnx(model, inputs, tmp_path / "net.onnx", encodings=encodings, target=target)
    graph = onnx.load(tmp_path / "net.onnx").graph
    stored = {item.name: numpy_helper.to_array(item) for item in graph.initializer}
    weights, values = simulated_integers(simulate(model, encodings, inputs, target=target))
    assert set(weights) == set(plan_of_it.grids)
    for name, integers in weights.items():
        held = stored[name].astype(np.float32)
        assert np.array_equal(held, integers) or np.array_equal(held.T, integers), name
    written = {
        (float(stored[node.input[1]]), int(stored[node.input[2]]))
        for node in graph.node
        if node.op_type == "QuantizeLinear"
    }
    fused = {
        (x.scale, int(x.parameters.zero_point)) for name, x in plan_of_it.values.items() if name in plan_of_it.fused
    }
    assert written == values | fused


@pytest.mark.parametrize("rounding", ["adaround", "brecq"])
@pytest.mark.parametrize("target", sorted(TARGETS))
def test_learnt_weights_lie_on_the_grid_of_the_target_that_is_asked_for(target: str, rounding: str) -> None:
    model, _, learnt = planned(Windows, target, recover=[{rounding: 4}])
    _, _, nearest = planned(Windows, target)
    assert set(learnt.grids) == {"first.weight", "grouped.weight", "classify.weight"}
    for name, grid in learnt.grids.items():
        weight = model.get_parameter(name).detach().numpy()
        integers = grid.quantize(weight, 0)
        np.testing.assert_array_equal(grid.dequantize(integers, 0), weight, err_msg=name)
        assert np.abs(integers).max() <= (63 if target.endswith("avx2") else 127)
        np.testing.assert_array_equal(grid.scale, nearest.grids[name].scale, err_msg=name)
    if target == "ncnn":  # one scale for each of its two groups
        assert len(np.unique(learnt.grids["grouped.weight"].scale)) == 2


def test_rounding_for_a_target_leaves_alone_what_that_computes_in_float() -> None:
    model, _, learnt = planned(Joined, "ncnn", recover=[{"adaround": 2}])
    before, _, _ = planned(Joined, "ncnn")
    assert "depthwise.weight" not in learnt.grids
    assert torch.equal(model.get_parameter("depthwise.weight"), before.get_parameter("depthwise.weight"))
    assert not torch.equal(model.get_parameter("stem.weight"), before.get_parameter("stem.weight"))


@pytest.mark.parametrize("target", sorted(TARGETS))
@pytest.mark.parametrize("kind", [Joined, Windows])
def test_trained_scales_are_those_that_the_target_deploys(kind: type[nn.Module], target: str) -> None:
    model, inputs, start = planned(kind, target)
    training = learnable(model, start.encodings, inputs, target=target)
    with torch.no_grad():
        expected = simulate(model, start.encodings, inputs, target=target)(*inputs)
        assert snr_db(expected, training.module(*inputs)) > 45, "but for biases, which 32 bits hold"
        generator = np.random.default_rng(0)
        for quantizer in (*training.weights.values(), *training.activations.values()):
            for parameter in quantizer.parameters():
                if parameter.requires_grad:
                    parameter.mul_(float(generator.uniform(0.5, 2)))
    done = plan(model, inputs, training.encodings(), target)
    for name, weight in training.weights.items():
        # An integer bias may raise a scale further.
        assert np.all(done.grids[name].scale >= weight.learnt().scale), name
    deployed = {name: x.parameters for name, x in done.values.items()}
    deployed |= {each.layer.read: each.read.parameters for each in done.layers if each.read is not None}
    for name, at in training.groups.items():
        learnt = training.activations[at].learnt()
        assert deployed[name].scale == learnt.scale and deployed[name].zero_point == learnt.zero_point, name


def test_a_plan_tells_what_computes_in_integers_and_why_the_rest_does_not() -> None:
    _, _, on_x86 = planned(Joined, "ort-x86")
    assert [each.layer.layer for each in on_x86.layers if each.read is not None] == [
        *("stem", "depthwise", "left", "right", "classify"),
    ]
    assert {"add", "cat"} <= on_x86.operations
    _, _, on_ncnn = planned(Joined, "ncnn")
    assert on_ncnn.values == {} and on_ncnn.operations == frozenset()
    told = {skip.layer: skip.reason for skip in on_ncnn.floats}
    model, _, context = made(Joined)
    stage = Quantize(ranges={"samples": 8}, target="ncnn").apply(model, context)
    assert [skip.layer for skip in stage.skipped if "faster so in ncnn" in skip.reason] == ["depthwise"]
    assert told["depthwise"] == "kept in float: depthwise convolutions are faster so in ncnn"
    _, _, alone = planned(Joined, "ort-x86", scheme="w8")
    reasons = {skip.layer: skip.reason for skip in alone.floats}
    assert reasons["stem"] == "kept in float: what it reads is; its weight is stored in int8"
    _, _, excluded = planned(Joined, "ort-x86", exclude=("left",))
    assert {skip.layer: skip.reason for skip in excluded.floats}["left"] == (
        "kept in float: it was left so by quantization"
    )


def test_refusals() -> None:
    model, inputs, made_for = planned(Joined, "ort-x86", scheme="w4a8")
    with pytest.raises(InvalidInput, match="expected one of"):
        plan(model, inputs, made_for.encodings, "ort")
    with pytest.raises(InvalidInput, match="does not multiply 4-bit weights"):
        plan(model, inputs, made_for.encodings, "tensorrt").require_products()
    with pytest.raises(InvalidInput, match="is no tensor of this network"):
        plan(model, inputs, {"other": next(iter(made_for.encodings.values()))}, "ort-x86")


def callers(*names: str) -> set[str]:
    """The files of compress and export that call one of these functions or methods, but those of compress/integers."""
    root = Path(compress.__file__).parent
    found = set()
    for file in (*root.rglob("*.py"), *(root.parent / "export").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            called = node.func if isinstance(node, ast.Call) else None
            name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
            if name in names:
                found.add(file.relative_to(root.parent).as_posix())
    return {file for file in found if not file.startswith("compress/integers/")}


def test_integers_are_decided_in_one_place() -> None:
    assert callers("weight_parameters", "activation_parameters", "bias_parameters") == set()
    assert callers("pools_in_one_scale", "integers_of_levels", "require_products") <= {
        *("export/coreml.py", "export/executorch/exporter.py", "export/ncnn/exporter.py", "export/onnx/exporter.py"),
    }
    # What can be in integers, before there are encodings, is asked by what makes these.
    assert callers("placement_of") == {"compress/quantize/train/few_levels.py", "compress/quantize/state.py"}


def test_no_simulation_is_in_the_integers_of_a_target_that_nobody_asked_for() -> None:
    root = Path(compress.__file__).parent
    calls = [
        (file.name, node)
        for file in root.rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "simulate"
    ]
    assert len(calls) > 2
    assert [name for name, node in calls if all(keyword.arg != "target" for keyword in node.keywords)] == []
