"""Learnt scales: values and gradients against naive loops over the equations of the papers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from compress.rounding.learned_scales import gradient_factor, lsq, lsq_per_block, lsq_per_channel, pact


def naive_lsq(x: float, s: float, zero: int, low: int, high: int) -> tuple[float, float, float, float]:
    """Value, and the derivatives by x, s and zero: Esser et al. (2020), equations 1-3 and 5."""
    ratio = x / s + zero
    if ratio < low - 0.5 or ratio > high + 0.5:
        end = low if ratio < low else high
        return s * (end - zero), 0.0, end - zero, -s
    level = min(max(np.rint(x / s) + zero, low), high)
    return s * (level - zero), 1.0, np.rint(x / s) - x / s, 0.0


@pytest.mark.parametrize(("zero", "low", "high"), [(0, -7, 7), (0, 0, 15), (5, 0, 15), (-3, -8, 7)])
def test_lsq_is_the_equations(zero: int, low: int, high: int) -> None:
    torch.manual_seed(zero)
    x = (torch.randn(50) * 4).requires_grad_()
    scale, origin = torch.tensor([0.37], requires_grad=True), torch.tensor([float(zero)], requires_grad=True)
    weights = torch.randn(50)
    y = lsq(x, scale, origin, low, high, 0.25)
    (y * weights).sum().backward()
    expected = np.array([naive_lsq(float(v), 0.37, zero, low, high) for v in x.detach()])
    np.testing.assert_allclose(y.detach(), expected[:, 0], rtol=1e-5, atol=1e-6)
    assert x.grad is not None and scale.grad is not None and origin.grad is not None
    np.testing.assert_allclose(x.grad, expected[:, 1] * weights.numpy(), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(scale.grad, 0.25 * (expected[:, 2] * weights.numpy()).sum(), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(origin.grad, 0.25 * (expected[:, 3] * weights.numpy()).sum(), rtol=1e-4, atol=1e-5)


def test_lsq_per_channel_and_block() -> None:
    torch.manual_seed(0)
    x = (torch.randn(3, 10) * 4).requires_grad_()
    for block in (None, 4):
        count = 3 if block is None else 9
        scale = torch.rand(count).add(0.2).requires_grad_()
        y = lsq_per_channel(x, scale, -7, 7, 0.5) if block is None else lsq_per_block(x, scale, block, -7, 7, 0.5)
        (gradient_x, gradient_s) = torch.autograd.grad((y * y.detach()).sum(), (x, scale))
        wanted_s, index = np.zeros(count), np.arange(10) // (block or 10)
        for row in range(3):
            for column in range(10):
                which = row * (index.max() + 1) + index[column]
                value, by_x, by_s, _ = naive_lsq(float(x.detach()[row, column]), float(scale.detach()[which]), 0, -7, 7)
                assert float(y.detach()[row, column]) == pytest.approx(value, rel=1e-5)
                assert float(gradient_x[row, column]) == pytest.approx(by_x * value, rel=1e-5)
                wanted_s[which] += 0.5 * by_s * value
        np.testing.assert_allclose(gradient_s, wanted_s, rtol=1e-4, atol=1e-4)


def test_pact_is_the_equations() -> None:
    torch.manual_seed(0)
    x = (torch.randn(60) * 2).requires_grad_()
    clip = torch.tensor([1.7], requires_grad=True)
    y = pact(x, clip, 15)
    weights = torch.randn(60)
    (y * weights).sum().backward()
    clipped = 0.5 * (np.abs(x.detach().numpy()) - np.abs(x.detach().numpy() - 1.7) + 1.7)  # equation 1
    np.testing.assert_allclose(y.detach(), np.rint(clipped * 15 / 1.7) * 1.7 / 15, rtol=1e-5, atol=1e-6)  # equation 2
    above = x.detach() >= 1.7
    assert x.grad is not None and clip.grad is not None
    np.testing.assert_allclose(clip.grad, (weights * above).sum(), rtol=1e-5)  # equation 3
    np.testing.assert_allclose(x.grad, weights * ((x.detach() > 0) & ~above), rtol=1e-6)


def test_the_scales_gradient_is_that_of_finite_differences_where_all_is_clipped() -> None:
    x = torch.tensor([5.0, -6.0, 9.0])
    scale = torch.tensor([0.5], requires_grad=True)
    lsq(x, scale, torch.zeros(1), -4, 3, 1.0).sum().backward()
    ends = [float(lsq(x, torch.tensor([s]), torch.zeros(1), -4, 3, 1.0).sum()) for s in (0.49, 0.51)]
    assert float(scale.grad) == pytest.approx((ends[1] - ends[0]) / 0.02, rel=1e-3)  # type: ignore[arg-type]


def test_autocast_leaves_rounding_in_float32() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        y = lsq(torch.tensor([1.01], dtype=torch.bfloat16), torch.tensor([0.003]), torch.zeros(1), 0, 255, 1.0)
    assert y.dtype == torch.float32


def test_gradient_factor() -> None:
    assert gradient_factor(100, 4) == pytest.approx(0.05)


@pytest.mark.usefixtures("cpp_compiler")
def test_compiled_they_are_one_graph_and_the_same_bits() -> None:
    def both(x: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor, clip: torch.Tensor) -> torch.Tensor:
        return lsq(x, scale, zero, -7, 8, 0.01) * pact(x, clip, 15)

    torch.manual_seed(0)
    weights = torch.randn(4, 60)
    given = (torch.randn(4, 60) * 3, torch.tensor([0.3]), torch.tensor([1.2]), torch.tensor(2.3))
    found = []
    for function in (both, torch.compile(both, fullgraph=True)):
        inputs = [value.clone().requires_grad_() for value in given]
        out = function(*inputs)
        (out * weights).sum().backward()
        found.append([out.detach(), *(value.grad for value in inputs if value.grad is not None)])
    assert len(found[0]) == 5 and torch.equal(found[0][0], found[1][0])
    for plain, compiled in zip(*found, strict=True):
        torch.testing.assert_close(compiled, plain, rtol=1e-4, atol=1e-4)
