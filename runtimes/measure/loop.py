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
"""Of a loop, at most, between which its pieces are made anew."""

LEAST_SECTIONS = 5
"""Where there are any: of fewer, nobody can tell how far they lie apart."""

RENEWING = 0.25
"""The share of a loop's time that may pass with more sections than these, beside it."""

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

    ``renewed_at`` has the numbers of samples of each row after which the pieces were made anew.
    """

    rows_ms: tuple[tuple[float, ...], ...]
    sentinel_ms: tuple[float, ...]
    warmup_runs: int
    duration_s: float
    renewed_at: tuple[int, ...] = ()

    @property
    def sections(self) -> int:
        """Return how often the pieces were made, the first time included."""
        return len(self.renewed_at) + 1


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
                works = sections.renewed(now, len(rows[0]))
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
    return Samples(tuple(tuple(row) for row in rows), tuple(guards), warmups, duration_s, tuple(sections.renewed_at))


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


def sections_within(total_s: float, expected_s: float) -> int:
    """Return how many sections a loop of ``total_s`` seconds has whose pieces take ``expected_s`` to be made.

    >>> [sections_within(10.0, seconds) for seconds in (0.1, 0.4, 1.0, 3.0)]
    [10, 7, 5, 1]
    """
    within = 1 + int(RENEWING * total_s / max(expected_s, 1e-9))
    if within >= LEAST_SECTIONS:
        return min(within, SECTIONS)
    return LEAST_SECTIONS if (LEAST_SECTIONS - 1) * expected_s <= total_s else 1


class _Sections:
    """The sections of a loop: when one is over, and what has passed between them."""

    def __init__(self, renewal: Renewal | None, total_s: float, clock_ns: Callable[[], int]) -> None:
        self.renewed_at: list[int] = []
        self._renewal, self._clock_ns = renewal, clock_ns
        self._count = 1 if renewal is None else sections_within(total_s, renewal.expected_s)
        self._total_ns = total_s * 1e9
        self._passed_ns = 0.0

    def is_over(self, elapsed_ns: float) -> bool:
        """Whether a section is over, and the next one may begin with pieces that are made anew."""
        made = len(self.renewed_at) + 1
        is_due = made < self._count and elapsed_ns >= made * self._total_ns / self._count
        return is_due and self._passed_ns <= self._total_ns

    def renewed(self, now_ns: int, samples: int) -> Sequence[Callable[[], object]]:
        """The pieces, made anew after so many samples of each, and run a few times."""
        assert self._renewal is not None, "a section is over only where the pieces can be made anew"
        works = self._renewal.make()
        for _ in range(_RUNS_ANEW):
            for work in works:
                work()
        gc.collect()
        self.renewed_at.append(samples)
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
