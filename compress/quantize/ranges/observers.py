"""Observers: the range of a tensor's values, seen batch by batch in memory that does not grow.

:class:`MinMax` and :class:`MovingAverage` keep two numbers; :class:`Percentile`, :class:`Entropy` and
:class:`SquaredError` also a :class:`Histogram`, and choose the range when they are asked for it. Wu et al., "Integer
Quantization for Deep Learning Inference: Principles and Empirical Evaluation" (2020), section 3.2, compares them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, Protocol, get_args

import torch
from torch import Tensor

from ...integers.encoding import Encoding

BINS = 2**14
WILD = 0.01
"""The part of all values but zeros that may be wild: too large to widen the bins of a histogram."""
MARGIN = 8.0
"""How many times larger than all others a value must be for that."""
FAR = 32.0
"""How many times the usual a value is that is worth a note: the others are left 3 of 8 bits."""
_SOME = 2**14
_CELL_BITS = 5
_PER_OCTAVE = 2**_CELL_BITS
_CELLS = 256 * _PER_OCTAVE
REFERENCE_BINS = 2048
"""The least number of bins that entropy compares by, in the part of the histogram that has values."""

Calibration = Literal["minmax", "moving_average", "percentile", "entropy", "mse"]
WeightCalibration = Literal["minmax", "mse"]

Range = tuple[float, float]


class Observer(Protocol):
    """Told the values of one tensor; :meth:`range` is what must be representable."""

    def observe(self, values: Tensor) -> None: ...

    def range(self) -> Range: ...


def observer_of(
    calibration: Calibration, *, percentile: float = 99.99, momentum: float = 0.9, bits: int = 8
) -> Observer:
    """A new observer for the values of one activation.

    Args:
        percentile: of the values kept at each end, for ``percentile``.
        momentum: of the average that ``moving_average`` keeps.
        bits: width of the integers, for those that weigh rounding: ``entropy`` and ``mse``.
    """
    makers: dict[str, Callable[[], Observer]] = {
        "minmax": MinMax,
        "moving_average": lambda: MovingAverage(momentum),
        "percentile": lambda: Percentile(percentile),
        "entropy": lambda: Entropy(bits),
        "mse": lambda: SquaredError(bits),
    }
    assert makers.keys() == set(get_args(Calibration))
    return makers[calibration]()


class MinMax:
    """The smallest and the largest value seen."""

    def __init__(self) -> None:
        self.low = math.inf
        self.high = -math.inf

    def observe(self, values: Tensor) -> None:
        """Take in ``values``, of any shape."""
        low, high = torch.aminmax(values.detach())
        self.low, self.high = min(self.low, float(low)), max(self.high, float(high))

    def range(self) -> Range:
        """The lowest and the highest value observed; (inf, -inf) where there was none."""
        return self.low, self.high


class MovingAverage:
    """Exponential moving averages of each batch's smallest and largest value (Jacob et al., 2017, section 3.1).

    They begin with the first batch; every later one enters with the weight ``1 - momentum``.
    """

    def __init__(self, momentum: float) -> None:
        self.momentum = momentum
        self.averages: Range | None = None

    def observe(self, values: Tensor) -> None:
        """Take in ``values``, of any shape, as one batch."""
        low, high = (float(end) for end in torch.aminmax(values.detach()))
        if self.averages is None:
            self.averages = low, high
        else:
            before = self.momentum
            self.averages = (
                before * self.averages[0] + (1 - before) * low,
                before * self.averages[1] + (1 - before) * high,
            )

    def range(self) -> Range:
        """The averages of the smallest and of the largest values; (inf, -inf) where nothing was observed."""
        return self.averages or (math.inf, -math.inf)


class Spread:
    """The largest absolute value seen, and one that all but a thousandth of the values of each batch stay within."""

    def __init__(self) -> None:
        self.largest = 0.0
        self.usual = 0.0

    def observe(self, values: Tensor) -> None:
        """Take in ``values``, of any shape; of many, evenly spaced ones tell what is usual."""
        sizes = values.detach().float().flatten().abs()
        self.largest = max(self.largest, float(sizes.max()))
        sample = sizes[:: max(1, len(sizes) // _SOME)]
        sample = sample[sample > 0]
        if len(sample):
            place = max(1, min(len(sample) - 1, int(len(sample) * 0.999)))
            self.usual = max(self.usual, float(sample.kthvalue(place).values))

    @property
    def wild(self) -> bool:
        """Whether the largest value is far beyond the others: rounded over its range, they keep few levels."""
        return self.largest > FAR * self.usual > 0


class Histogram:
    """Counts of :data:`BINS` equal bins over [-bound, bound), where the bound is a power of two.

    The bound is that of the values without the :data:`WILD` part of them that is largest, times :data:`MARGIN` at most:
    what lies beyond is counted in cells whose width is a part of their value, so that a few wild values widen no bin.
    When more values fall beyond, the bound doubles and neighbouring bins merge: every count stays exact. ``zeros``
    tells how many values are exactly 0, which any integers hold without an error.
    """

    def __init__(self) -> None:
        self.counts = torch.zeros(BINS, dtype=torch.int64)
        self.bound = 0.0
        self.zeros = 0
        self.seen = 0
        self.extremes = MinMax()
        self.beyond = torch.zeros(2, _CELLS, dtype=torch.int64)  # positive values, negative ones
        self.sums = torch.zeros(2, _CELLS, dtype=torch.float64)  # of their absolute values

    @property
    def width(self) -> float:
        """The width of one bin, in the unit of the values."""
        return 2 * self.bound / BINS

    def observe(self, values: Tensor) -> None:
        """Take in ``values``, of any shape."""
        values = values.detach().float().flatten()
        self.extremes.observe(values)
        self.seen += values.numel()
        self.zeros += values.numel() - int(torch.count_nonzero(values))
        outside = (values.abs() >= self.bound) & (values != 0)
        if bool(outside.any()):
            self._grow(values[outside])
            outside = values.abs() >= self.bound
        elif self.bound == 0.0:
            self.bound = 2.0**-60
        self._count_within(values[~outside], None)
        self._count_beyond(values[outside])

    def _grow(self, outside: Tensor) -> None:
        """Widen the bound for values that are outside of it, but for the wild ones."""
        octaves = torch.bincount(_cells_of(outside) // _PER_OCTAVE, minlength=256).to(self.beyond.device)
        octaves += self.beyond.view(2, 256, _PER_OCTAVE).sum((0, 2))
        farther = octaves.flip(0).cumsum(0).flip(0)  # how many lie in an octave or farther out
        wild = int((self.seen - self.zeros) * WILD)
        last = int((farther > wild).sum()) - 1  # the octave that the largest value that is not wild lies in
        usual = 2.0 ** (last - 126) if last >= 0 else self._usual(int(farther[0]), wild)
        largest = max(abs(self.extremes.low), abs(self.extremes.high))
        needed = min(2.0 ** math.frexp(largest)[1], MARGIN * usual)  # above the largest, never equal
        if self.bound == 0.0:
            self.bound = needed
        while self.bound < needed:
            merged = self.counts.view(-1, 2).sum(1)
            self.counts = torch.zeros_like(self.counts)
            self.counts[BINS // 4 : BINS // 4 + BINS // 2] = merged
            self.bound *= 2
        below = _cell_edges()[1:] <= self.bound
        for sign, counts, sums in zip((1, -1), self.beyond, self.sums, strict=True):
            moved = (counts > 0) & below
            if bool(moved.any()):
                self._count_within((sign * sums[moved] / counts[moved]).float(), counts[moved])
                counts[moved] = 0
                sums[moved] = 0

    def _usual(self, outside: int, wild: int) -> float:
        """The least power of two that at most ``wild`` values exceed, where it is not above the bound."""
        usual = self.bound
        while usual > self.bound / MARGIN:
            inner = round(usual / 2 / self.width)
            if outside + int(self.counts.sum() - self.counts[BINS // 2 - inner : BINS // 2 + inner].sum()) > wild:
                return usual
            usual /= 2
        return usual

    def _count_within(self, values: Tensor, counts: Tensor | None) -> None:
        index = (values / self.width).floor_().to(torch.int64).add_(BINS // 2).clamp_(0, BINS - 1)
        weights = None if counts is None else counts.double()
        self.counts += torch.bincount(index, weights, minlength=BINS).to(self.counts)

    def _count_beyond(self, values: Tensor) -> None:
        if not len(values):
            return
        for row, part in enumerate((values[values > 0], values[values < 0])):
            cells = _cells_of(part)
            self.beyond[row] += torch.bincount(cells, minlength=_CELLS).to(self.beyond.device)
            self.sums[row] += torch.bincount(cells, part.abs().double(), minlength=_CELLS).to(self.sums.device)

    def rounded(self) -> tuple[Tensor, Tensor]:
        """The bins whose values rounding can change, those at 0 left out: their first edges and counts, in float64.

        Both are of one length, from the first bin with values to the last, so that edges are evenly spaced.
        """
        counts = self.counts.double()
        counts[BINS // 2] -= self.zeros
        filled = counts.nonzero().flatten()
        first, last = (int(filled[0]), int(filled[-1])) if len(filled) else (BINS // 2, BINS // 2)
        edges = torch.arange(first, last + 1, dtype=torch.float64) * self.width - self.bound
        return edges, counts[first : last + 1]

    def wild(self) -> tuple[Tensor, Tensor]:
        """The values beyond the bound, in ascending order, each the mean of a cell, and their counts; in float64."""
        sides = []
        for sign, counts, sums in zip((1, -1), self.beyond, self.sums, strict=True):
            filled = counts > 0
            sides.append((sign * sums[filled] / counts[filled], counts[filled].double()))
        (above, many), (below, few) = sides
        return torch.cat([below.flip(0), above]), torch.cat([few.flip(0), many])


def _cells_of(values: Tensor) -> Tensor:
    """The cell that each absolute value lies in: its exponent, and the first bits of its fraction."""
    return values.abs().view(torch.int32).bitwise_right_shift(23 - _CELL_BITS).to(torch.int64)


def _cell_edges() -> Tensor:
    """Where the cells begin, and the last one ends (at infinity)."""
    codes = torch.arange(_CELLS + 1, dtype=torch.int64).clamp_max(255 << _CELL_BITS)
    return (codes << (23 - _CELL_BITS)).to(torch.int32).view(torch.float32).double()


class _OfHistogram:
    """An observer that chooses its range from a histogram, never wider than what was seen."""

    def __init__(self) -> None:
        self.histogram = Histogram()

    def observe(self, values: Tensor) -> None:
        """Take in ``values``, of any shape."""
        self.histogram.observe(values)

    def within(self, low: float, high: float) -> Range:
        """``low`` and ``high``, cut to the values seen."""
        seen = self.histogram.extremes
        return min(max(low, seen.low), seen.high), max(min(high, seen.high), seen.low)


class Percentile(_OfHistogram):
    """The range without its extremes: (100 - ``percentile``) percent of the values are cut off at each end.

    It is known to one bin's width.
    """

    def __init__(self, percentile: float) -> None:
        super().__init__()
        self.percentile = percentile

    def range(self) -> Range:
        """The two percentiles, to one bin width (a wild one to the width of its cell) and never outside of what was
        seen."""
        histogram = self.histogram
        wild, many = histogram.wild()
        below = int((wild < 0).sum())
        starts = torch.arange(BINS, dtype=torch.float64) * histogram.width - histogram.bound
        lows = torch.cat([wild[:below], starts, wild[below:]])
        highs = torch.cat([wild[:below], starts + histogram.width, wild[below:]])
        counts = torch.cat([many[:below], histogram.counts.double(), many[below:]])
        cut = int(int(counts.sum()) * (100 - self.percentile) / 100 + 1e-6)  # a whole number: counts are exact
        lowest = int((counts.cumsum(0) > cut).nonzero()[0])
        highest = len(counts) - 1 - int((counts.flip(0).cumsum(0) > cut).nonzero()[0])
        low = -math.inf if not lowest else float(lows[lowest])
        high = math.inf if highest == len(counts) - 1 else float(highs[highest])
        return self.within(low, high)


class Entropy(_OfHistogram):
    """The range whose rounded values tell the most about the values themselves.

    Migacz, "8-bit Inference with TensorRT" (2017): for each range, the histogram cut to it (what is outside counts in
    its end bins) is compared with the same bins merged into as many levels as there are integers and spread out again
    over the bins that have values; the range of the least Kullback-Leibler divergence wins. There the range is
    symmetric. Here it has two ends, searched in turn, of which one stays at 0 where all values are on one side. Wild
    values (:class:`Histogram`) are always outside.
    """

    def __init__(self, bits: int = 8) -> None:
        super().__init__()
        self.bits = bits

    def range(self) -> Range:
        """The chosen range."""
        edges, counts, width = _coarser(*self.histogram.rounded(), self.histogram.width)
        levels, total = 2**self.bits, len(counts)
        wild, many = self.histogram.wild()
        outside = (float(many[wild < 0].sum()), float(many[wild > 0].sum()))
        if total <= levels:
            whole = float(edges[0]), float(edges[-1]) + width
            return self.within(*whole) if any(outside) else self.histogram.extremes.range()
        zero = min(max(round(-float(edges[0]) / width), 0), total)  # so many bins are below 0
        first, last = 0, total
        for _ in range(3):
            before = first, last
            if float(edges[0]) + total * width > 0:
                ends = _candidates(max(first + levels, zero), total)
                last = min(ends, key=lambda end: divergence(counts, first, end, levels, outside))
            if float(edges[0]) < 0:
                starts = _candidates(0, min(last - levels, zero))
                first = min(starts, key=lambda start: divergence(counts, start, last, levels, outside))
            if (first, last) == before or zero in (0, total):  # settled, or there is one end to choose
                break
        return self.within(float(edges[0]) + first * width, float(edges[0]) + last * width)


def _coarser(edges: Tensor, counts: Tensor, width: float) -> tuple[Tensor, Tensor, float]:
    """Neighbouring bins merged as long as :data:`REFERENCE_BINS` remain."""
    merge = max(1, len(counts) // REFERENCE_BINS)
    padded = torch.nn.functional.pad(counts, (0, -len(counts) % merge))
    return edges[::merge], padded.view(-1, merge).sum(1), width * merge


def _candidates(least: int, most: int, count: int = 64) -> list[int]:
    """About ``count`` whole numbers from ``least`` to ``most``, both included; the last first, as ties are for it."""
    if least >= most:
        return [max(least, most)]
    return sorted({round(least + (most - least) * i / count) for i in range(count + 1)}, reverse=True)


def divergence(counts: Tensor, first: int, last: int, levels: int, outside: tuple[float, float] = (0.0, 0.0)) -> float:
    """The Kullback-Leibler divergence of bins [first, last) of ``counts`` (bins,), with what lies outside in the two
    end bins, from the same bins in ``levels`` levels; infinite where a bin that has values gets none.

    Args:
        outside: how many values lie below and above all bins.
    """
    inside = counts[first:last]
    reference = inside.clone()
    reference[0] += counts[:first].sum() + outside[0]
    reference[-1] += counts[last:].sum() + outside[1]
    level = torch.arange(len(inside)) * levels // len(inside)
    filled = (inside > 0).double()
    merged = torch.zeros(levels, dtype=torch.float64).index_add_(0, level, inside)
    spread_over = torch.zeros(levels, dtype=torch.float64).index_add_(0, level, filled)
    candidate = (merged / spread_over.clamp_min(1))[level] * filled
    known = reference > 0
    p = reference[known] / reference.sum()
    q = candidate[known] / candidate.sum()
    return float((p * (p / q).log()).sum()) if bool((q > 0).all()) else math.inf


class SquaredError(_OfHistogram):
    """The range that rounds with the least expected squared error, values outside of it clamped to its ends.

    Banner et al., "Post-training 4-bit quantization of convolution networks for rapid-deployment" (2019), section 2,
    minimise it in closed form for a known distribution; here it is searched on the histogram, end by end. One value
    that is far beyond all others may cost more than the rounding of all others, and is kept then.
    """

    def __init__(self, bits: int = 8) -> None:
        super().__init__()
        self.bits = bits

    def range(self) -> Range:
        """The chosen range; it holds 0, which is always exact."""
        edges, counts = self.histogram.rounded()
        wild, many = self.histogram.wild()
        values = torch.cat([(edges + self.histogram.width / 2)[counts > 0], wild])
        counts = torch.cat([counts[counts > 0], many])
        seen = self.histogram.extremes
        low, high = least, most = min(seen.low, 0.0), max(seen.high, 0.0)
        # Every pair of a coarse grid first, then each end by itself, in ever finer steps around the best.
        coarse = 0.8 ** torch.arange(20, dtype=torch.float64)
        ends = [
            torch.unique(torch.cat([end * coarse, min(end, self.histogram.bound) * coarse])).flip(0)
            for end in (-low, high)
        ]
        grid = torch.cartesian_prod(-ends[0], ends[1])
        low, high = self._best(values, counts, grid[:, 0], grid[:, 1])
        parts = torch.arange(1, 51, dtype=torch.float64) / 50
        for steps in (0.7 + 0.6 * parts, 0.9 + 0.2 * parts, 0.98 + 0.04 * parts):
            if high > 0:
                highs = (high * steps).clamp_max(most)
                low, high = self._best(values, counts, torch.full_like(highs, low), highs)
            if low < 0:
                lows = (low * steps).clamp_min(least)
                low, high = self._best(values, counts, lows, torch.full_like(lows, high))
        return low, high

    def _best(self, values: Tensor, counts: Tensor, lows: Tensor, highs: Tensor) -> Range:
        """The pair of (n,), (n,) with the least error; the last of several."""
        pairs = list(zip(lows.tolist(), highs.tolist(), strict=True))[::-1]
        low, high = min(pairs, key=lambda ends: squared_error(values, counts, ends[0], ends[1], self.bits))
        return low, high


def squared_error(values: Tensor, counts: Tensor, low: float, high: float, bits: int) -> float:
    """The sum of squared errors of ``values`` (n,), each counted ``counts`` times, rounded over ``low`` to ``high``."""
    parameters = Encoding((low,), (high,), bits).parameters("uint8")
    scale, zero = float(parameters.scale), int(parameters.zero_point)
    rounded = ((values / scale).round_() + zero).clamp_(parameters.low, parameters.high).sub_(zero).mul_(scale)
    return float(rounded.sub_(values).square_().mul_(counts).sum())


def weight_ranges(rows: Tensor, calibration: WeightCalibration = "minmax", *, bits: int = 8) -> tuple[Tensor, Tensor]:
    """The low and the high ends (n,) of the ranges of ``rows`` (n, values), each rounded about zero point 0 by itself.

    Args:
        calibration: all values (``minmax``), or the range that rounds with the least squared error (``mse``).
    """
    low, high = rows.aminmax(dim=1)
    if calibration == "mse":
        part = _least_error_parts(rows, torch.maximum(-low, high), bits)
        low, high = low * part, high * part
    return low, high


def _least_error_parts(rows: Tensor, largest: Tensor, bits: int) -> Tensor:
    """For each row of (n, values), the part of its ``largest`` (n,) at which clamped rounding has the least error."""
    most = 2 ** (bits - 1) - 1
    best = torch.ones_like(largest)
    least = torch.full_like(largest, math.inf)
    for percent in range(100, 19, -1):
        scale = (largest * percent / 100 / most).clamp_min(torch.finfo(torch.float32).tiny)[:, None]
        error = ((rows / scale).round_().clamp_(-most, most).mul_(scale) - rows).square_().sum(1)
        best = torch.where(error < least, percent / 100, best)
        least = torch.minimum(error, least)
    return best
