"""Costs against what is counted by hand, by loops, by hooks on modules and by gradients."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import models
from compress.cost.count import Cost, Uncounted, cost
from compress.graph.trace import trace
from tests.support.zoo_networks import every_network, small

torch.set_num_threads(1)


def macs_by_hooks(model: nn.Module, *inputs: Tensor) -> int:
    """Multiply-adds of the convolutions and linear layers, from the modules' own attributes and real outputs."""
    counted = []

    def count(module: nn.Module, _: tuple[Tensor, ...], output: Tensor) -> None:
        if isinstance(module, nn.Conv2d):
            height, width = module.kernel_size
            counted.append(output[0].numel() * module.in_channels // module.groups * height * width)
        elif isinstance(module, nn.Linear):
            counted.append(output[0].numel() * module.in_features)

    handles = [m.register_forward_hook(count) for m in model.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    with torch.no_grad():
        model.eval()(*inputs)
    for handle in handles:
        handle.remove()
    return sum(counted)


@pytest.mark.parametrize("name", every_network())
def test_zoo_costs_what_its_modules_say(name: str) -> None:
    model = small(name)
    x = torch.randn(1, 3, 32, 32)
    found = cost(model, (x,))
    attention = sum(layer.macs for layer in found.layers if "attention" in layer.operation)
    assert found.macs - attention == macs_by_hooks(model, x) > 0
    assert found.params == sum(p.numel() for p in model.parameters()) == sum(layer.params for layer in found.layers)
    assert found.size_bytes == sum(t.numel() * t.element_size() for t in model.state_dict().values())
    assert not [entry for entry in found.uncounted if "unknown" in entry.reason]


def test_resnet20_of_the_paper() -> None:
    """He et al. (2015), table 6: 0.27 M parameters; 40.8 M multiply-adds with option B, summed here by hand."""
    found = cost(models.build("resnet20"), (torch.randn(2, 3, 32, 32),))
    stem = 32 * 32 * 16 * 3 * 9
    first = 6 * 32 * 32 * 16 * 16 * 9
    second = 16 * 16 * (32 * 16 * 9 + 5 * 32 * 32 * 9 + 32 * 16)
    third = 8 * 8 * (64 * 32 * 9 + 5 * 64 * 64 * 9 + 64 * 32)
    assert found.macs == stem + first + second + third + 64 * 10 == 40_813_184
    assert found.params == 272_474


@pytest.mark.parametrize("transposed", [True, False])
@pytest.mark.parametrize("groups", [1, 2])
def test_convolution_by_a_loop_over_every_product(transposed: bool, groups: int) -> None:
    """Each product of a kernel element with an input element, without padding, is counted one by one."""
    kernel, stride, size, inputs, outputs = 3, 2, 5, 4, 6
    kind = nn.ConvTranspose2d if transposed else nn.Conv2d
    found = cost(kind(inputs, outputs, kernel, stride, groups=groups), (torch.randn(1, inputs, size, size),))
    places = size if transposed else (size - kernel) // stride + 1
    count = 0
    for _ in itertools.product(range(places), range(places), range(kernel), range(kernel)):
        for i, o in itertools.product(range(inputs), range(outputs)):
            count += i // (inputs // groups) == o // (outputs // groups)
    assert found.macs == count
    assert found.params == inputs * outputs // groups * 9 + outputs


class Called(nn.Module):
    """A function of its inputs, as a network."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.function(*inputs)


@pytest.mark.parametrize(
    ("function", "shapes", "macs"),
    [
        (torch.matmul, [(1, 3, 4), (1, 4, 5)], 60),
        (torch.bmm, [(1, 3, 4), (1, 4, 5)], 60),
        (lambda a, b: a @ b.transpose(-1, -2), [(1, 2, 3, 4), (1, 2, 5, 4)], 120),
        (lambda a, b, c: torch.baddbmm(a, b, c), [(1, 3, 5), (1, 3, 4), (1, 4, 5)], 60),
        (lambda a, b: torch.einsum("nij,njk->nik", a, b), [(1, 3, 4), (1, 4, 5)], 60),
        (lambda a, b: torch.einsum("...ij,...jk->...ik", a, b), [(1, 2, 3, 4), (1, 2, 4, 5)], 120),
        # scores of 3 x 5 over 4, and 3 x 6 over 5, in two heads
        (
            functional.scaled_dot_product_attention,
            [(1, 2, 3, 4), (1, 2, 5, 4), (1, 2, 5, 6)],
            2 * (3 * 5 * 4 + 3 * 6 * 5),
        ),
    ],
)
def test_products(function: Callable[..., Tensor], shapes: list[tuple[int, ...]], macs: int) -> None:
    assert cost(Called(function), tuple(torch.randn(shape) for shape in shapes)).macs == macs


def test_recurrent_layer() -> None:
    found = cost(nn.GRU(4, 3, batch_first=True, bidirectional=True), (torch.randn(1, 7, 4),))
    assert found.macs == 7 * 2 * (3 * 3 * 4 + 3 * 3 * 3)


def test_one_layer_in_full() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.ReLU())
    found = cost(model, (torch.randn(5, 3, 6, 8),))
    conv, relu = found.layers
    assert (conv.layer, conv.operation, conv.params, conv.macs) == ("0", "conv2d", 108, 4 * 6 * 8 * 27)
    assert conv.output_shape == relu.output_shape == (1, 4, 6, 8)
    assert conv.activation_bytes == 4 * 4 * 48
    assert conv.memory_access_bytes == 4 * (3 * 48 + 108 + 4 * 48)
    assert (relu.params, relu.macs, relu.memory_access_bytes) == (0, 0, 4 * 2 * 4 * 48)
    assert conv.receptive_field == relu.receptive_field == (3, 3)
    assert found.uncounted == (Uncounted("1", "relu", 1, "activation"),)
    assert (found.activation_bytes, found.memory_access_bytes) == (2 * 768, conv.memory_access_bytes + 1536)


def test_half_precision_halves_the_bytes() -> None:
    model, x = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), torch.randn(1, 3, 8, 8)
    single, half = cost(model, (x,)), cost(model.half(), (x.half(),))
    assert (half.macs, half.params) == (single.macs, single.params)
    assert (2 * half.size_bytes, 2 * half.memory_access_bytes) == (single.size_bytes, single.memory_access_bytes)


def test_a_module_called_twice_is_computed_twice_and_stored_once() -> None:
    layer = nn.Conv2d(3, 3, 1)
    found = cost(Called(lambda x: layer(torch.relu(layer(x)))), (torch.randn(1, 3, 4, 4),))
    assert found.params == 0, "the function hides its module"
    shared = nn.Sequential(layer, nn.ReLU(), layer, nn.ReLU())
    found = cost(shared, (torch.randn(1, 3, 4, 4),))
    assert found.params == 12
    assert found.size_bytes == 48
    assert [row.params for row in found.layers if row.operation == "conv2d"] == [12, 0]
    assert found.macs == 2 * 9 * 16


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.image = nn.Conv2d(3, 4, 3)
        self.vector = nn.Linear(5, 4)

    def forward(self, image: Tensor, vector: Tensor) -> Tensor:
        return torch.tanh(self.image(image).mean((2, 3)) * self.vector(vector)).cumprod(1)


def test_several_inputs_and_what_is_not_known() -> None:
    found = cost(TwoInputs(), (torch.randn(3, 3, 6, 6), torch.randn(3, 5)))
    assert found.macs == 4 * 16 * 27 + 20
    reasons = {entry.operation: entry.reason.split(":")[0] for entry in found.uncounted}
    assert reasons == {
        "mean": "reduction",
        "mul": "elementwise",
        "tanh": "activation",
        "cumprod": "unknown operation",
    }
    fields = {row.operation: row.receptive_field for row in found.layers}
    assert (fields["conv2d"], fields["mean"], fields["linear"]) == ((3, 3), (6, 6), (5,))
    assert fields["mul"] is None, "an image and a vector have no common field"


def test_every_call_is_counted_or_named() -> None:
    model = small("resnet20")
    found = cost(model, (torch.randn(1, 3, 32, 32),))
    named = sum(entry.count for entry in found.uncounted)
    assert named + sum(row.macs > 0 for row in found.layers) == len(found.layers)
    relus = {entry.layer: entry.count for entry in found.uncounted if entry.operation == "relu"}
    assert relus["layer1.0.relu"] == 2


def test_a_graph_is_as_good_as_its_network() -> None:
    model, x = small("resnet20"), torch.randn(1, 3, 32, 32)
    assert cost(trace(model, (x,)), (x,)) == cost(model, (x,))
    batch = torch.randn(4, 3, 32, 32)
    assert cost(trace(model, (batch,)), (batch,)) == cost(model, (x,))


def test_the_network_is_left_as_it_was() -> None:
    model = small("resnet20").train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    cost(model, (torch.randn(2, 3, 32, 32),))
    assert model.training
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_json() -> None:
    found = cost(small("resnet20"), (torch.randn(1, 3, 32, 32),))
    record = json.loads(json.dumps(found.to_json()))
    assert record == found.to_json()
    assert isinstance(found, Cost)
    assert (record["macs"], len(record["layers"])) == (found.macs, len(found.layers))
    assert record["layers"][0]["output_shape"] == [1, 8, 32, 32]


def field_by_gradient(model: nn.Module, size: int, channels: int = 3) -> tuple[int, ...]:
    """The input elements that the middle output element depends on, found with positive weights and no dead paths."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.rand(parameter.shape) + 0.1)
    x = (torch.rand(1, channels, size, size, dtype=torch.float64) + 1).requires_grad_()
    output = model.double().eval()(x)
    output[0, 0, output.shape[2] // 2, output.shape[3] // 2].backward()
    assert x.grad is not None
    touched = x.grad.abs().sum((0, 1)) > 0
    return tuple(int(line.nonzero().max() - line.nonzero().min()) + 1 for line in (touched.any(1), touched.any(0)))


class Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.long = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1), nn.Conv2d(channels, channels, (3, 5), 2, (1, 2))
        )
        self.short = nn.Conv2d(channels, channels, 1, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.long(x) + self.short(x)


@pytest.mark.parametrize(
    "build",
    [
        lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 5, dilation=2), nn.Conv2d(4, 2, (1, 3))),
        lambda: nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.BatchNorm2d(4), nn.AvgPool2d(2), nn.Conv2d(4, 4, 3)),
        lambda: nn.Sequential(nn.Conv2d(3, 4, 7, 2, 3), nn.AvgPool2d(3, 2, 1), Residual(4), Residual(4)),
        lambda: nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.Upsample(scale_factor=2), nn.Conv2d(4, 4, 1)),
        lambda: nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.ConvTranspose2d(4, 4, 2, 2), nn.Conv2d(4, 4, 1)),
        lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.ChannelShuffle(2), nn.Conv2d(4, 4, 3, groups=2)),
    ],
)
def test_receptive_field_is_what_the_gradient_reaches(build: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    model = build()
    found = cost(model, (torch.randn(1, 3, 96, 96),)).layers[-1].receptive_field
    assert found == field_by_gradient(model, 96)


@pytest.mark.parametrize(
    "end",
    [
        lambda: nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)),
        lambda: nn.Sequential(nn.ReLU(), nn.Flatten(), nn.Linear(4 * 8 * 10, 2)),
        lambda: Called(lambda x: x.mean((2, 3))),
    ],
)
def test_receptive_field_of_a_classifier_is_the_whole_input(end: Callable[[], nn.Module]) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), end())
    layers = cost(model, (torch.randn(1, 3, 8, 10),)).layers
    assert layers[0].receptive_field == (3, 3)
    assert layers[-1].receptive_field == (8, 10)


