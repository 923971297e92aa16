"""A file under load for minutes: latency, clocks and temperatures over time, and the first minute against the last."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InvalidInputs
from ..runtime import Arrays
from ..sensors.cores import allowed
from ..sensors.watch import MOST_CORES, Reading, reading
from .benchmark import prepared
from .loop import Progress, interleave, sentinel
from .presets import Preset
from .request import Request

WINDOW_S = 10.0
MINUTE_S = 60.0


@dataclass(frozen=True)
class Window:
    """What happened in a stretch of time, ``begin_s`` to ``end_s`` after the beginning.

    Args:
        p50_ms: for each file, and likewise the others; each file is run once at least.
        runs: of each file.
        sentinel_ms: the median of the fixed piece of work.
        after: what the sensors told at its end.
    """

    begin_s: float
    end_s: float
    p50_ms: tuple[float, ...]
    p90_ms: tuple[float, ...]
    max_ms: tuple[float, ...]
    runs: tuple[int, ...]
    sentinel_ms: float
    after: Reading


@dataclass(frozen=True)
class Sustained:
    """Files that were run in turn without a rest.

    Args:
        files: their names.
        engines: that ran them.
        windows: in order.
        before: what the sensors told before the first.
    """

    files: tuple[str, ...]
    engines: tuple[str, ...]
    threads: int
    windows: tuple[Window, ...]
    before: Reading

    def first_ms(self, file: int) -> float:
        """Return the median of a file in the first minute: of its windows' medians, by their runs."""
        return _median([each for each in self.windows if each.begin_s < MINUTE_S], file)

    def last_ms(self, file: int) -> float:
        """Return likewise of the last minute."""
        end = self.windows[-1].end_s
        return _median([each for each in self.windows if each.end_s > end - MINUTE_S], file)

    def slowdown(self, file: int) -> float:
        """Return how many times as long a run of a file takes in the last minute as in the first."""
        return self.last_ms(file) / self.first_ms(file)

    def to_json(self) -> dict[str, Any]:
        """Return a mapping of plain values, with the figures of each file under ``minutes``."""
        minutes = [
            {"file": file, "first_ms": self.first_ms(i), "last_ms": self.last_ms(i), "slowdown": self.slowdown(i)}
            for i, file in enumerate(self.files)
        ]
        return asdict(self) | {"minutes": minutes}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Sustained:
        """Return what `to_json` gave; figures are computed again."""
        windows = []
        for each in stored["windows"]:
            facts: dict[str, Any] = {
                name: tuple(value) if isinstance(value, list) else value for name, value in each.items()
            }
            windows.append(Window(**facts | {"after": Reading(**each["after"])}))
        files, engines = tuple(stored["files"]), tuple(stored["engines"])
        return cls(files, engines, stored["threads"], tuple(windows), Reading(**stored["before"]))


def sustained(
    files: Sequence[Path | str],
    minutes: float,
    request: Request | None = None,
    *,
    engine: str | Sequence[str | None] | None = None,
    inputs: Arrays | Sequence[Arrays] | None = None,
    progress: Progress | None = None,
    window_s: float = WINDOW_S,
) -> Sustained:
    """Return how files behave that are run in turn for so many minutes, without a warm-up and without a rest.

    Between windows, the sensors are read. The preset of the request takes no part in this.

    Raises:
        InvalidInputs: the minutes are none; and as :func:`runtimes.measure.benchmark.benchmark`.
    """
    if not 0 < minutes <= 24 * 60:
        raise InvalidInputs(f"minutes: expected more than 0 and at most {24 * 60}, got {minutes:g}")
    asked = request or Request()
    with prepared(files, asked, engine, inputs, progress) as ready:
        cores = ready.pinned or allowed() or ()
        watched = cores if len(cores) <= MOST_CORES else ()
        before = reading(0.0, watched)
        windows = _windows(ready.works, minutes * 60, window_s, lambda at_s: reading(at_s, watched), progress)
        names, engines = tuple(job.file for job in ready.jobs), tuple(job.engine for job in ready.jobs)
    return Sustained(names, engines, asked.threads, windows, before)


def _windows(
    works: Sequence[Callable[[], object]],
    seconds: float,
    window_s: float,
    look: Callable[[float], Reading],
    progress: Progress | None,
) -> tuple[Window, ...]:
    windows: list[Window] = []
    guard = sentinel()
    gc.collect()
    gc.freeze()  # going through all objects between windows would be a rest
    try:
        _fill(windows, works, seconds, window_s, look, progress, guard)
    finally:
        gc.unfreeze()
    if progress is not None:
        progress("sustain", round(seconds), round(seconds))
    return tuple(windows)


def _fill(
    windows: list[Window],
    works: Sequence[Callable[[], object]],
    seconds: float,
    window_s: float,
    look: Callable[[float], Reading],
    progress: Progress | None,
    guard: Callable[[], object],
) -> None:
    """Add windows until the seconds are over."""
    began = time.perf_counter()
    while not windows or windows[-1].end_s < seconds:
        begin_s = time.perf_counter() - began
        if progress is not None:
            progress("sustain", round(begin_s), round(seconds))
        length_s = min(window_s, seconds - begin_s)
        samples = interleave(works, Preset("window", 0, 0.0, 1, length_s / len(works)), guard)
        end_s = time.perf_counter() - began
        percentiles = np.asarray([np.percentile(row, (50, 90, 100)) for row in samples.rows_ms]).T.tolist()
        p50, p90, most = (tuple(row) for row in percentiles)
        runs = tuple(len(row) for row in samples.rows_ms)
        middle = float(np.median(samples.sentinel_ms))
        windows.append(Window(round(begin_s, 3), round(end_s, 3), p50, p90, most, runs, middle, look(end_s)))


def _median(windows: Sequence[Window], file: int) -> float:
    """The median of the windows' medians, each as often as it has runs."""
    ordered = sorted((each.p50_ms[file], each.runs[file]) for each in windows)
    half, seen = sum(runs for _, runs in ordered) / 2, 0
    for median, runs in ordered:
        seen += runs
        if seen >= half:
            return median
    return ordered[-1][0]
