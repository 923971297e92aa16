"""AdaRound: rows against the layers themselves, roundings against a search over all, and what comes out in the file."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from compress import Context
from compress.errors import InvalidInput
from compress.graph.trace import trace
from compress.integers.encoding import IntegerParameters
from compress.integers.grids import activation_encoding, scale_for
from compress.integers.placement import placement_of
from compress.integers.plan import plan_of
from compress.integers.target import TARGETS
from compress.quantize import Encoding, Quantize, simulate
from compress.quantize.recover.adaround import LearnedRounding, Rounding, adaround
from compress.quantize.recover.shared.sampled_rows import sampled_rows
from export.onnx.exporter import export_onnx
from tests.support.small_networks import SHAPES, Joined, Tokens, context_on, made

QUICK = LearnedRounding(iterations=60, batch=64)

LAYERS = {
    "linear": (nn.Linear(5, 4), (3, 5)),
    "linear on tokens": (nn.Linear(5, 4), (3, 6, 5)),
    "conv": (nn.Conv2d(3, 4, 3, padding=1, stride=2), (2, 3, 9, 8)),
    "dilated": (nn.Conv2d(3, 4, (3, 2), padding=(2, 1), dilation=2), (2, 3, 9, 8)),
    "grouped": (nn.Conv2d(6, 4, 3, groups=2), (2, 6, 7, 7)),
    "depthwise": (nn.Conv2d(4, 4, 3, padding=1, groups=4, bias=False), (2, 4, 7, 7)),
    "same": (nn.Conv2d(3, 4, 4, padding="same"), (2, 3, 7, 7)),
    "conv1d": (nn.Conv1d(4, 6, 5, padding=2, stride=2, groups=2), (3, 4, 12)),
}


@pytest.mark.parametrize("kind", LAYERS)
def test_rows_times_weight_are_the_layers_outputs(kind: str) -> None:
    torch.manual_seed(0)
    layer, shape = LAYERS[kind]
    x = torch.randn(shape)
    graph = trace(layer.eval(), (x,))
    (product,) = placement_of(graph).products
    with torch.no_grad():
        y = layer(x)
        rows = sampled_rows(product.node, [x, x], [y, y], torch.Generator(), count=30)
        found = rows.times(layer.weight) + (0 if layer.bias is None else layer.bias)  # type: ignore[arg-type, operator]
    assert len(rows) == min(30, 2 * y.numel() // layer.weight.shape[0])  # type: ignore[index]
    torch.testing.assert_close(found, rows.targets, rtol=1e-4, atol=1e-5)


def with_bits(encodings: dict[str, Encoding], bits: int) -> dict[str, Encoding]:
    return {name: replace(e, bits=bits) if e.axis == 0 else e for name, e in encodings.items()}


def quantized(kind: type[nn.Module], bits: int = 4) -> tuple[nn.Module, dict[str, Encoding], Context]:
    model, _, context = made(kind)
    result = Quantize().apply(model, context)
    return result.model, with_bits(dict(result.encodings), bits), context


class Alone(nn.Module):
    """One linear layer followed by a ReLU: (N, 5) -> (N, 24)."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(5, 24)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.fc(x))


def test_a_tiny_layer_comes_near_the_best_of_all_roundings() -> None:
    torch.manual_seed(0)
    model = Alone().eval()
    x = torch.randn(256, 5) @ torch.randn(5, 5)  # inputs that depend on each other, where nearest is not best
    context = context_on((x,))
    result = Quantize().apply(model, context)
    encodings = with_bits(dict(result.encodings), 3)
    split = context.data.split("calibration")  # type: ignore[union-attr]
    rounded = adaround(
        result.model, encodings, context, split, LearnedRounding(iterations=500, batch=128), target="ort-x86"
    )
    read = TARGETS["ort-x86"].activation_parameters(encodings["x"])
    seen = torch.from_numpy(read.dequantize(read.quantize(x.numpy())))
    graph = trace(model, (x,))
    grid = plan_of(graph, encodings, TARGETS["ort-x86"]).grids["fc.weight"]
    weight, scale = model.fc.weight.detach(), scale_for(grid, model.fc.weight)

    def errors(candidate: Tensor) -> Tensor:
        difference = torch.relu(seen @ candidate.T + model.fc.bias) - torch.relu(x @ weight.T + model.fc.bias)
        return difference.detach().square().mean(0)

    def on_grid(integers: Tensor) -> Tensor:
        return scale * integers.clamp(grid.low, grid.high)

    choices = [torch.tensor(up) for up in itertools.product((0.0, 1.0), repeat=5)]
    best = torch.stack([errors(on_grid(torch.floor(weight / scale) + up)) for up in choices]).min(0).values
    nearest, found = errors(on_grid(torch.round(weight / scale))), errors(rounded.model.get_parameter("fc.weight"))
    assert bool((found <= nearest * 1.0001).all()), "channel by channel"
    assert float((found - best).sum()) < 0.35 * float((nearest - best).sum())
    assert float((found <= best * 1.001).float().mean()) > 0.5, "most channels have the best of all 32"
    np.testing.assert_allclose(rounded.errors["fc.weight"], [nearest.sum(), found.sum()], rtol=1e-3)


