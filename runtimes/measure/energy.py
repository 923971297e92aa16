"""The energy of a run: each file in a loop of its own, since a rail does not tell which file took what."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable

from ..sensors.power import Energy, Meter, Rail
from .presets import Preset

LEAST_S = 2.0
"""Of each file's loop, and of the rest before the first: rails are read some fifty times a second."""


def idle_watts(rail: Rail, seconds: float = LEAST_S) -> float:
    """Return what the machine takes on a rail while this process sleeps."""
    meter = Meter(rail)
    with meter.measuring():
        time.sleep(seconds)
    return meter.joules / meter.seconds


def energy_of(work: Callable[[], object], preset: Preset, rail: Rail, idle: float | None = None) -> Energy:
    """Return what runs of one piece of work take on a rail, for the runs and seconds of the preset, 2 s at least."""
    seconds, runs = max(preset.seconds, LEAST_S), 0
    meter = Meter(rail)
    for _ in range(max(preset.warmup_runs, 1)):
        work()
    gc.collect()
    with meter.measuring():
        end = time.perf_counter() + seconds
        while runs < preset.runs or time.perf_counter() < end:
            work()
            runs += 1
    return Energy(rail.name, rail.source, meter.joules, meter.seconds, runs, idle)
