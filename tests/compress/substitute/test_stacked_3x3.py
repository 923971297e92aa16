"""Stacks of 3x3 convolutions: kernels that are products of 3x3 ones come back, at the borders too."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from compress.compact.observed import Observed
from compress.compact.substitutions.stacked_3x3 import Stacked3x3, composed, factored


def product(groups: int, outputs: int, between: int, inputs: int, count: int) -> Tensor:
    """A kernel that ``count`` 3x3 kernels with so many channels between them make."""
    generator = torch.Generator().manual_seed(3)
    widths = [inputs, *[between] * (count - 1), outputs]
    kernels = [
        torch.randn(groups, later, earlier, 3, 3, dtype=torch.float64, generator=generator)
        for earlier, later in pairwise(widths)
    ]
    whole = kernels[0]
    for kernel in kernels[1:]:
        whole = composed(kernel, whole)
    return whole


def test_kernels_compose_as_convolutions_do() -> None:
    first, second = torch.randn(5, 3, 3, 3, dtype=torch.float64), torch.randn(2, 5, 5, 5, dtype=torch.float64)
    x = torch.randn(1, 3, 9, 9, dtype=torch.float64)
    conv = torch.nn.functional.conv2d
    torch.testing.assert_close(conv(x, composed(second[None], first[None])[0]), conv(conv(x, first), second))


@pytest.mark.parametrize(
    ("groups", "outputs", "between", "inputs", "largest"),
    [(6, 1, 1, 1, 1e-6), (1, 4, 1, 4, 1e-6), (1, 6, 2, 3, 1e-6)],
)
def test_products_are_factored(groups: int, outputs: int, between: int, inputs: int, largest: float) -> None:
    kernel = product(groups, outputs, between, inputs, 2)
    whole, *later = factored(kernel, between, 2)
    for factor in later:
        whole = composed(factor, whole)
    assert float((whole - kernel).square().sum() / kernel.square().sum()) < largest


@pytest.mark.parametrize("padding_mode", ["zeros", "circular"])
@pytest.mark.parametrize(("kernel", "settings"), [(5, {"padding": 2}), (7, {"padding": "same", "dilation": 2})])
def test_a_product_of_3x3_kernels_is_reproduced(kernel: int, settings: dict[str, object], padding_mode: str) -> None:
    layer = nn.Conv2d(4, 4, kernel, groups=4, padding_mode=padding_mode, **settings)  # type: ignore[arg-type]
    with torch.no_grad():
        layer.weight.copy_(product(4, 1, 1, 1, (kernel - 1) // 2).flatten(0, 1))
    x = torch.randn(8, 4, 16, 16, generator=torch.Generator().manual_seed(4))
    part = Stacked3x3()
    substitute = part.build(layer)
    with torch.no_grad():
        part.initialize(substitute, layer, Observed([x], [layer(x)]))
        error = (substitute(x) - layer(x)).square().mean() / layer(x).var()
    assert float(error) < (1e-6 if kernel == 5 else 1e-2)
    assert all(conv.kernel_size == (3, 3) for conv in substitute if isinstance(conv, nn.Conv2d))


def test_what_it_cannot_reproduce_it_comes_close_to() -> None:
    torch.manual_seed(4)
    layer = nn.Conv2d(4, 8, 5, padding=2)
    x = torch.randn(16, 4, 12, 12)
    part = Stacked3x3()
    substitute = part.build(layer)
    with torch.no_grad():
        observed = Observed([x], [layer(x)])
    part.initialize(substitute, layer, observed)
    assert observed.error(substitute) < 0.2


@pytest.mark.parametrize("kernel", [3, 4, (5, 3)])
def test_other_kernels_stay(kernel: int | tuple[int, int]) -> None:
    assert Stacked3x3().obstacle(nn.Conv2d(3, 4, kernel)) is not None