@pytest.mark.parametrize("kind", SHAPES, ids=lambda kind: kind.__name__)
def test_weights_are_the_grid_points_that_nearest_rounding_gives(kind: type[nn.Module]) -> None:
    model, encodings, context = quantized(kind)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    split, config = context.data.split("calibration"), LearnedRounding(iterations=500, batch=64)  # type: ignore[union-attr]
    rounded = adaround(model, encodings, context, split, config, target="ort-x86")
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(p.requires_grad for p in rounded.model.parameters())
    graph = trace(rounded.model, context.example_inputs, dynamic_batch=True)
    grids = plan_of(graph, rounded.encodings, TARGETS["ort-x86"]).grids
    moved = 0
    for name, grid in grids.items():
        weight, source = rounded.model.get_parameter(name).detach(), before[name]
        integers = torch.from_numpy(grid.quantize(weight.numpy(), 0))
        assert torch.equal(weight, scale_for(grid, weight) * integers), name
        steps = (weight - source).abs() / scale_for(grid, weight)
        assert float(steps.max()) < 1.001, f"{name}: up or down, no further"
        moved += int((steps > 0.501).sum())
    assert moved > 0, "not all are the nearest"
    changed = {name for name, tensor in rounded.model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed and changed <= set(grids), "biases stay"
    for name, (nearest, learnt) in rounded.errors.items():
        assert learnt <= nearest, name


def test_the_file_holds_the_integers_that_were_chosen(tmp_path: Path) -> None:
    model, encodings, context = quantized(Joined, bits=8)
    rounded = adaround(model, encodings, context, context.data.split("calibration"), QUICK, target="ort-x86")  # type: ignore[union-attr]
    path = tmp_path / "rounded.onnx"
    export_onnx(rounded.model, context.example_inputs, path, encodings=dict(rounded.encodings))
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer}
    graph = trace(rounded.model, context.example_inputs, dynamic_batch=True)
    for name, grid in plan_of(graph, rounded.encodings, TARGETS["ort-x86"]).grids.items():
        weight = rounded.model.get_parameter(name).detach()
        integers = torch.round(weight / scale_for(grid, weight)).numpy()
        held = stored[name]
        np.testing.assert_array_equal(held if held.shape == integers.shape else held.T, integers)


def test_the_whole_network_errs_less_than_with_nearest_rounding() -> None:
    model, inputs, context = made(Joined, samples=128)
    result = Quantize().apply(model, context)
    encodings = with_bits(dict(result.encodings), 3)
    rounded = adaround(
        result.model,
        encodings,
        context,
        context.data.split("calibration"),  # type: ignore[union-attr]
        LearnedRounding(iterations=250, batch=128),
        target="ort-x86",
    )
    with torch.no_grad():
        reference = model(*inputs)
        nearest = simulate(result.model, encodings, context.example_inputs)(*inputs)
        learnt = simulate(rounded.model, rounded.encodings, context.example_inputs)(*inputs)
    assert float((learnt - reference).square().mean()) < 0.7 * float((nearest - reference).square().mean())


def test_a_channel_of_zeros_with_a_bias_keeps_the_scale_that_is_deployed() -> None:
    model, inputs, context = made(Joined)
    with torch.no_grad():
        model.get_parameter("left.weight")[1] *= 1e-30
        model.get_parameter("left.bias")[1] = 3.0
    result = Quantize().apply(model, context)
    split = context.data.split("calibration")  # type: ignore[union-attr]
    rounded = adaround(result.model, result.encodings, context, split, QUICK, target="ort-x86")
    engine = TARGETS["ort-x86"]
    raised, given = (engine.weight_parameters(e["left.weight"], 1.0) for e in (rounded.encodings, result.encodings))
    assert raised.scale[1] > 1e6 * given.scale[1]
    np.testing.assert_array_equal(np.delete(raised.scale, 1), np.delete(given.scale, 1))
    with torch.no_grad():
        simulated = simulate(rounded.model, rounded.encodings, context.example_inputs)(*inputs)
    assert bool(torch.isfinite(simulated).all())


