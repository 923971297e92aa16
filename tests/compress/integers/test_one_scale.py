"""Averages of windows, for engines that do not change the scale in them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from compress.graph.trace import trace
from compress.integers.encoding import Encoding
from compress.integers.placement import pools_in_one_scale
from compress.integers.target import target_named
from compress.quantize import simulate


class Pooled(nn.Module):
    """A convolution that is averaged, and joined with another: (N, 3, 8, 8) -> (N, 8, 4, 4)."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1, 2)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([nn.functional.avg_pool2d(self.left(x), 2), self.right(x)], 1)


WHOLE, WIDE = Encoding((-1.0,), (2.0,)), Encoding((-3.0,), (1.5,))
ENCODINGS = {"conv2d": WIDE, "avg_pool2d": WHOLE, "conv2d_1": WHOLE, "cat": WHOLE, "x": Encoding((-4.0,), (4.0,))}
WEIGHT = Encoding((-1.0,) * 4, (1.0,) * 4, symmetric=True, axis=0)


@pytest.fixture(scope="module")
def network() -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    return Pooled().eval(), torch.randn(2, 3, 8, 8)


def test_all_that_shares_an_encoding_gets_the_range_that_holds_both(network: tuple[nn.Module, Tensor]) -> None:
    model, x = network
    found = pools_in_one_scale(trace(model, (x,)), ENCODINGS | {"left.weight": WEIGHT})
    both = replace(WIDE, low=(-3.0,), high=(2.0,))
    joined = dict.fromkeys(("conv2d", "avg_pool2d", "conv2d_1", "cat"), both)
    assert found == {**joined, "x": ENCODINGS["x"], "left.weight": WEIGHT}


def test_nothing_changes_without_such_an_average(network: tuple[nn.Module, Tensor]) -> None:
    model, x = network
    few = {name: ENCODINGS[name] for name in ("x", "conv2d")}
    assert pools_in_one_scale(trace(model, (x,)), few) == few


def test_simulation_rounds_once_for_engines_that_want_it(network: tuple[nn.Module, Tensor]) -> None:
    model, x = network
    scale = float(target_named("litert").activation_parameters(Encoding((-3.0,), (2.0,))).scale)
    steps = simulate(model, ENCODINGS, (x,), target="litert")(x) / scale
    assert torch.allclose(steps, steps.round(), atol=1e-4)
    steps = simulate(model, ENCODINGS, (x,), target="ort-arm")(x) / scale
    assert not torch.allclose(steps, steps.round(), atol=1e-4)
