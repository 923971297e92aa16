"""Intervals cover the truth as often as they say, on series whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from compress.compare.intervals import LEAST_SAMPLES, ratio_of_medians

SERIES = 400


def latencies(rng: np.random.Generator, count: int, correlation: float) -> NDArray[np.float64]:
    """Skewed latencies with a median of 1, (SERIES, count); each depends on the one before."""
    noise = rng.standard_normal((count, SERIES))
    state = noise.copy()
    for i in range(1, count):
        state[i] = correlation * state[i - 1] + np.sqrt(1 - correlation**2) * noise[i]
    values: NDArray[np.float64] = (1 + 0.05 * (np.exp(0.8 * state) - 1)).T
    return values


def covered(before: NDArray[np.float64], after: NDArray[np.float64], ratio: float, paired: bool) -> float:
    found = [ratio_of_medians(a.tolist(), b.tolist(), paired=paired) for a, b in zip(before, after, strict=True)]
    assert all(each.low is not None and each.high is not None and each.low <= each.value <= each.high for each in found)
    return float(np.mean([each.low <= ratio <= each.high for each in found]))  # type: ignore[operator]


@pytest.mark.parametrize("paired", [True, False], ids=["paired", "apart"])
@pytest.mark.parametrize(("count", "correlation"), [(30, 0.0), (100, 0.5), (1000, 0.0), (1000, 0.9)])
def test_intervals_cover_the_truth(count: int, correlation: float, paired: bool) -> None:
    rng = np.random.default_rng(7)
    before, after = latencies(rng, count, correlation), 1.25 * latencies(rng, count, correlation)
    if paired:  # the machine slows down by a tenth meanwhile, for both
        drift = np.linspace(1.0, 1.1, count)
        before, after = before * drift, after * drift
    assert 0.915 <= covered(before, after, 1.25, paired) <= 0.985


def test_intervals_are_not_wide_for_safety() -> None:
    """Of independent samples they are about as wide as theory allows: 1.2533 standard deviations of a mean."""
    rng = np.random.default_rng(3)
    before, after = (rng.normal(1.0, 0.02, (SERIES, 400)) for _ in range(2))
    found = [ratio_of_medians(a.tolist(), b.tolist(), paired=False) for a, b in zip(before, after, strict=True)]
    widths = [each.high - each.low for each in found if each.high is not None and each.low is not None]
    least = 2 * 1.96 * 1.2533 * 0.02 * np.sqrt(2 / 400)
    assert len(widths) == SERIES and 0.95 < np.mean(widths) / least < 1.2


def test_what_happened_to_both_falls_out_of_pairs() -> None:
    rng = np.random.default_rng(1)
    shared = np.repeat(rng.uniform(1.0, 1.5, 20), 10)  # states that the machine is in for ten rounds
    before = (shared * rng.normal(1, 0.002, 200)).tolist()
    after = (1.1 * shared * rng.normal(1, 0.002, 200)).tolist()
    paired, apart = (ratio_of_medians(before, after, paired=each) for each in (True, False))
    assert paired.low is not None and paired.high is not None and apart.low is not None and apart.high is not None
    assert 20 * (paired.high - paired.low) < apart.high - apart.low


def test_few_samples_have_no_interval() -> None:
    few = [1.0 + 0.01 * (i % 3) for i in range(LEAST_SAMPLES)]
    assert ratio_of_medians(few[1:], few, paired=True).low is None
    assert ratio_of_medians(few, few, paired=False).low is not None
    assert not ratio_of_medians(few[1:], few, paired=True).differs


def test_one_side_may_have_lost_its_last_rounds() -> None:
    long = [1.0 + 0.01 * (i % 7) for i in range(100)]
    found = ratio_of_medians(long[:60], [2 * sample for sample in long], paired=True)
    assert found.value == 2.0 and found.low == pytest.approx(2.0) and found.high == pytest.approx(2.0)


@pytest.mark.parametrize(("loadings", "noise"), [(10, 0.005), (5, 0.01), (3, 0.01)])
@pytest.mark.parametrize("paired", [True, False], ids=["paired", "apart"])
def test_intervals_cover_what_each_loading_does_to_a_file(loadings: int, noise: float, paired: bool) -> None:
    """Each loading of a file makes its runs about a hundredth longer or shorter, as memory lies."""
    rng, count = np.random.default_rng(11), 600
    loaded_at = tuple(sorted(int(at) for at in np.linspace(0, count, loadings + 1)[1:-1] + rng.integers(-9, 9)))
    told, untold = [], []
    for _ in range(SERIES):
        sides = []
        for _ in range(2):
            offsets = np.repeat(rng.normal(0, 0.01, loadings), np.diff([0, *loaded_at, count]))
            values = np.exp(offsets + rng.normal(0, noise, count) + np.abs(rng.normal(0, 0.02, count)))
            sides.append(values.tolist())
        before, after = sides
        told.append(ratio_of_medians(before, after, paired=paired, loaded_at=(loaded_at, loaded_at)).differs)
        untold.append(ratio_of_medians(before, after, paired=paired).differs)
    assert 0.925 <= 1 - np.mean(told) <= 0.985
    if loadings < 10:
        assert 1 - np.mean(untold) < 0.85, "ten sections claim to know more than so many loadings tell"


def test_a_loading_is_one_section() -> None:
    before = [1.0, 1.1, 1.2] * 20
    after = [value * (2.0 if i < 30 else 8.0) for i, value in enumerate(before)]
    found = ratio_of_medians(before, after, paired=True, loaded_at=((30,), (30,)))
    assert found.low is not None and found.low < 0.05 * found.value, "two sections, far apart"
