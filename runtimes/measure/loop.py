"""The loop that times pieces of work in turn; a fixed piece of work between them tells how the machine drifts."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from .presets import Preset

_SENTINELS = 100

SECTIONS = 10
"""Of a loop, between which its pieces are made anew."""

RENEWING = 0.25
"""The share of a loop's time that may pass with that, beside it."""

_RUNS_ANEW = 3


Rows = Sequence[Sequence[float]]
"""Times in ms: a row for each piece of work."""


class Progress(Protocol):
    """Told how far a measurement is, in seconds of the loop: ``progress("bench", 3, 10, "net.onnx")``."""

    def __call__(self, task: str, done: int, total: int, note: str = "") -> None: ...


@dataclass(frozen=True)
class Renewal:
    """How pieces of work are made anew in the middle of a loop.

    Args:
        make: returns the pieces, in the same order as before.
        expected_s: about how long that takes.
    """

    make: Callable[[], Sequence[Callable[[], object]]]
    expected_s: float


@dataclass(frozen=True)
class Samples:
    """What `interleave` took: a row of times for each piece of work, and those of the sentinel.

    ``sections`` is how often the pieces were made, the first time included.
    """

    rows_ms: tuple[tuple[float, ...], ...]
    sentinel_ms: tuple[float, ...]
    warmup_runs: int
    duration_s: float
    sections: int = 1


def interleave(
    works: Sequence[Callable[[], object]],
    preset: Preset,
    sentinel: Callable[[], object],
    progress: Progress | None = None,
    clock_ns: Callable[[], int] = time.perf_counter_ns,
    watch: Callable[[], object] | None = None,
    took: Callable[[Rows, Sequence[float]], object] | None = None,
    renewal: Renewal | None = None,
) -> Samples:
    """Return the times of each piece of work, run in turn until all have the preset's runs and seconds.

    The seconds are of the loop, as many times the preset's as there are pieces. Each round begins with another piece
    and every second round goes backwards, so that none always follows the same one. Python's garbage collector rests.

    Args:
        sentinel: run at intervals between the others, and timed as they are.
        watch: called at the same moments, outside of what is timed; so is ``took``, with all times so far.
        renewal: how the pieces are made anew for each of `SECTIONS` of the loop, where that is quick. A file that is
            loaded twice takes up to 2 % more or less time, by where its memory lies: a measurement of one loading
            would tell of that, too. The time that it takes counts for nothing.
    """
    orders = _orders(len(works))
    total_s = preset.seconds * len(works)
    rows, guards = _no_times(len(works)), _no_times(1)[0]
    with _no_garbage_collection():
        began, rounds = clock_ns(), 0
        while rounds < preset.warmup_runs or clock_ns() - began < preset.warmup_s * len(works) * 1e9:
            for i in orders[rounds % len(orders)]:
                works[i]()
            rounds += 1
        warmups = rounds
        for _ in range(3):
            sentinel()
        began, rounds, guarded = clock_ns(), 0, -(10**18)
        sections = _Sections(renewal, total_s, clock_ns)
        while rounds < preset.runs or clock_ns() - began < total_s * 1e9:
            now = clock_ns()
            if sections.is_over(now - began):
                works = sections.renewed(now)
                began += clock_ns() - now
                now = clock_ns()
            if now - guarded >= total_s * 1e9 / _SENTINELS:
                guarded = now
                if progress is not None:
                    progress("bench", min(round((now - began) / 1e9), round(total_s)), round(total_s))
                if watch is not None:
                    watch()
                if took is not None:
                    took(rows, guards)
                guards.append(_timed_ms(sentinel, clock_ns))
            for i in orders[rounds % len(orders)]:
                rows[i].append(_timed_ms(works[i], clock_ns))
            rounds += 1
        duration_s = (clock_ns() - began) / 1e9
    if progress is not None:
        progress("bench", round(total_s), round(total_s))
    return Samples(tuple(tuple(row) for row in rows), tuple(guards), warmups, duration_s, sections.made)


def _timed_ms(work: Callable[[], object], clock_ns: Callable[[], int]) -> float:
    start = clock_ns()
    work()
    return (clock_ns() - start) / 1e6


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


class _Sections:
    """The sections of a loop: when one is over, and what has passed between them."""

    def __init__(self, renewal: Renewal | None, total_s: float, clock_ns: Callable[[], int]) -> None:
        self.made = 1
        self._renewal, self._clock_ns = renewal, clock_ns
        self._length_ns = total_s * 1e9 / SECTIONS
        self._end_ns, self._passed_ns = self._length_ns, 0.0

    def is_over(self, elapsed_ns: float) -> bool:
        """Whether a section is over, and the next one may begin with pieces that are made anew."""
        if self._renewal is None or elapsed_ns < self._end_ns or self.made == SECTIONS:
            return False
        self._end_ns = elapsed_ns + self._length_ns
        return self._passed_ns + self._renewal.expected_s * 1e9 <= RENEWING * elapsed_ns

    def renewed(self, now_ns: int) -> Sequence[Callable[[], object]]:
        """The pieces, made anew and run a few times."""
        assert self._renewal is not None, "a section is over only where the pieces can be made anew"
        works = self._renewal.make()
        for _ in range(_RUNS_ANEW):
            for work in works:
                work()
        gc.collect()
        self.made += 1
        self._passed_ns += self._clock_ns() - now_ns
        return works


def _no_times(count: int) -> list[list[float]]:
    return [[] for _ in range(count)]


def _orders(count: int) -> list[list[int]]:
    """The orders of the pieces, one for each round: each piece has every place equally often."""
    forwards = [[(shift + i) % count for i in range(count)] for shift in range(count)]
    return [order for each in forwards for order in (each, each[::-1])]


def sentinel() -> Callable[[], object]:
    """Return a fixed piece of work of some 0.2 ms: 20 products of matrices that BLAS multiplies in one thread."""
    left = np.random.default_rng(0).standard_normal((64, 64), dtype=np.float32)
    product = np.empty_like(left)

    def work() -> None:
        for _ in range(20):
            np.matmul(left, left, out=product)

    return work
