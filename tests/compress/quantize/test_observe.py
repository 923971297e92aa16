"""Observers against NumPy on all values at once."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

from compress.quantize.observe import BINS, MinMax, Percentile


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
    bin_width = 2 * observer.bound / BINS
    cut = round(everything.size * (100 - percentile) / 100)
    expected = everything[[cut, -1 - cut]]
    assert np.abs(np.array(observer.range()) - expected).max() <= bin_width * 1.001
    assert int(observer.counts.sum()) == everything.size


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


def test_memory_does_not_grow() -> None:
    observer = Percentile(99)
    sizes = set()
    for batch in batches(3, [1, 10, 100, 1000]):
        observer.observe(batch)
        sizes.add(sum(sys.getsizeof(value) for value in vars(observer).values()) + observer.counts.nbytes)
    assert len(sizes) == 1