def test_receptive_field_in_channels_last_and_in_one_dimension() -> None:
    class ChannelsLast(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.depthwise = nn.Conv2d(4, 4, 7, padding=3, groups=4)
            self.pointwise = nn.Linear(4, 4)
            self.last = nn.Conv2d(4, 4, 3)

        def forward(self, x: Tensor) -> Tensor:
            y = self.pointwise(self.depthwise(x).permute(0, 2, 3, 1))
            return self.last(y.permute(0, 3, 1, 2))

    found = cost(ChannelsLast(), (torch.randn(1, 4, 16, 16),))
    assert [row.receptive_field for row in found.layers] == [(7, 7), (7, 7), (9, 9)]
    line = nn.Sequential(nn.Conv1d(2, 2, 3, stride=2), nn.MaxPool1d(2))
    assert [row.receptive_field for row in cost(line, (torch.randn(1, 2, 16),)).layers] == [(3,), (5,)]


@pytest.mark.parametrize(
    "window", [nn.Conv1d(4, 4, 3), nn.AvgPool1d(2), nn.ConvTranspose1d(4, 4, 2), nn.AdaptiveAvgPool1d(4),
               nn.Upsample(scale_factor=2)], ids=lambda layer: type(layer).__name__,
)  # fmt: skip
def test_windows_over_a_flattened_image_have_no_receptive_field(window: nn.Module) -> None:
    layers = cost(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(2), window), (torch.randn(1, 3, 8, 8),)).layers
    assert layers[0].receptive_field == (3, 3)
    assert {row.receptive_field for row in layers[1:]} <= {None}


def test_receptive_field_that_cannot_be_followed_is_none() -> None:
    rolled = Called(lambda x: functional.relu(torch.roll(x, 1, 2)))
    assert {row.receptive_field for row in cost(rolled, (torch.randn(1, 3, 8, 8),)).layers} == {None}


class Chosen(nn.Module):
    """Selects among what it computed, by its values."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 3), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        scores = self.first(x).flatten(0, 1)
        return self.second(scores[scores.amax(1) > 0])


def test_what_depends_on_values_is_named_and_not_counted() -> None:
    inputs = (torch.randn(1, 5, 4),)
    counted = cost(Chosen().eval(), inputs)
    assert counted.macs == 5 * 4 * 3, "that of the first layer alone"
    open_sizes = {(each.layer, each.operation) for each in counted.uncounted if "depends on the values" in each.reason}
    assert open_sizes == {("", "index"), ("second", "linear")}
    assert {each.reason for each in counted.uncounted} <= {
        "its size depends on the values: what it takes is told only when it runs", "reduction", "elementwise",
    }  # fmt: skip
    assert json.loads(json.dumps(counted.to_json()))["layers"][-1]["output_shape"] == [0, 2]