def test_a_shared_weight_is_fitted_once() -> None:
    model, encodings, context = quantized(Tokens)
    rounded = adaround(model, encodings, context, context.data.split("calibration"), QUICK, target="ort-x86")  # type: ignore[union-attr]
    assert list(rounded.errors) == ["query.weight", "value.weight"]


def test_weights_that_are_rounded_alone_and_in_blocks() -> None:
    model, _, context = made(Tokens)
    result = Quantize(scheme="w4").apply(model, context)
    assert result.encodings["query.weight"].block is not None
    split, config = context.data.split("calibration"), LearnedRounding(iterations=500, batch=64)  # type: ignore[union-attr]
    rounded = adaround(result.model, result.encodings, context, split, config, target="ort-x86")
    assert sum(b for _, b in rounded.errors.values()) < sum(a for a, _ in rounded.errors.values())


def test_the_rectified_sigmoid() -> None:
    weight = torch.tensor([[0.26, -0.5, 1.0, -1.9]])
    grid = Encoding((-3.5,), (3.5,), bits=4, symmetric=True, axis=0).parameters("int8", narrow=True)
    rounding = Rounding(weight, grid)
    torch.testing.assert_close(rounding.soft().detach(), weight, rtol=1e-5, atol=1e-6)
    with torch.no_grad():
        rounding.variable.copy_(torch.tensor([[4.0, -4.0, 0.3, -0.2]]))
    h = np.clip(1.2 / (1 + np.exp(-np.array([4.0, -4.0, 0.3, -0.2]))) - 0.1, 0, 1)
    np.testing.assert_allclose(rounding.up().detach().numpy()[0], h, rtol=1e-5)
    np.testing.assert_allclose(float(rounding.pull(3.0).detach()), np.mean(1 - np.abs(2 * h - 1) ** 3), rtol=1e-5)
    assert rounding.integers().tolist() == [[1.0, -1.0, 3.0, -4.0]]


@pytest.mark.parametrize("beta", [None, 20.0, 2.0])
def test_gradients_at_once_are_those_of_each_operation(beta: float | None) -> None:
    """Of the weight and of the pull to grid points, also where a weight is clipped and where a rounding is decided."""
    torch.manual_seed(0)
    weight = torch.randn(6, 5, 3, 3)
    grid = IntegerParameters(np.full(6, 0.1, np.float32), np.zeros(6, np.int64), -8, 7)
    direction = torch.randn_like(weight)
    rounding = Rounding(weight, grid)
    with torch.no_grad():
        rounding.variable.add_(4 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)))
    soft, pull = rounding.soft(), torch.zeros(()) if beta is None else rounding.pull(beta)
    ((soft * direction).sum() + 1000 * pull).backward()
    at_once = rounding.at(beta)
    torch.testing.assert_close(at_once.weight, soft.detach(), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(at_once.gradient(direction, 1000), rounding.variable.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["ort-x86", "ort-arm", "tensorrt", "ncnn"])
def test_an_encoding_gives_its_scale_back(name: str) -> None:
    engine = TARGETS[name]
    generator = np.random.default_rng(0)
    for _ in range(200):
        low, high = -generator.exponential(), generator.exponential() * 10.0 ** generator.integers(-6, 6)
        like = Encoding((low * generator.integers(0, 2),), (high,), bits=int(generator.integers(2, 9)))
        grid = replace(engine.activation_parameters(like), scale=np.float32(generator.exponential()))  # type: ignore[arg-type]
        found = engine.activation_parameters(activation_encoding(grid, like, engine))
        assert found.scale == grid.scale and found.zero_point == grid.zero_point


def test_refusals() -> None:
    model, encodings, context = quantized(Joined)
    split = context.data.split("calibration")  # type: ignore[union-attr]
    with pytest.raises(InvalidInput, match="no tensor of this network"):
        adaround(model, {**encodings, "other": encodings["left.weight"]}, context, split, QUICK, target="ort-x86")
