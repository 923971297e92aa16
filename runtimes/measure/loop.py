"""The loop that times pieces of work in turn; a fixed piece of work between them tells how the machine drifts."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from .presets import Preset

_SENTINELS = 100


Rows = Sequence[Sequence[float]]
"""Times in ms: a row for each piece of work."""


class Progress(Protocol):
    """Told how far a measurement is, in seconds of the loop: ``progress("bench", 3, 10, "net.onnx")``."""

    def __call__(self, task: str, done: int, total: int, note: str = "") -> None: ...


@dataclass(frozen=True)
class Samples:
    """What `interleave` took: a row of times for each piece of work, and those of the sentinel."""

    rows_ms: tuple[tuple[float, ...], ...]
    sentinel_ms: tuple[float, ...]
    warmup_runs: int
    duration_s: float


def interleave(
    works: Sequence[Callable[[], object]],
    preset: Preset,
    sentinel: Callable[[], object],
    progress: Progress | None = None,
    clock_ns: Callable[[], int] = time.perf_counter_ns,
    watch: Callable[[], object] | None = None,
    took: Callable[[Rows, Sequence[float]], object] | None = None,
) -> Samples:
    """Return the times of each piece of work, run in turn until all have the preset's runs and seconds.

    The seconds are of the loop, as many times the preset's as there are pieces. Each round begins with another piece
    and every second round goes backwards, so that none always follows the same one. Python's garbage collector rests.

    Args:
        sentinel: run at intervals between the others, and timed as they are.
        watch: called at the same moments, outside of what is timed; so is ``took``, with all times so far.
    """
    orders = _orders(len(works))
    total_s = preset.seconds * len(works)
    rows, guards = _no_times(len(works)), _no_times(1)[0]
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    began, rounds = clock_ns(), 0
    try:
        while rounds < preset.warmup_runs or clock_ns() - began < preset.warmup_s * len(works) * 1e9:
            for i in orders[rounds % len(orders)]:
                works[i]()
            rounds += 1
        warmups = rounds
        for _ in range(3):
            sentinel()
        began, rounds, guarded = clock_ns(), 0, -(10**18)
        while rounds < preset.runs or clock_ns() - began < total_s * 1e9:
            now = clock_ns()
            if now - guarded >= total_s * 1e9 / _SENTINELS:
                guarded = now
                if progress is not None:
                    progress("bench", min(round((now - began) / 1e9), round(total_s)), round(total_s))
                if watch is not None:
                    watch()
                if took is not None:
                    took(rows, guards)
                start = clock_ns()
                sentinel()
                guards.append((clock_ns() - start) / 1e6)
            for i in orders[rounds % len(orders)]:
                work, row = works[i], rows[i]
                start = clock_ns()
                work()
                row.append((clock_ns() - start) / 1e6)
            rounds += 1
        duration_s = (clock_ns() - began) / 1e9
    finally:
        if collecting:
            gc.enable()
    if progress is not None:
        progress("bench", round(total_s), round(total_s))
    return Samples(tuple(tuple(row) for row in rows), tuple(guards), warmups, duration_s)


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
