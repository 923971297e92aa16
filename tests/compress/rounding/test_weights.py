"""Weights of few levels: against loops in numpy, gradients against the papers' rules, levels against the values."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from compress.quantize.train.few_levels import encode
from compress.rounding.weights import Bases, Binary, Centroids, LearnedSteps, PowersOfTwo, Ternary, TrainedTernary

RULES: dict[str, Callable[[Tensor], nn.Module]] = {
    "binary": lambda _: Binary(),
    "ternary": lambda _: Ternary(),
    "trained ternary": TrainedTernary,
    "2-bit steps": lambda weight: LearnedSteps(weight, 2),
    "4-bit steps": lambda weight: LearnedSteps(weight, 4),
    "powers of two": lambda weight: PowersOfTwo(weight, 4),
    "two bases": lambda _: Bases(2),
    "three bases": lambda _: Bases(3),
}


def some(channels: int = 6, seed: int = 0) -> Tensor:
    return 0.1 * torch.randn(channels, 4, 3, 3, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("kind", RULES)
def test_values_are_on_the_levels(kind: str) -> None:
    weight = some()
    rule = RULES[kind](weight)
    rounded = rule(weight).detach()
    levels = rule.levels(weight)  # type: ignore[operator]
    table = (levels.rows * levels.factors[:, None]).expand(len(weight), -1)
    distance = (rounded.flatten(1)[:, :, None] - table[:, None, :]).abs().amin(-1)
    assert float(distance.max()) < 1e-6


def test_binary_is_the_sign_times_the_mean_magnitude() -> None:
    weight = some()
    rounded = Binary()(weight).numpy()
    for channel, values in zip(rounded, weight.numpy(), strict=True):
        mean = np.abs(values.astype(np.float64)).mean()
        np.testing.assert_allclose(channel, np.where(values >= 0, mean, -mean), rtol=1e-6)


def test_ternary_is_that_of_the_paper() -> None:
    weight = some()
    rounded = Ternary()(weight).numpy()
    for channel, values in zip(rounded, weight.numpy().astype(np.float64), strict=True):
        kept = np.abs(values) > 0.7 * np.abs(values).mean()
        np.testing.assert_allclose(channel, np.sign(values) * kept * np.abs(values[kept]).mean(), rtol=1e-5, atol=1e-9)


def test_trained_ternary_has_the_gradients_of_the_paper() -> None:
    weight = some().requires_grad_()
    rule = TrainedTernary(weight.detach())
    seen = torch.randn(weight.shape, generator=torch.Generator().manual_seed(3))
    (rule(weight) * seen).sum().backward()
    limit = 0.05 * weight.detach().abs().max()
    above, below = weight.detach() > limit, weight.detach() < -limit
    positive, negative = rule.values.detach()
    slope = torch.where(above, positive, torch.where(below, negative, torch.ones(())))
    assert weight.grad is not None and rule.values.grad is not None
    torch.testing.assert_close(weight.grad, slope * seen)  # equation 8
    torch.testing.assert_close(rule.values.grad, torch.stack([seen[above].sum(), -seen[below].sum()]))  # equation 7


@pytest.mark.parametrize("bits", [3, 4, 5])
def test_powers_of_two_are_nearest_in_the_sense_of_the_paper(bits: int) -> None:
    weight = some()
    rule = PowersOfTwo(weight, bits)
    assert rule.top == math.floor(math.log2(4 * float(weight.abs().max()) / 3))
    assert rule.bottom == rule.top + 1 - 2 ** (bits - 1) // 2
    powers = [2.0**k for k in range(rule.bottom, rule.top + 1)]
    for value, got in zip(weight.flatten().tolist(), rule(weight).flatten().tolist(), strict=True):
        wanted = 0.0  # equation 4: between (a + b) / 2 and 3 b / 2, for neighbours a < b of zero and the powers
        for lower, power in zip([0.0, *powers], powers, strict=False):
            if (lower + power) / 2 <= abs(value) < 1.5 * power:
                wanted = math.copysign(power, value)
        assert got == wanted, value


def test_fixed_weights_stay_and_the_largest_are_fixed_first() -> None:
    weight = some()
    rule = PowersOfTwo(weight, 4, incremental=True)
    assert torch.equal(rule(weight), weight)
    rule.fix(weight, 0.5)
    fixed = rule.fixed.clone()
    assert int(fixed.sum()) == weight.numel() // 2
    assert float(weight[fixed].abs().min()) >= float(weight[~fixed].abs().max())
    moved = weight + 0.01
    half = rule(moved)
    assert torch.equal(half[~fixed], moved[~fixed])
    assert torch.equal(half[fixed], rule.nearest(weight)[fixed])
    rule.fix(moved, 1.0)
    assert bool(rule.fixed.all()) and torch.equal(rule(moved)[fixed], half[fixed])


def test_more_bases_err_less() -> None:
    weight = some()
    errors = [float((Bases(count)(weight) - weight).square().sum()) for count in (1, 2, 3)]
    assert errors[0] > errors[1] > errors[2]
    least = float((Binary()(weight) - weight).square().sum())
    assert errors[0] <= least * 1.2


def test_gradients_of_centroids_are_sums_and_zero_stays() -> None:
    codes = torch.tensor([[0, 1, 2, 1], [2, 2, 0, 1]])
    book, frozen = torch.tensor([[0.0, -0.5, 0.7]]), torch.tensor([[True, False, False]])
    rule = Centroids(codes, book, frozen)
    seen = torch.arange(8.0).view(2, 4)
    (rule(torch.zeros(2, 4)) * seen).sum().backward()
    assert rule.book.grad is not None
    assert rule.book.grad.tolist() == [[0.0, 1 + 3 + 7, 2 + 4 + 5]]


@pytest.mark.parametrize("kind", RULES)
def test_encodings_follow_factors_of_channels(kind: str) -> None:
    weight = some()
    rule = RULES[kind](weight)
    rounded = rule(weight).detach()
    factors = torch.tensor([0.5, -2.0, 1.0, 3.0, -0.1, 0.0])
    holder = nn.Module()
    holder.weight = nn.Parameter(rounded * factors.view(-1, 1, 1, 1))
    expected = holder.weight.detach().clone()
    encoding = encode(holder, "weight", rule.levels(weight), rounded)  # type: ignore[operator]
    torch.testing.assert_close(holder.weight.detach(), expected, rtol=1e-5, atol=1e-6)
    codes = encoding.codes(holder.weight.detach().numpy())
    assert np.array_equal(encoding.decoded(codes), holder.weight.detach().numpy()), "weights are on their levels"
    assert codes.max() < 2**encoding.bits
    assert type(encoding).from_json(encoding.to_json()) == encoding


def test_levels_in_integers_are_exact() -> None:
    weight = some()
    for kind in ("binary", "ternary", "2-bit steps", "4-bit steps", "powers of two"):
        rule = RULES[kind](weight)
        holder = nn.Module()
        holder.weight = nn.Parameter(rule(weight).detach())
        encoding = encode(holder, "weight", rule.levels(weight), holder.weight.detach().clone())  # type: ignore[operator]
        for bits in (None, 8):
            integers = encoding.in_integers(bits)
            assert integers is not None, kind
            grid = integers.parameters("int8", symmetric=True, narrow=True)
            real = holder.weight.detach().numpy()
            np.testing.assert_allclose(grid.dequantize(grid.quantize(real, 0), 0), real, rtol=1e-6)
    trained = TrainedTernary(weight)
    levels = trained.levels(weight)
    holder.weight = nn.Parameter(trained(weight).detach())
    assert encode(holder, "weight", levels, holder.weight.detach().clone()).in_integers() is None
