"""Observers against NumPy on all values at once."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from compress.integers.encoding import Encoding
from compress.quantize.ranges.observers import (
    BINS,
    Calibration,
    Entropy,
    MinMax,
    MovingAverage,
    Percentile,
    Spread,
    SquaredError,
    divergence,
    observer_of,
    weight_ranges,
)
from compress.quantize.scheme import SCHEMES


def batches(seed: int, scales: list[float]) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(8, 500, generator=generator) * scale for scale in scales]


@pytest.mark.parametrize("scales", [[1, 1, 1], [0.01, 1, 300], [5, 0, 0.1]])
def test_min_max(scales: list[float]) -> None:
    observer = MinMax()
    values = batches(0, scales)
    for batch in values:
        observer.observe(batch)
    everything = torch.cat(values)
    assert observer.range() == (float(everything.min()), float(everything.max()))


@pytest.mark.parametrize("scales", [[1, 1, 1], [0.01, 1, 300], [300, 0, 0.1], [1e-6, 1e-6]])
@pytest.mark.parametrize("percentile", [90, 99, 99.9])
def test_percentile_is_that_of_all_values_to_one_bin(scales: list[float], percentile: float) -> None:
    observer = Percentile(percentile)
    values = batches(1, scales)
    for batch in values:
        observer.observe(batch)
    everything = np.sort(torch.cat(values).numpy().ravel())
    bin_width = 2 * observer.histogram.bound / BINS
    cut = round(everything.size * (100 - percentile) / 100)
    expected = everything[[cut, -1 - cut]]
    assert np.abs(np.array(observer.range()) - expected).max() <= bin_width * 1.001
    assert int(observer.histogram.counts.sum()) == everything.size


def test_percentile_100_is_min_max() -> None:
    observer, extremes = Percentile(100), MinMax()
    for batch in batches(2, [1, 40, 2]):
        observer.observe(batch)
        extremes.observe(batch)
    assert observer.range() == extremes.range()


def test_one_outlier_is_left_out() -> None:
    observer = Percentile(99.9)
    values = torch.rand(100_000)
    values[7] = 1e4
    observer.observe(values)
    low, high = observer.range()
    assert low >= 0
    assert high < 10


def test_zeros_have_an_empty_range() -> None:
    observer = Percentile(99)
    observer.observe(torch.zeros(10))
    assert observer.range() == (0.0, 0.0)


@pytest.mark.parametrize("calibration", get_args(Calibration))
def test_memory_does_not_grow(calibration: Calibration) -> None:
    def held(value: object) -> int:
        if isinstance(value, torch.Tensor):
            return value.nbytes
        return sum(held(inner) for inner in vars(value).values()) if hasattr(value, "__dict__") else 8

    observer = observer_of(calibration)
    sizes = set()
    for batch in batches(3, [1, 10, 100, 1000]):
        observer.observe(batch)
        observer.range()
        sizes.add(held(observer))
    assert len(sizes) == 1


def test_moving_average() -> None:
    observer = MovingAverage(0.75)
    values = batches(4, [1, 3, 2])
    for batch in values:
        observer.observe(batch)
    low, high = (float(end) for end in values[0].aminmax())
    for batch in values[1:]:
        low, high = 0.75 * low + 0.25 * float(batch.min()), 0.75 * high + 0.25 * float(batch.max())
    assert observer.range() == pytest.approx((low, high))


def rounded(x: NDArray[np.float64], low: float, high: float, bits: int) -> NDArray[np.float64]:
    """Affine rounding of every value, spelled out."""
    low, high = min(low, 0.0), max(high, 0.0)
    scale = (high - low) / (2**bits - 1)
    zero = round(-low / scale)
    return (np.clip(np.rint(x / scale) + zero, 0, 2**bits - 1) - zero) * scale


def distributions() -> dict[str, NDArray[np.float64]]:
    random = np.random.default_rng(0)
    heavy = random.standard_t(3, 20_000).astype(np.float32).astype(np.float64)
    return {
        "normal": random.standard_normal(20_000).astype(np.float32).astype(np.float64),
        "heavy": heavy,
        "relu": np.maximum(heavy, 0),
        "negative": -np.abs(heavy),
        "shifted": np.concatenate([np.round(random.standard_normal(20_000) * 1024) / 1024 + 1, [60.0]]),
    }


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("name", distributions())
def test_least_squared_error_is_that_of_a_search_over_all_values(name: str, bits: int) -> None:
    values = distributions()[name]
    observer = SquaredError(bits)
    for batch in np.split(values[:20_000], 10):
        observer.observe(torch.from_numpy(batch))
    if len(values) > 20_000:
        observer.observe(torch.from_numpy(values[20_000:]))
    low, high = observer.range()
    parts = np.linspace(0.04, 1, 25)
    lows = np.unique(min(values.min(), 0) * parts)
    highs = np.unique(max(values.max(), 0) * parts)
    best = min(float(np.square(rounded(values, a, b, bits) - values).mean()) for a in lows for b in highs if b > a)
    got = float(np.square(rounded(values, low, high, bits) - values).mean())
    assert got <= best * 1.02, (low, high)
    assert values.min() <= low <= 0 <= high <= values.max() or min(abs(low), abs(high)) == 0


def naive_divergence(counts: list[float], first: int, last: int, levels: int) -> float:
    """The steps of TensorRT's entropy calibration, bin by bin."""
    inside = counts[first:last]
    reference = list(inside)
    reference[0] += sum(counts[:first])
    reference[-1] += sum(counts[last:])
    candidate = [0.0] * len(inside)
    for level in range(levels):
        bins = [i for i in range(len(inside)) if i * levels // len(inside) == level]
        filled = [i for i in bins if inside[i] > 0]
        for i in filled:
            candidate[i] = sum(inside[k] for k in bins) / len(filled)
    total = 0.0
    for p, q in zip(reference, candidate, strict=True):
        if p > 0:
            if q == 0:
                return float("inf")
            p, q = p / sum(reference), q / sum(candidate)
            total += p * float(np.log(p / q))
    return total


def test_divergence_is_that_of_the_naive_loops() -> None:
    random = np.random.default_rng(1)
    counts = random.poisson(random.exponential(3, 200)).astype(float)
    for first, last in [(0, 200), (0, 150), (13, 190), (60, 92)]:
        expected = naive_divergence(counts.tolist(), first, last, 16)
        assert divergence(torch.from_numpy(counts), first, last, 16) == pytest.approx(expected)


@pytest.mark.parametrize("name", ["relu", "negative", "heavy"])
def test_entropy_is_near_that_of_a_search_over_all_values(name: str) -> None:
    values = distributions()[name]
    observer = Entropy(8)
    for batch in np.split(values, 10):
        observer.observe(torch.from_numpy(batch))
    low, high = observer.range()
    # One histogram of everything, its bins where the observer's are; every 16th cut is tried.
    width = observer.histogram.width
    bins = len(observer.histogram.rounded()[1])
    merge = bins // 2048
    start = float(observer.histogram.rounded()[0][0])
    edges = start + np.arange(-(-bins // merge) + 1) * width * merge
    counts = np.histogram(values[values != 0], edges)[0].astype(float)
    tensor = torch.from_numpy(counts)
    zero = round(-start / (width * merge))
    firsts = range(0, max(1, min(zero, len(counts) - 256)), 64) if start < 0 else [0]
    lasts = range(max(256, zero), len(counts) + 1, 64) if edges[-1] > width * merge else [len(counts)]
    best = min(divergence(tensor, a, b, 256) for a in firsts for b in lasts if b - a >= 256)
    got = divergence(
        tensor, round((low - start) / width / merge), min(len(counts), round((high - start) / width / merge)), 256
    )
    assert got <= best * 1.1 + 1e-4
    assert values.min() <= low <= high <= values.max()


WILD: dict[str, list[float]] = {
    "one": [1e4],
    "one negative": [-1e4],
    "both sides": [1e4, -3e4],
    "as large as floats are": [3e38],
    "several": [500.0 * i for i in range(1, 40)],
}


@pytest.mark.parametrize("when", [0, 3, 5])
@pytest.mark.parametrize("name", WILD)
def test_wild_values_take_no_bins_from_the_others(name: str, when: int) -> None:
    """49,152 normal values in six batches, and some that are far out, among the first, the middle or the last."""
    random = np.random.default_rng(4)
    values = random.standard_normal((6, 8192)).astype(np.float32)
    plain = {"entropy": Entropy(8), "percentile": Percentile(99.9), "wide": Entropy(16)}
    observers = {"entropy": Entropy(8), "percentile": Percentile(99.9), "wide": Entropy(16)}
    for observer in plain.values():
        for batch in values:
            observer.observe(torch.from_numpy(batch))
    values[when, : len(WILD[name])] = WILD[name]
    for observer in observers.values():
        for batch in values:
            observer.observe(torch.from_numpy(batch))
    low, high = observers["entropy"].range()  # type: ignore[attr-defined]
    assert -4.5 < low < -3 and 3 < high < 4.5
    noise = [
        float(np.square(rounded(v, *ends.range(), 8) - v).mean())  # type: ignore[attr-defined, call-arg]
        for v, ends in ((random.standard_normal(20_000), e) for e in (plain["entropy"], observers["entropy"]))
    ]
    assert noise[1] < 2 * noise[0]
    assert observers["wide"].range()[1] < 8  # type: ignore[attr-defined]
    everything = np.sort(values.astype(np.float64).ravel())
    cut = int(everything.size * 0.001)
    width = observers["percentile"].histogram.width
    assert width <= 2 * 64 / BINS
    assert np.abs(np.array(observers["percentile"].range()) - everything[[cut, -1 - cut]]).max() <= width * 1.001  # type: ignore[attr-defined]
    histogram = observers["percentile"].histogram
    assert int(histogram.counts.sum()) + int(histogram.beyond.sum()) == everything.size
    assert sorted(histogram.wild()[0].tolist()) == pytest.approx(sorted(WILD[name]), rel=0.03) or name == "several"


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("wild", [[100.0], [-300.0, 40.0], [1e4]], ids=str)
def test_the_least_squared_error_counts_wild_values(wild: list[float], bits: int) -> None:
    values = np.random.default_rng(5).standard_normal(20_000).astype(np.float32).astype(np.float64)
    values[: len(wild)] = wild
    observer = SquaredError(bits)
    for batch in np.split(values, 10):
        observer.observe(torch.from_numpy(batch))
    low, high = observer.range()
    parts = 0.85 ** np.arange(60)
    lows, highs = np.unique(values.min() * parts), np.unique(values.max() * parts)
    best = min(float(np.square(rounded(values, a, b, bits) - values).mean()) for a in lows for b in highs)
    assert float(np.square(rounded(values, low, high, bits) - values).mean()) <= best * 1.02


def test_values_that_become_usual_are_wild_no_longer() -> None:
    """Ranges grow batch by batch: what was beyond the bins comes into them."""
    observer = Percentile(99)
    random = np.random.default_rng(6)
    values = [random.standard_normal(4096).astype(np.float32) * scale for scale in (1, 1, 100, 100, 1000)]
    values[0][:3] = [90, -90, 700]
    for batch in values:
        observer.observe(torch.from_numpy(batch))
    everything = np.sort(np.concatenate(values).astype(np.float64))
    assert int(observer.histogram.counts.sum()) == everything.size
    cut = int(everything.size * 0.01)
    assert np.abs(np.array(observer.range()) - everything[[cut, -1 - cut]]).max() <= observer.histogram.width * 1.001


def test_spread() -> None:
    spread = Spread()
    for batch in batches(7, [1, 2, 1]):
        spread.observe(batch)
    assert not spread.wild and 4 < spread.usual < 8
    spread.observe(torch.tensor([1e4, *[1.0] * 50]))
    assert spread.wild and spread.largest == 1e4 and spread.usual < 8
    none = Spread()
    none.observe(torch.zeros(5))
    assert none.largest == 0 and not none.wild


def test_one_sided_values_keep_their_zero() -> None:
    values = torch.relu(torch.randn(10_000, generator=torch.Generator().manual_seed(0)))
    for observer in (Entropy(8), SquaredError(8), SquaredError(4)):
        observer.observe(values)
        assert observer.range()[0] == 0
        assert 0 < observer.range()[1] <= float(values.max())


@pytest.mark.parametrize("calibration", get_args(Calibration))
@pytest.mark.parametrize("constant", [0.0, 2.5, -1.0])
def test_constants_are_representable(calibration: Calibration, constant: float) -> None:
    observer = observer_of(calibration)
    observer.observe(torch.full((10,), constant))
    parameters = Encoding((observer.range()[0],), (observer.range()[1],)).parameters("uint8")
    back = parameters.dequantize(parameters.quantize(np.array([constant])))
    assert abs(back[0] - constant) <= float(parameters.scale) * 0.5 + 1e-12
    assert float(parameters.scale) <= max(abs(constant), 1e-20) / 200


def test_weights_of_least_squared_error() -> None:
    weight = torch.from_numpy(np.random.default_rng(2).standard_t(3, (6, 4, 3, 3))).float()
    found = SCHEMES["w4a8"].weight_encoding("w", weight, "mse")
    plain = SCHEMES["w4a8"].weight_encoding("w", weight)
    for channel in range(6):
        row = weight[channel].numpy().astype(np.float64).ravel()

        def error(largest: float, row: NDArray[np.float64] = row) -> float:
            scale = largest / 7
            return float(np.square(np.clip(np.rint(row / scale), -7, 7) * scale - row).sum())

        largest = max(-found.low[channel], found.high[channel])
        whole = np.abs(row).max()
        assert error(largest) <= min(error(whole * part) for part in np.linspace(0.05, 1, 96)) * 1.02
        assert plain.low[channel] <= found.low[channel]
        assert found.high[channel] <= plain.high[channel]


def test_weights_of_one_range() -> None:
    weight = torch.randn(5, 3, 1, 1, generator=torch.Generator().manual_seed(0))
    found = SCHEMES["int8"].weight_encoding("w", weight, per_channel=False)
    assert found.low == (float(weight.min()),) * 5
    assert found.high == (float(weight.max()),) * 5
    assert SCHEMES["int8"].weight_encoding("w", weight).high == tuple(weight.amax((1, 2, 3)).tolist())
    low, high = weight_ranges(torch.zeros(2, 3), "mse")
    assert low.tolist() == high.tolist() == [0, 0]
