"""Percentiles that a number of runs bears: MLPerf's early stopping, and an interval of the median.

Both rest on how many of n independent runs lie above a percentile, which is binomial; nothing is assumed of how
latencies are distributed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

CONFIDENCE = 0.99
"""Of early stopping (MLPerf Inference rules, appendix "Early Stopping Criterion")."""

P99_RUNS = 662
"""The fewest runs that bear a 99th percentile: `most_over` is 1 from there on."""


def binomial_cdf(trials: int, probability: float) -> NDArray[np.float64]:
    """Return the probabilities of at most 0, 1, ... ``trials`` successes, (trials + 1,); 0 < ``probability`` < 1.

    >>> binomial_cdf(64, 0.1)[1].round(4).item()
    0.0096
    """
    successes = np.arange(trials, dtype=np.float64)
    steps = np.log((trials - successes) / (successes + 1)) + math.log(probability) - math.log1p(-probability)
    log_terms = trials * math.log1p(-probability) + np.concatenate(([0.0], np.cumsum(steps)))
    cumulated: NDArray[np.float64] = np.exp(np.logaddexp.accumulate(log_terms))
    return cumulated


def most_over(runs: int, percentile: int, confidence: float = CONFIDENCE) -> int:
    """Return the largest t for which ``runs`` bear the percentile with t runs over it; 0 where they are too few.

    They bear it where t or fewer would be over it by chance with a probability of at most 1 - ``confidence``.

    >>> most_over(64, 90), most_over(63, 90), most_over(662, 99), most_over(661, 99)
    (1, 0, 1, 0)
    """
    borne = int(np.count_nonzero(binomial_cdf(runs, 1 - percentile / 100) <= 1 - confidence))
    return max(borne - 1, 0)


def early_stopping(samples: Sequence[float], percentile: int, confidence: float = CONFIDENCE) -> float | None:
    """Return an estimate of a percentile that is not too low with ``confidence``; None where the runs are too few.

    The t - 1 slowest runs are discarded, and the slowest that is left is the estimate; t is that of `most_over` (MLPerf
    Inference rules, appendix "Early Stopping Criterion", for the scenario of a single stream).
    """
    over = most_over(len(samples), percentile, confidence)
    return sorted(samples)[len(samples) - over] if over else None


def median_interval(samples: Sequence[float], confidence: float = 0.95) -> tuple[float, float] | None:
    """Return between which two runs the median lies with ``confidence``; None where the runs are too few (below 6).

    The interval of order statistics (Conover, "Practical Nonparametric Statistics" (1999), section 3.2), for runs that
    do not depend on each other.

    >>> median_interval([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    (1.0, 6.0)
    """
    least = int(np.count_nonzero(binomial_cdf(len(samples), 0.5) <= (1 - confidence) / 2)) - 1
    if least < 0:
        return None
    ordered = sorted(samples)
    return ordered[least], ordered[-1 - least]
