"""BRECQ: where blocks are, what they yield alone, and what learning them together wins."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

import models
from compress import Context
from compress.errors import InvalidInput
from compress.graph.trace import trace
from compress.integers.grids import scale_for
from compress.integers.placement import placement_of
from compress.integers.plan import plan_of
from compress.integers.target import TARGETS
from compress.quantize import Encoding, Quantize, simulate
from compress.quantize.recover.adaround import LearnedRounding
from compress.quantize.recover.brecq import brecq, find_blocks
from compress.quantize.recover.shared.paired_execution import Lockstep, Rounded
from tests.support.small_classifier import SmallNet
from tests.support.small_networks import SHAPES, Joined, TwoInputs, context_on, made

QUICK = LearnedRounding(iterations=60, batch=16)


def blocks_of(model: nn.Module, inputs: tuple[torch.Tensor, ...]) -> list[tuple[str, ...]]:
    graph = trace(model, inputs, dynamic_batch=True)
    return [tuple(p.weight for p in block.products) for block in find_blocks(graph, placement_of(graph).products)]


def test_blocks_are_the_residual_blocks() -> None:
    model = models.build("resnet20", width=4).eval()
    found = blocks_of(model, (torch.randn(2, 3, 16, 16),))
    assert found[0] == ("conv1.weight",)
    assert found[1] == ("layer1.0.conv1.weight", "layer1.0.conv2.weight")
    assert sorted(found[4]) == ["layer2.0.conv1.weight", "layer2.0.conv2.weight", "layer2.0.shortcut.0.weight"]
    assert found[-1] == ("fc.weight",)
    assert len(found) == 11


def test_blocks_of_other_shapes() -> None:
    model, inputs, _ = made(Joined)
    assert blocks_of(model, inputs) == [
        ("stem.weight",),
        ("depthwise.weight",),
        ("left.weight", "right.weight"),
        ("classify.weight",),
    ]
    model, inputs, _ = made(TwoInputs)
    assert blocks_of(model, inputs) == [], "both inputs are needed to the end"


def quantized(kind: type[nn.Module], bits: int = 4) -> tuple[nn.Module, dict[str, Encoding], Context]:
    model, _, context = made(kind, samples=50)
    result = Quantize().apply(model, context)
    encodings = {name: replace(e, bits=bits) if e.axis == 0 else e for name, e in result.encodings.items()}
    return result.model, encodings, context


@pytest.mark.parametrize("kind", SHAPES, ids=lambda kind: kind.__name__)
def test_every_weight_is_on_its_grid(kind: type[nn.Module]) -> None:
    model, encodings, context = quantized(kind)
    config = QUICK.model_copy(update={"learn_activations": True})
    rounded = brecq(model, encodings, context, context.data.split("calibration"), config, target="ort-x86")  # type: ignore[union-attr]
    graph = trace(rounded.model, context.example_inputs, dynamic_batch=True)
    for name, grid in plan_of(graph, rounded.encodings, TARGETS["ort-x86"]).grids.items():
        weight = rounded.model.get_parameter(name).detach()
        integers = torch.from_numpy(grid.quantize(weight.numpy(), 0))
        assert torch.equal(weight, scale_for(grid, weight) * integers), name
    assert rounded.errors
    assert all(learnt <= nearest for nearest, learnt in rounded.errors.values())


def test_a_walk_yields_what_the_network_does() -> None:
    model, encodings, context = quantized(Joined, bits=8)
    split = context.data.split("calibration")  # type: ignore[union-attr]
    lockstep = Lockstep.of(model, encodings, context, split, 50, 1000.0, "ort-x86", batch=16, whole=True)
    assert [len(x) for (x,) in lockstep.batches] == [16, 16, 16], "two samples are left out"
    last = lockstep.graph.outputs[0].name
    lockstep.start([last])
    lockstep.float_walk.through(last)
    with torch.no_grad():
        expected = [model(*inputs) for inputs in lockstep.batches]
    for found, wanted in zip(lockstep.float_walk.take(last), expected, strict=True):
        torch.testing.assert_close(found, wanted)


def test_memory_bounds_the_samples() -> None:
    model, encodings, context = quantized(Joined)
    split = context.data.split("calibration")  # type: ignore[union-attr]
    # The largest moment: 8 channels of 16x16, twice, of both networks.
    lockstep = Lockstep.of(model, encodings, context, split, 64, 2 * 10 * 2 * 8 * 256 * 4 / 1e6, "ort-x86")
    assert sum(len(x) for (x,) in lockstep.batches) == 10


@pytest.mark.parametrize("fisher", [False, True])
def test_the_network_errs_less_than_with_nearest_rounding(fisher: bool) -> None:
    torch.manual_seed(0)
    model, inputs = SmallNet().eval(), torch.randn(128, 1, 8, 8)
    context = context_on((inputs,))
    result = Quantize().apply(model, context)
    encodings = {name: replace(e, bits=3) if e.axis == 0 else e for name, e in result.encodings.items()}
    config = LearnedRounding(iterations=250, batch=32, fisher=fisher)
    rounded = brecq(result.model, encodings, context, context.data.split("calibration"), config, target="ort-x86")  # type: ignore[union-attr]
    with torch.no_grad():
        reference = model(inputs)
        nearest = simulate(result.model, encodings, context.example_inputs)(inputs)
        learnt = simulate(rounded.model, rounded.encodings, context.example_inputs)(inputs)
    assert float((learnt - reference).square().mean()) < 0.7 * float((nearest - reference).square().mean())


def test_activation_scales_are_learnt_within_blocks() -> None:
    torch.manual_seed(0)
    model, inputs = SmallNet().eval(), torch.randn(64, 1, 8, 8)
    context = context_on((inputs,))
    result = Quantize().apply(model, context)
    encodings = {name: replace(e, bits=3) for name, e in result.encodings.items()}
    config = LearnedRounding(iterations=150, batch=32, learn_activations=True)
    rounded = brecq(result.model, encodings, context, context.data.split("calibration"), config, target="ort-x86")  # type: ignore[union-attr]
    changed = {name for name, e in encodings.items() if rounded.encodings[name] != e}
    graph = trace(result.model, (inputs,), dynamic_batch=True)
    edges = {name for block in find_blocks(graph, placement_of(graph).products) for name in (block.input, block.output)}
    assert changed
    assert not changed & edges, "what lies between blocks keeps its scale"


def test_fisher_draws_what_the_task_draws() -> None:
    class Image(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 1, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.relu(self.conv(x))

    context = context_on((torch.randn(16, 3, 8, 8),))
    result = Quantize().apply(Image().eval(), context)

    def learnt(context: Context) -> Rounded:
        assert context.data is not None
        config = LearnedRounding(fisher=True, iterations=20)
        split = context.data.split("calibration")
        return brecq(result.model, result.encodings, context, split, config, target="ort-x86")

    assert learnt(context).encodings.keys() == result.encodings.keys(), "an image is matched to itself"
    with pytest.raises(InvalidInput, match=r"a classifier that returns logits \(N, classes\)"):
        learnt(replace(context, task="classification"))
