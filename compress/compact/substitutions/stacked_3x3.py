"""Several 3x3 convolutions in the place of a larger one: two of them see 5x5, three see 7x7.

Simonyan and Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition" (2014), section 2.3;
Szegedy et al., "Rethinking the Inception Architecture for Computer Vision" (2015), section 3.1. No activation stands
between them, so that together they are a convolution, whose kernel is brought close to that of the layer.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ...core.settings import setting
from ..observed import Observed, refit
from . import Substitution

ROUNDS, ITERATIONS = 10, 120
"""Of alternating least squares, and then of L-BFGS on all kernels together."""
STARTS = 16
"""Of alternating least squares, divided by the channels between: with many channels every start ends alike."""


class Stacked3x3(Substitution):
    """Two 3x3 convolutions for one of 5x5, three for one of 7x7 (Simonyan and Zisserman, 2014)."""

    width: float = setting(1.0, "Channels between them, relative to the layer's outputs.", gt=0, le=16)

    def obstacle(self, layer: nn.Module) -> str | None:
        """Its kernel is no square of an odd size from 5 on."""
        assert isinstance(layer, nn.Conv2d)
        rows, columns = layer.kernel_size
        if rows != columns or rows % 2 == 0 or rows < 5:
            return f"its kernel is {rows}x{columns}, not 5x5, 7x7 or a larger odd square"
        return None

    def build(self, layer: nn.Module) -> nn.Sequential:
        """``conv1``, ``conv2``, ...: the first one pads for all, so that no border is seen twice; the last strides."""
        assert isinstance(layer, nn.Conv2d)
        count = (layer.kernel_size[0] - 1) // 2
        between = layer.groups * max(1, round(self.width * layer.out_channels / layer.groups))
        widths = (layer.in_channels, *[between] * (count - 1), layer.out_channels)
        layers = OrderedDict[str, nn.Module]()
        for number in range(count):
            first, last = number == 0, number == count - 1
            layers[f"conv{number + 1}"] = nn.Conv2d(
                widths[number], widths[number + 1], 3, layer.stride if last else 1,  # type: ignore[arg-type]
                layer.padding if first else 0, layer.dilation, layer.groups, bias=last,  # type: ignore[arg-type]
                padding_mode=layer.padding_mode if first else "zeros",
                device=layer.weight.device, dtype=layer.weight.dtype,
            )  # fmt: skip
        first_layer = layers["conv1"]
        assert isinstance(first_layer, nn.Conv2d)
        first_layer.padding = _padding(layer)
        first_layer._reversed_padding_repeated_twice = list(layer._reversed_padding_repeated_twice)
        return nn.Sequential(layers)

    def initialize(self, substitute: nn.Module, layer: nn.Module, observed: Observed) -> None:
        """By the factors of the layer's kernel; the last one is then fitted to what was observed."""
        assert isinstance(layer, nn.Conv2d) and isinstance(substitute, nn.Sequential)
        convolutions = [conv for conv in substitute if isinstance(conv, nn.Conv2d)]
        kernel = layer.weight.detach().double()
        grouped = kernel.view(layer.groups, -1, *kernel.shape[1:])
        between = convolutions[0].out_channels // layer.groups
        factors = factored(grouped, between, len(convolutions))
        with torch.no_grad():
            for conv, factor in zip(convolutions, factors, strict=True):
                conv.weight.copy_(factor.flatten(0, 1))
            last = convolutions[-1]
            assert last.bias is not None
            last.bias.copy_(torch.zeros_like(last.bias) if layer.bias is None else layer.bias)
        refit(last, observed.read_by(substitute[:-1]))


def _padding(layer: nn.Conv2d) -> tuple[int, ...]:
    """Of each side, where the layer says it in numbers or in a word."""
    if isinstance(layer.padding, str):
        left, right = layer._reversed_padding_repeated_twice[::2], layer._reversed_padding_repeated_twice[1::2]
        assert left == right, "an odd kernel is padded alike on both sides"
        return tuple(reversed(left))
    return tuple(layer.padding)


