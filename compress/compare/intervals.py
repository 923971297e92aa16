"""The ratio of two medians and its 95 % interval, from the samples of two files.

Runs of a file that follow each other are alike, as the machine is in one state for a while: an interval that takes them
as independent is too narrow. So the samples, in their order, are cut into a few sections; each section has a ratio of
medians of its own, and how far these lie apart tells how uncertain the whole is, by Student's t (batch means with the
whole sample's estimate in the middle: Asmussen and Glynn, 2007, "Stochastic Simulation", III.5b). Where the two files
were run in turn in one loop, their sections are of the same moments, and what the machine did to both falls out.

A file that is loaded anew takes a little more or less time until it is loaded again: those samples are one section,
since cut into several they would pass for as many independent ones. What a file's only loading does to it is in no
interval.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SECTIONS = 10
"""Of the samples of a file. More would be shorter than the times for which a machine stays in one state."""

LEAST_SAMPLES = 12
"""That have an interval: four sections of three."""

_SHORTEST = 3
_CONFIDENCE = 0.95


@dataclass(frozen=True)
class Ratio:
    """How many times the median of ``before`` the median of ``after`` is.

    Args:
        value: over 1 where ``after`` takes longer.
        low: the lower end of the 95 % interval; None where there are too few samples for one.
        high: the upper end.
        paired: whether the interval is one of samples that were taken in turn.
    """

    value: float
    low: float | None = None
    high: float | None = None
    paired: bool = False

    @property
    def differs(self) -> bool:
        """Whether 1, no difference, is outside the interval."""
        return self.low is not None and self.high is not None and not self.low <= 1.0 <= self.high


def ratio_of_medians(
    before: Sequence[float],
    after: Sequence[float],
    *,
    paired: bool,
    loaded_at: tuple[Sequence[int], Sequence[int]] = ((), ()),
) -> Ratio:
    """The median of ``after`` over that of ``before``, with its interval.

    Samples are positive and in the order in which they were taken. Where they are ``paired``, those with the same index
    are of one round; what one side has more is left out of the interval.

    Args:
        loaded_at: of each, the numbers of samples after which the file was loaded anew.

    >>> steady = [2.0, 2.2, 2.1, 2.0, 2.1, 2.2, 2.1, 2.0, 2.2, 2.1, 2.0, 2.1]
    >>> ratio_of_medians(steady, [1.5 * sample for sample in steady], paired=True)
    Ratio(value=1.5, low=1.5, high=1.5, paired=True)
    >>> ratio_of_medians([1.0], [2.0], paired=False)
    Ratio(value=2.0, low=None, high=None, paired=False)
    """
    value = float(np.median(after) / np.median(before))
    rounds = min(len(before), len(after))
    if rounds < LEAST_SAMPLES:
        return Ratio(value)
    if paired:
        logs = _section_logs(after[:rounds], loaded_at[0]) - _section_logs(before[:rounds], loaded_at[0])
        error, freedom = _standard_error(logs), len(logs) - 1.0
    else:
        first, second = _section_logs(before, loaded_at[0]), _section_logs(after, loaded_at[1])
        error, freedom = _welch(first, second)
    half = _quantile(freedom) * error
    return Ratio(value, value * math.exp(-half), value * math.exp(half), paired)


def _section_logs(samples: Sequence[float], loaded_at: Sequence[int]) -> NDArray[np.float64]:
    """The logarithm of the median of each section: of a loading, or of as many samples as the others."""
    values = np.asarray(samples, dtype=np.float64)
    cuts = [at for at in loaded_at if _SHORTEST <= at <= len(values) - _SHORTEST]
    sections = np.split(values, cuts) if cuts else np.array_split(values, min(SECTIONS, len(values) // _SHORTEST))
    return np.log([float(np.median(section)) for section in sections if len(section)])


def _standard_error(values: NDArray[np.float64]) -> float:
    return float(values.std(ddof=1) / math.sqrt(len(values)))


def _welch(first: NDArray[np.float64], second: NDArray[np.float64]) -> tuple[float, float]:
    """The standard error of the difference of two means, and its degrees of freedom (Welch, 1947)."""
    variances = _standard_error(first) ** 2, _standard_error(second) ** 2
    total = sum(variances)
    if total == 0:
        return 0.0, 1.0
    parts = (v**2 / (len(each) - 1) for v, each in zip(variances, (first, second), strict=True))
    return math.sqrt(total), total**2 / sum(parts)


def _quantile(freedom: float) -> float:
    """How many standard errors the interval reaches to each side."""
    from scipy.special import stdtrit

    return float(stdtrit(freedom, 0.5 + _CONFIDENCE / 2))
