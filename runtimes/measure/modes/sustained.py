"""A file under load for minutes: latency, clocks and temperatures over time, and the first minute against the last."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np

from ...devices.device import Device
from ...errors import InvalidInputs
from ...sensors.cores import allowed
from ...sensors.watch import MOST_CORES, Reading, reading
from ..benchmark import prepared
from ..loop import Progress, interleave, sentinel
from ..presets import Preset
from ..subject import Subject
from .work import Part

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
        disturbances: what speaks against it, in words: it was broken off, or the machine did not become cool in time.
    """

    files: tuple[str, ...]
    engines: tuple[str, ...]
    threads: int
    windows: tuple[Window, ...]
    before: Reading
    disturbances: tuple[str, ...] = ()

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
        windows = tuple(_window(each) for each in stored["windows"])
        files, engines = tuple(stored["files"]), tuple(stored["engines"])
        before, disturbances = Reading(**stored["before"]), tuple(stored.get("disturbances", ()))
        return cls(files, engines, stored["threads"], windows, before, disturbances)


@dataclass(frozen=True)
class SustainedLoad:
    """Run files in turn for so many minutes, without a warm-up and without a rest.

    Between windows, the sensors are read. The preset of the request takes no part in this.

    Raises:
        InvalidInputs: the minutes are none.
    """

    NAME: ClassVar[str] = "sustained"
    TITLE: ClassVar[str] = "sustained load"
    IN_PYTHON: ClassVar[bool] = True

    minutes: float
    window_s: float = WINDOW_S

    def __post_init__(self) -> None:
        if not 0 < self.minutes <= 24 * 60:
            raise InvalidInputs(f"minutes: expected more than 0 and at most {24 * 60}, got {self.minutes:g}")

    def require(self, device: Device, subject: Subject) -> None:
        """Files that can be run can be run for long."""

    def results(self, device: Device, subject: Subject, progress: Progress | None = None) -> Iterator[Sustained]:
        """Measure all files together; see :class:`runtimes.measure.modes.mode.Mode`."""
        yield device.measure(self, subject, progress)

    def parts(self, subject: Subject, progress: Progress | None = None) -> Generator[Part]:
        """Tell the sensors before the first window, then each window."""
        with prepared(subject.paths, subject.request, subject.engines, subject.inputs, progress) as ready:
            cores = ready.pinned or allowed() or ()
            watched = cores if len(cores) <= MOST_CORES else ()
            yield {"before": asdict(reading(0.0, watched)), "disturbances": ready.disturbances}
            for window in _windows(
                ready.works, self.minutes * 60, self.window_s, lambda at_s: reading(at_s, watched), progress
            ):
                yield asdict(window)

    def result(self, subject: Subject, parts: Sequence[Part], disturbances: Sequence[str] = ()) -> Sustained | None:
        """Return the windows that are there; None without any."""
        windows = tuple(_window(part) for part in parts[1:])
        for each in windows:
            if {len(each.p50_ms), len(each.p90_ms), len(each.max_ms), len(each.runs)} != {len(subject.names)}:
                raise ValueError("a window of another number of files")
        if not windows:
            return None
        before, against = Reading(**parts[0]["before"]), (*parts[0]["disturbances"], *disturbances)
        return Sustained(subject.names, subject.engines, subject.request.threads, windows, before, against)


def _windows(
    works: Sequence[Callable[[], object]],
    seconds: float,
    window_s: float,
    look: Callable[[float], Reading],
    progress: Progress | None,
) -> Iterator[Window]:
    """Windows until the seconds are over."""
    guard, end_s = sentinel(), 0.0
    gc.collect()
    gc.freeze()  # going through all objects between windows would be a rest
    try:
        began = time.perf_counter()
        while not end_s or end_s < seconds:
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
            yield Window(round(begin_s, 3), round(end_s, 3), p50, p90, most, runs, middle, look(end_s))
    finally:
        gc.unfreeze()
    if progress is not None:
        progress("sustain", round(seconds), round(seconds))


def _window(stored: Mapping[str, Any]) -> Window:
    """The window that a mapping of plain values is of."""
    facts: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in stored.items()}
    return Window(**facts | {"after": Reading(**stored["after"])})


def _median(windows: Sequence[Window], file: int) -> float:
    """The median of the windows' medians, each as often as it has runs."""
    ordered = sorted((each.p50_ms[file], each.runs[file]) for each in windows)
    half, seen = sum(runs for _, runs in ordered) / 2, 0
    for median, runs in ordered:
        seen += runs
        if seen >= half:
            return median
    return ordered[-1][0]
