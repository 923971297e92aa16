"""Weights of few levels, as parametrizations of torch: the values that a layer computes with, and gradients for the
float values behind them. Each ends as a :class:`Levels`: rows of levels and a factor per channel.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.autograd import Function

from .learned_scales import TINY, gradient_factor, lsq_per_channel


@dataclass(frozen=True)
class Levels:
    """The values that a weight takes: in channel c ``rows[r][code] * factors[c]``, where r is c, or 0 for a single row.

    ``factors`` is (channels,), ``rows`` (1, levels) or (channels, levels).
    """

    rows: Tensor
    factors: Tensor


class WeightRounding(Protocol):
    """A parametrization that rounds a weight with output channels first."""

    def __call__(self, weight: Tensor) -> Tensor:
        """The rounded weight, in its shape."""
        ...

    def levels(self, weight: Tensor) -> Levels:
        """The levels that the rounded ``weight`` has."""
        ...


def binary_scales(weight: Tensor) -> Tensor:
    """The factor of each channel's signs, (channels,): the mean magnitude of its values.

    Rastegari et al., "XNOR-Net" (2016), equation 6: the one that errs least.
    """
    return weight.flatten(1).abs().mean(1).clamp_min(TINY)


class Binary(nn.Module):
    """Signs times :func:`binary_scales`; the gradient passes straight between -1 and 1 (XNOR-Net, section 3)."""

    def forward(self, weight: Tensor) -> Tensor:
        scaled = _signs(weight) * _spread(binary_scales(weight), weight)
        return _straight_through(weight.clamp(-1, 1), scaled)

    def levels(self, weight: Tensor) -> Levels:
        return Levels(torch.tensor([[-1.0, 1.0]]), binary_scales(weight))


def ternary(weight: Tensor) -> tuple[Tensor, Tensor]:
    """-1, 0 or 1 for each value, and the factor of each channel, (channels,).

    Li et al., "Ternary Weight Networks" (2016), equations 5 and 6: values within 0.7 of the mean magnitude are zero,
    the factor is the mean magnitude of the others; here for each filter.
    """
    rows = weight.flatten(1)
    nonzero = rows.abs() > 0.7 * rows.abs().mean(1, keepdim=True)
    count = nonzero.sum(1).clamp_min(1)
    factors = ((rows.abs() * nonzero).sum(1) / count).clamp_min(TINY)
    return (torch.sign(rows) * nonzero).view_as(weight), factors


class Ternary(nn.Module):
    """Ternary weights (TWN) with a factor per filter; the gradient passes straight through."""

    def forward(self, weight: Tensor) -> Tensor:
        codes, factors = ternary(weight)
        return _straight_through(weight, codes * _spread(factors, weight))

    def levels(self, weight: Tensor) -> Levels:
        return Levels(torch.tensor([[-1.0, 0.0, 1.0]]), ternary(weight)[1])


class TrainedTernary(nn.Module):
    """Ternary weights whose positive and negative values are learnt, one pair for the layer.

    Zhu et al., "Trained Ternary Quantization" (2017), equations 6-9, with the threshold at 0.05 of the largest
    magnitude.
    """

    THRESHOLD = 0.05

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        with torch.no_grad():
            above, below = self._sides(weight)
            start = [(weight.abs() * side).sum() / side.sum().clamp_min(1) for side in (above, below)]
        self.values = nn.Parameter(torch.stack(start).clamp_min(TINY))

    def _sides(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        threshold = self.THRESHOLD * weight.abs().max()
        return (weight > threshold).to(weight.dtype), (weight < -threshold).to(weight.dtype)

    def forward(self, weight: Tensor) -> Tensor:
        above, below = self._sides(weight.detach())
        positive, negative = self.values.clamp_min(TINY)
        rounded = positive * above - negative * below
        slope = (positive * above + negative * below + (1 - above - below)).detach()
        ternary: Tensor = rounded + slope * (weight - weight.detach())
        return ternary

    def levels(self, weight: Tensor) -> Levels:
        positive, negative = self.values.detach().clamp_min(TINY)
        largest = torch.maximum(positive, negative)
        rows = torch.stack([-negative / largest, torch.zeros(()), positive / largest])[None]
        return Levels(rows, largest.expand(len(weight)).clone())


class LearnedSteps(nn.Module):
    """Multiples of a learnt step per channel, ``1 - 2^(bits - 1) .. 2^(bits - 1) - 1`` of them (LSQ)."""

    def __init__(self, weight: Tensor, bits: int) -> None:
        super().__init__()
        self.most = 2 ** (bits - 1) - 1
        mean = weight.detach().flatten(1).abs().mean(1)
        self.step = nn.Parameter((2 * mean / self.most**0.5).clamp_min(TINY))

    def forward(self, weight: Tensor) -> Tensor:
        factor = gradient_factor(weight[0].numel(), self.most)
        return lsq_per_channel(weight, self.step, -self.most, self.most, factor)

    def levels(self, weight: Tensor) -> Levels:
        counts = torch.arange(-self.most, self.most + 1, dtype=torch.float32)
        return Levels(counts[None], self.step.detach().clamp_min(TINY))


class PowersOfTwo(nn.Module):
    """Zero and powers of two times one factor for the layer; what is not yet ``fixed`` stays a float.

    Zhou et al., "Incremental Network Quantization" (INQ, 2017), equations 1-4: of ``bits`` one is for zero, and the
    largest exponent is ``floor(log2(4 max / 3))``. With all weights fixed from the beginning gradients pass straight
    through; what :meth:`fix` has fixed little by little, largest first, does not change any more.
    """

    fixed: Tensor
    rounded: Tensor

    def __init__(self, weight: Tensor, bits: int, *, incremental: bool = False) -> None:
        super().__init__()
        self.top = int(torch.floor(torch.log2(4 * weight.detach().abs().max().clamp_min(TINY) / 3)))
        self.bottom = self.top + 1 - 2 ** (bits - 1) // 2
        self.incremental = incremental
        self.register_buffer("fixed", torch.zeros_like(weight, dtype=torch.bool))
        self.register_buffer("rounded", torch.zeros_like(weight))

    def nearest(self, weight: Tensor) -> Tensor:
        """The levels that values round to: between two powers at 0.75 of the larger, to zero below the least one."""
        magnitude = weight.abs()
        exponent = torch.floor(torch.log2(magnitude.clamp_min(TINY) * 4 / 3)).clamp(self.bottom, self.top)
        nonzero = magnitude >= 2.0 ** (self.bottom - 1)
        powers: Tensor = torch.sign(weight) * torch.exp2(exponent) * nonzero
        return powers

    def forward(self, weight: Tensor) -> Tensor:
        if not self.incremental:
            return _straight_through(weight, self.nearest(weight.detach()))
        return torch.where(self.fixed, self.rounded, weight)

    def fix(self, weight: Tensor, share: float) -> None:
        """Round the largest weights, so that ``share`` of all are fixed."""
        wanted = round(share * weight.numel()) - int(self.fixed.sum())
        if wanted > 0:
            magnitudes = weight.detach().abs().masked_fill(self.fixed, -1).flatten()
            chosen = magnitudes.topk(wanted).indices
            self.fixed.view(-1)[chosen] = True
            self.rounded.view(-1)[chosen] = self.nearest(weight.detach()).flatten()[chosen]

    def levels(self, weight: Tensor) -> Levels:
        powers = torch.exp2(torch.arange(self.bottom - self.top, 1, dtype=torch.float32))
        rows = torch.cat([-powers.flip(0), torch.zeros(1), powers])[None]
        return Levels(rows, torch.full((len(weight),), 2.0**self.top))


class Bases(nn.Module):
    """Sums of several binary tensors, each times a factor for the channel; gradients pass straight through.

    Lin et al., "Towards Accurate Binary Convolutional Neural Network" (ABC-Net, 2017), equations 2-4: the tensors are
    signs of the weight shifted by multiples of its deviation, the factors those with the least squared error; here for
    each filter.
    """

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count

    def parts(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """The binary tensors (channels, count, values) and their factors (channels, count)."""
        rows = weight.flatten(1)
        mean, deviation = rows.mean(1, keepdim=True), rows.std(1, keepdim=True)
        shifts = torch.linspace(-1, 1, self.count, device=rows.device) if self.count > 1 else rows.new_zeros(1)
        signs = torch.stack([_signs(rows - mean + shift * deviation) for shift in shifts], 1)
        gram = signs @ signs.mT + 1e-6 * rows.shape[1] * torch.eye(self.count, device=rows.device)
        factors = torch.linalg.solve(gram, (signs @ rows[:, :, None]))[:, :, 0]
        return signs, factors

    def forward(self, weight: Tensor) -> Tensor:
        with torch.no_grad():
            signs, factors = self.parts(weight.float())
            rounded = (signs * factors[:, :, None]).sum(1).view_as(weight)
        return _straight_through(weight, rounded)

    def levels(self, weight: Tensor) -> Levels:
        _, factors = self.parts(weight.float())
        combinations = torch.tensor([code[::-1] for code in itertools.product((-1.0, 1.0), repeat=self.count)])
        values = factors @ combinations.T
        largest = values.abs().amax(1).clamp_min(TINY)
        return Levels(values / largest[:, None], largest)


class Centroids(nn.Module):
    """Values from a codebook, one for the layer or for each channel, that is trained while the codes stay.

    Han et al., "Deep Compression" (2016), section 3: the gradient of a centroid is the sum of those of its weights
    (equation 3). A value of exactly zero stays zero.

    Args:
        codes: of each weight, in its shape.
        book: (1, levels) or (channels, levels).
        frozen: of the same shape: levels that do not change.
    """

    codes: Tensor
    frozen: Tensor

    def __init__(self, codes: Tensor, book: Tensor, frozen: Tensor) -> None:
        super().__init__()
        rows = torch.arange(len(codes)).view(-1, *(1 for _ in codes.shape[1:])) if len(book) > 1 else torch.tensor(0)
        self.register_buffer("codes", codes.long() + rows * book.shape[1])
        self.register_buffer("frozen", frozen)
        self.book = nn.Parameter(book.clone())

    def forward(self, weight: Tensor) -> Tensor:
        book = torch.where(self.frozen, self.book.detach(), self.book)
        shared: Tensor = _Lookup.apply(book.flatten(), self.codes)  # type: ignore[no-untyped-call]
        return shared

    def levels(self, weight: Tensor) -> Levels:
        book = self.book.detach()
        largest = book.abs().amax(1, keepdim=True).clamp_min(TINY)
        return Levels(book / largest, largest[:, 0].expand(len(weight)).clone())


class _Lookup(Function):
    @staticmethod
    def forward(ctx: Any, book: Tensor, codes: Tensor) -> Any:
        ctx.save_for_backward(codes)
        ctx.levels = len(book)
        return book[codes]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        (codes,) = ctx.saved_tensors
        total = torch.bincount(codes.flatten(), gradients[0].flatten().float(), ctx.levels)
        return total.to(gradients[0].dtype), None


WeightRule = Callable[[Tensor], nn.Module]
"""Makes the parametrization of a weight from its values."""


def _signs(x: Tensor) -> Tensor:
    return torch.where(x >= 0, 1.0, -1.0)


def _spread(factors: Tensor, weight: Tensor) -> Tensor:
    return factors.view(-1, *(1 for _ in weight.shape[1:]))


def _straight_through(passed: Tensor, rounded: Tensor) -> Tensor:
    """``rounded``, bit for bit, with the gradient of ``passed``."""
    found: Tensor = _StraightThrough.apply(passed, rounded.detach())  # type: ignore[no-untyped-call]
    return found


class _StraightThrough(Function):
    @staticmethod
    def forward(ctx: Any, passed: Tensor, rounded: Tensor) -> Any:  # noqa: ARG004 - the signature is torch's
        return rounded.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:  # noqa: ARG004 - the signature is torch's
        return gradients[0], None