def composed(later: Tensor, earlier: Tensor) -> Tensor:
    """The kernel of two convolutions without padding, one after the other.

    Args:
        later: (G, O, M, b, b), for each of G groups of channels.
        earlier: (G, M, I, a, a).

    Returns:
        (G, O, I, a + b - 1, a + b - 1).
    """
    a, b = earlier.shape[-1], later.shape[-1]
    kernel = later.new_zeros(len(later), later.shape[1], earlier.shape[2], a + b - 1, a + b - 1)
    for row in range(b):
        for column in range(b):
            part = torch.einsum("gom,gmiyx->goiyx", later[..., row, column], earlier)
            kernel[..., row : row + a, column : column + a] += part
    return kernel


def factored(kernel: Tensor, between: int, count: int) -> list[Tensor]:
    """Kernels of 3x3, the first to run first, that together are closest to ``kernel`` (G, O, I, k, k).

    Args:
        between: channels of each group between two of them.
        count: of the kernels, (k - 1) / 2.
    """
    factors: list[Tensor] = []
    rest = kernel
    while len(factors) < count - 1:
        later, earlier = _halves(rest, between)
        factors.append(earlier)
        rest = later
    return _polished([*factors, rest], kernel)


def _halves(kernel: Tensor, between: int) -> tuple[Tensor, Tensor]:
    """A kernel smaller by 2 and a 3x3 one before it, by alternating least squares: for each group of channels the best
    from several random starts."""
    groups, _, inputs, size = kernel.shape[:-1]
    starts = max(1, STARTS // between)
    generator = torch.Generator().manual_seed(0)
    shape = starts * groups, between, inputs, 3, 3
    earlier = torch.randn(shape, dtype=kernel.dtype, generator=generator).to(kernel.device)
    repeated = kernel.repeat(starts, 1, 1, 1, 1)
    later = _later(repeated, earlier, size - 2)
    for _ in range(ROUNDS):
        earlier = _later(repeated.transpose(1, 2), later.transpose(1, 2), 3).transpose(1, 2)
        later = _later(repeated, earlier, size - 2)
    errors = (composed(later, earlier) - repeated).square().sum((1, 2, 3, 4)).view(starts, groups)
    best = errors.argmin(0) * groups + torch.arange(groups, device=kernel.device)
    return later[best], earlier[best]


def _later(kernel: Tensor, earlier: Tensor, size: int) -> Tensor:
    """The kernel (G, O, M, size, size) that suits ``earlier`` best; with inputs and outputs exchanged, the other way
    round."""
    groups, outputs = kernel.shape[:2]
    between = earlier.shape[1]
    unknowns = between * size * size
    ones = torch.eye(unknowns, dtype=kernel.dtype, device=kernel.device).view(1, unknowns, between, size, size)
    rows = composed(ones.expand(groups, -1, -1, -1, -1), earlier).flatten(2)
    moments = rows @ rows.mT
    ridge = 1e-10 * moments.diagonal(dim1=-2, dim2=-1).mean(-1).clamp_min(1e-30)
    moments = moments + ridge[:, None, None] * torch.eye(unknowns, dtype=kernel.dtype, device=kernel.device)
    solved: Tensor = torch.linalg.solve(moments, rows @ kernel.flatten(2).mT)
    return solved.mT.reshape(groups, outputs, between, size, size)


def _polished(factors: Sequence[Tensor], kernel: Tensor) -> list[Tensor]:
    """The factors after L-BFGS on all of them, each group of channels relative to its own kernel."""
    scale = kernel.square().sum((1, 2, 3, 4)).clamp_min(1e-30)

    def error(parts: Sequence[Tensor]) -> Tensor:
        whole = parts[0]
        for later in parts[1:]:
            whole = composed(later, whole)
        return ((whole - kernel).square().sum((1, 2, 3, 4)) / scale).sum()

    free = [factor.contiguous().clone().requires_grad_() for factor in factors]
    optimizer = torch.optim.LBFGS(
        free, max_iter=ITERATIONS, history_size=20, line_search_fn="strong_wolfe", tolerance_grad=1e-12,
        tolerance_change=1e-16,
    )  # fmt: skip

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = error(free)
        loss.backward()
        return loss

    with torch.enable_grad():
        optimizer.step(closure)
    after = [factor.detach() for factor in free]
    return after if float(error(after)) < float(error(factors)) else list(factors)
