"""Depthwise separable convolutions: kernels that are separable come back, others as well as least squares can."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from compress.compact.observed import Observed
from compress.compact.substitutions.depthwise_separable import DepthwiseSeparable, alternated


def images(*shape: int, seed: int = 0) -> Tensor:
    """Images whose neighbouring pixels and channels are alike, as those that layers read."""
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    smooth = nn.functional.avg_pool2d(x, 3, 1, 1)
    return smooth + 0.3 * smooth.flip(1) + 0.05 * x


def observed(layer: nn.Module, *shape: int) -> Observed:
    inputs = [images(*shape, seed=seed) for seed in range(4)]
    with torch.no_grad():
        return Observed(inputs, [layer(x) for x in inputs])


def separable(channels: int, outputs: int, rank: int, **settings: object) -> nn.Conv2d:
    """A convolution whose kernel is of this rank for each input channel."""
    torch.manual_seed(1)
    layer = nn.Conv2d(channels, outputs, 3, **settings)  # type: ignore[arg-type]
    with torch.no_grad():
        left, right = torch.randn(outputs, channels, rank), torch.randn(channels, rank, 9)
        layer.weight.copy_(torch.einsum("oir,irk->oik", left, right).view(layer.weight.shape))
    return layer


@pytest.mark.parametrize("rank", [1, 2])
@pytest.mark.parametrize("settings", [{"padding": 1}, {"stride": 2, "bias": False}, {"padding": 2, "dilation": 2}])
def test_a_separable_kernel_is_reproduced(rank: int, settings: dict[str, object]) -> None:
    layer = separable(4, 6, rank, **settings)
    seen = observed(layer, 8, 4, 10, 10)
    part = DepthwiseSeparable(multiplier=rank)
    substitute = part.build(layer)
    part.initialize(substitute, layer, seen)
    x = images(3, 4, 12, 12, seed=9)
    with torch.no_grad():
        torch.testing.assert_close(substitute(x), layer(x), atol=1e-3, rtol=1e-3)


def test_rounds_lower_the_error_of_the_outputs_towards_that_of_a_gradient_descent() -> None:
    """The weighted error that the closed forms leave is one that gradients of both layers cannot lower further."""
    torch.manual_seed(2)
    layer = nn.Conv2d(3, 5, 3, padding=1)
    seen = observed(layer, 8, 3, 8, 8)
    equations = seen.equations(layer)
    moments = equations.xx[0] - torch.outer(equations.x[0], equations.x[0]) / equations.count
    products = equations.xr[0] - torch.outer(equations.x[0], equations.r[0]) / equations.count
    kernel = layer.weight.detach().double().flatten(2)

    def error(filters: Tensor, mixing: Tensor) -> Tensor:
        whole = torch.einsum("oid,idk->oik", mixing.view(5, 3, -1), filters).flatten(1)
        rest = torch.einsum("oa,ab,ob->o", whole, moments, whole) - 2 * torch.einsum("oa,ao->o", whole, products)
        return (rest * seen.weights).sum()

    filters, mixing = alternated(kernel, moments, products, seen.weights, 1)
    first, _, right = torch.linalg.svd(kernel.transpose(0, 1), full_matrices=False)
    assert float(error(filters, mixing)) < float(error(right[:, :1], first[:, :, 0].T)), "than without the metric"
    free = [filters.clone().requires_grad_(), mixing.clone().requires_grad_()]
    reached = float(error(filters, mixing))
    optimizer = torch.optim.LBFGS(free, max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = error(*free)
        loss.backward()
        return loss

    optimizer.step(closure)
    whole = float(error(torch.zeros_like(filters), torch.zeros_like(mixing)))
    total = float((layer.weight.detach().double().flatten(1) @ moments).mul(kernel.flatten(1)).sum(1) @ seen.weights)
    assert whole == 0.0
    assert reached - float(error(free[0].detach(), free[1].detach())) < 0.02 * total


def test_each_output_counts_relative_to_its_variance() -> None:
    layer = separable(3, 2, 2, padding=1)
    with torch.no_grad():
        layer.weight[0] *= 100
    seen = observed(layer, 8, 3, 8, 8)
    part = DepthwiseSeparable()
    substitute = part.build(layer)
    part.initialize(substitute, layer, seen)
    with torch.no_grad():
        errors = [
            float((substitute(x) - wanted)[:, channel].var() / wanted[:, channel].var())
            for x, wanted in zip(seen.inputs, seen.outputs, strict=True)
            for channel in (0, 1)
        ]
    assert max(errors) < 0.5


@pytest.mark.parametrize(("layer", "reason"), [(nn.Conv2d(4, 4, 3, groups=4), "4 groups"), (nn.Conv2d(4, 4, 1), "1x1")])
def test_what_is_separable_already_stays(layer: nn.Conv2d, reason: str) -> None:
    assert reason in (DepthwiseSeparable().obstacle(layer) or "")
