"""Medians of files that run in turn in one loop, so that whatever else the machine does meets all of them alike."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from runtimes.measure.loop import interleave, sentinel
from runtimes.measure.presets import PRESETS, PresetName
from runtimes.runtime import Options, Runtime, engine_named

Clock = Literal["wall", "processor", "thread"]
CLOCKS = {"wall": time.perf_counter_ns, "processor": time.process_time_ns, "thread": time.thread_time_ns}
Feed = Callable[[Runtime], Mapping[str, NDArray[Any]]]


@dataclass(frozen=True)
class Timed:
    """The median of a file's runs in milliseconds, and their spread: (p90 - p10) / p50."""

    p50_ms: float
    spread: float


def timed(
    files: Sequence[Path], engine: str, feed: Feed, preset: PresetName, *, threads: int = 1, clock: Clock = "wall"
) -> list[Timed]:
    """Return the time of each file in ``engine``, run in turn in one loop.

    Args:
        files: what is run.
        engine: by its name in ``runtimes``.
        feed: the inputs of a loaded file, by their names.
        preset: how often.
        threads: of the engine.
        clock: "wall"; "processor" or "thread" take the time that this process or thread ran, for a machine that others
            use too.
    """
    loaded = [engine_named(engine).load(file, Options(threads=threads)) for file in files]
    try:
        works = [partial(each.run, feed(each)) for each in loaded]
        return [
            spread_of(row) for row in interleave(works, PRESETS[preset], sentinel(), clock_ns=CLOCKS[clock]).rows_ms
        ]
    finally:
        for each in loaded:
            each.close()


def spread_of(samples_ms: Iterable[float]) -> Timed:
    """Return the median and the spread of samples."""
    low, middle, high = (float(value) for value in np.percentile(np.asarray(list(samples_ms)), (10, 50, 90)))
    return Timed(middle, (high - low) / middle)


def geometric_mean(values: Iterable[float]) -> float:
    """Return the geometric mean; NaN of none.

    >>> geometric_mean([1.0, 4.0])
    2.0
    """
    logarithms = [math.log(value) for value in values]
    return math.exp(statistics.fmean(logarithms)) if logarithms else math.nan
