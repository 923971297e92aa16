"""Early stopping and the interval of the median, against SciPy's binomial distribution."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from runtimes.measure.percentiles import P99_RUNS, binomial_cdf, early_stopping, median_interval, most_over


@pytest.mark.parametrize("trials", [1, 2, 64, 1000, 50_000])
@pytest.mark.parametrize("probability", [0.01, 0.1, 0.5])
def test_binomial_distribution(trials: int, probability: float) -> None:
    expected = stats.binom.cdf(np.arange(trials + 1), trials, probability)
    np.testing.assert_allclose(binomial_cdf(trials, probability), expected, rtol=1e-8, atol=1e-14)


@pytest.mark.parametrize(("percentile", "fewest"), [(90, 64), (95, 130), (99, P99_RUNS)])
def test_fewest_runs_are_those_of_the_rules_of_mlperf(percentile: int, fewest: int) -> None:
    assert most_over(fewest - 1, percentile) == 0 and most_over(fewest, percentile) == 1
    assert early_stopping([1.0] * (fewest - 1), percentile) is None


@pytest.mark.parametrize("runs", [64, 100, 662, 1024, 5000, 24_576])
@pytest.mark.parametrize("percentile", [90, 99])
def test_as_many_runs_may_be_over_as_chance_would_not_have_left(runs: int, percentile: int) -> None:
    """With t runs over the percentile: Pr[Binomial(n, 1 - p) <= t] <= 1 - confidence, and not with t + 1."""
    over = np.arange(runs)
    borne = over[stats.binom.cdf(over, runs, 1 - percentile / 100) <= 0.01]
    assert most_over(runs, percentile) == (int(borne.max()) if borne.size else 0)


def test_the_slowest_are_discarded_and_the_slowest_left_is_told() -> None:
    samples = np.random.default_rng(0).permutation(np.arange(1024.0))
    over = most_over(1024, 90)
    assert over == 80 and early_stopping(list(samples), 90) == 1023 - (over - 1)
    assert early_stopping(list(samples), 99) == 1023 - (most_over(1024, 99) - 1) == 1021


def test_the_estimate_is_rarely_below_the_percentile() -> None:
    rng = np.random.default_rng(1)
    true = stats.lognorm.ppf(0.9, 0.5)
    estimates = [early_stopping(list(stats.lognorm.rvs(0.5, size=200, random_state=rng)), 90) for _ in range(500)]
    assert np.mean([estimate is not None and estimate < true for estimate in estimates]) <= 0.01


def test_the_interval_of_the_median_is_that_of_order_statistics() -> None:
    for count in (6, 7, 50, 1001):
        samples = list(np.random.default_rng(count).permutation(np.arange(float(count))))
        low = int(stats.binom.ppf(0.025, count, 0.5))
        low -= stats.binom.cdf(low, count, 0.5) > 0.025
        assert median_interval(samples) == (low, count - 1 - low)
    assert median_interval([1.0] * 5) is None


def test_the_interval_covers_the_median_as_often_as_it_says() -> None:
    rng = np.random.default_rng(2)
    intervals = [median_interval(list(rng.exponential(size=101))) for _ in range(1000)]
    covered = np.mean([each is not None and each[0] <= np.log(2) <= each[1] for each in intervals])
    assert 0.93 <= covered <= 0.99
