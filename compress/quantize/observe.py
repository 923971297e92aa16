"""Observers: the range of a tensor's values, seen batch by batch in memory that does not grow.

:class:`MinMax` keeps two numbers; :class:`Percentile` also a histogram, whose range doubles when a value falls outside
of it. Wu et al., "Integer Quantization for Deep Learning Inference: Principles and Empirical Evaluation" (2020),
section 3.2, compares both.
"""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor

BINS = 4096


class Observer(Protocol):
    """Told the values of one tensor; :meth:`range` is what must be representable."""

    def observe(self, values: Tensor) -> None: ...

    def range(self) -> tuple[float, float]: ...


class MinMax:
    """The smallest and the largest value seen."""

    def __init__(self) -> None:
        self.low = math.inf
        self.high = -math.inf

    def observe(self, values: Tensor) -> None:
        """Take in ``values``, of any shape."""
        low, high = torch.aminmax(values.detach())
        self.low, self.high = min(self.low, float(low)), max(self.high, float(high))

    def range(self) -> tuple[float, float]:
        """Lowest and highest."""
        return self.low, self.high


class Percentile:
    """The range without its extremes: (100 - ``percentile``) percent of the values are cut off at each end.

    Counts of :data:`BINS` equal bins over [-bound, bound), where the bound is a power of two. When a value falls
    outside, the bound doubles and neighbouring bins merge, so that every count stays exact; the range is known to one
    bin width.
    """

    def __init__(self, percentile: float) -> None:
        self.percentile = percentile
        self.counts = torch.zeros(BINS, dtype=torch.int64)
        self.bound = 0.0
        self.extremes = MinMax()

    def observe(self, values: Tensor) -> None:
        """Take in ``values``, of any shape."""
        values = values.detach().float().flatten()
        self.extremes.observe(values)
        largest = max(abs(self.extremes.low), abs(self.extremes.high))
        if largest == 0:
            largest = 2.0**-60
        needed = 2.0 ** math.frexp(largest)[1]  # above the largest, never equal
        if self.bound == 0.0:
            self.bound = needed
        while self.bound < needed:
            merged = self.counts.view(-1, 2).sum(1)
            self.counts = torch.zeros_like(self.counts)
            self.counts[BINS // 4 : BINS // 4 + BINS // 2] = merged
            self.bound *= 2
        width = 2 * self.bound / BINS
        index = (values / width).floor_().to(torch.int64).add_(BINS // 2).clamp_(0, BINS - 1)
        self.counts += torch.bincount(index, minlength=BINS)

    def range(self) -> tuple[float, float]:
        """The two percentiles, to one bin width and never outside of what was seen."""
        total = int(self.counts.sum())
        cut = int(total * (100 - self.percentile) / 100 + 1e-6)  # a whole number, compared with exact counts
        width = 2 * self.bound / BINS
        below = self.counts.cumsum(0)
        above = self.counts.flip(0).cumsum(0)
        lowest = int((below > cut).nonzero()[0])
        highest = BINS - 1 - int((above > cut).nonzero()[0])
        low, high = lowest * width - self.bound, (highest + 1) * width - self.bound
        return max(low, self.extremes.low), min(high, self.extremes.high)
