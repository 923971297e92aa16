"""A machine watched while it measures: clocks, temperatures and throttling between runs, and who else took its time.

Kernel, Documentation/filesystems/proc.rst: ``/proc/stat`` counts the ticks of each core, those that a hypervisor took
(``steal``) among them, and ``/proc/self/status`` what of a process is swapped out (``VmSwap``).
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from . import clocks, throttling
from .files import ROOT, text
from .temperatures import temperatures_c

BETWEEN_S = 0.1
"""The least time between two readings."""

MOST_CORES = 16
"""Of more cores than this no clocks are read, which would take longer than runs do."""

_LEAST_S = 0.5
"""Of a loop, for ticks of 10 ms to tell shares of it."""


@dataclass(frozen=True)
class Reading:
    """What the sensors told at a moment, ``at_s`` seconds after the loop began; see `Conditions` for the fields."""

    at_s: float
    clocks_mhz: dict[str, float] | None = None
    temperatures_c: dict[str, float] | None = None
    throttled: int | None = None
    cooling: dict[str, int] | None = None


@dataclass(frozen=True)
class Watched:
    """What happened around a loop of runs; None is what the system does not tell.

    Args:
        readings: of the sensors, between runs.
        clock_jump_s: how much further the time of day moved than the time that was measured by: it was set, or the
            machine slept.
        major_faults: pages that this process read from storage meanwhile.
        swapped_bytes: of this process, that were swapped out meanwhile.
        others_share: of the time of the cores that this process may run on, what other processes took.
        stolen_share: likewise, what a hypervisor took.
    """

    readings: tuple[Reading, ...] = ()
    clock_jump_s: float = 0.0
    major_faults: int | None = None
    swapped_bytes: int | None = None
    others_share: float | None = None
    stolen_share: float | None = None

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Watched:
        """Return what was stored as a mapping of plain values."""
        known = {name: stored[name] for name in cls.__dataclass_fields__ if name in stored}
        names = Reading.__dataclass_fields__
        readings = [{name: value for name, value in each.items() if name in names} for each in known["readings"]]
        return cls(**known | {"readings": tuple(Reading(**each) for each in readings)})


@dataclass(frozen=True)
class _Counts:
    """Counters at a moment; times in seconds."""

    monotonic_s: float
    day_s: float
    own_s: float
    busy_s: float | None
    stolen_s: float | None
    major_faults: int | None
    swapped_bytes: int | None


@dataclass
class Watch:
    """Reads the sensors when it is told to `look`, and compares counters from the beginning to the end."""

    cores: tuple[int, ...]
    root: Path = ROOT
    _readings: list[Reading] = field(default_factory=list)
    _began_s: float = 0.0
    _looked_s: float = float("-inf")
    watched: Watched = field(default_factory=Watched)

    def look(self) -> None:
        """Read the sensors, unless they were read a moment ago."""
        now = time.monotonic()
        if now - self._looked_s >= BETWEEN_S:
            self._looked_s = now
            read = self.cores if len(self.cores) <= MOST_CORES else ()
            self._readings.append(reading(now - self._began_s, read, self.root))

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Within: a loop is run; afterwards `watched` says what happened around it."""
        before = self._counts()
        self._began_s = before.monotonic_s
        yield
        after = self._counts()
        self.watched = replace(_compared(before, after, len(self.cores)), readings=tuple(self._readings))

    def _counts(self) -> _Counts:
        busy, stolen = _ticks(text(self.root / "proc/stat") or "", self.cores)
        return _Counts(
            time.monotonic(), time.time(), time.process_time(), busy, stolen, _major_faults(), _swapped_bytes(self.root)
        )


def reading(at_s: float, cores: Sequence[int], root: Path = ROOT) -> Reading:
    """Return what the sensors tell now; only files are read, no tool is started."""
    return Reading(
        round(at_s, 3),
        clocks.clocks_mhz(cores, root),
        temperatures_c(root),
        throttling.bits_of_file(root),
        throttling.cooling(root),
    )


def _compared(before: _Counts, after: _Counts, cores: int) -> Watched:
    seconds = after.monotonic_s - before.monotonic_s
    own = after.own_s - before.own_s

    def share(first: float | None, last: float | None, mine: float) -> float | None:
        if first is None or last is None or seconds < _LEAST_S:
            return None
        return min(max((last - first - mine) / (seconds * cores), 0.0), 1.0)

    def grown(first: int | None, last: int | None) -> int | None:
        return None if first is None or last is None else max(last - first, 0)

    return Watched(
        clock_jump_s=round(after.day_s - before.day_s - seconds, 3),
        major_faults=grown(before.major_faults, after.major_faults),
        swapped_bytes=grown(before.swapped_bytes, after.swapped_bytes),
        others_share=share(before.busy_s, after.busy_s, own),
        stolen_share=share(before.stolen_s, after.stolen_s, 0.0),
    )


def _ticks(stat: str, cores: Sequence[int]) -> tuple[float | None, float | None]:
    """Seconds that these cores were busy, and that a hypervisor took, since the system started."""
    per_second = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100
    busy, stolen, seen = 0, 0, 0
    for hit in re.finditer(r"^cpu(\d+)((?: \d+){8})", stat, re.MULTILINE):
        if int(hit[1]) in cores:
            user, nice, system, _idle, _waiting, irq, softirq, steal = map(int, hit[2].split())
            busy, stolen, seen = busy + user + nice + system + irq + softirq, stolen + steal, seen + 1
    return (busy / per_second, stolen / per_second) if seen == len(set(cores)) and seen else (None, None)


def _major_faults() -> int | None:
    try:
        import resource
    except ImportError:  # Windows
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_majflt


def _swapped_bytes(root: Path) -> int | None:
    hit = re.search(r"^VmSwap:\s+(\d+) kB", text(root / "proc/self/status") or "", re.MULTILINE)
    return None if hit is None else int(hit[1]) * 1024
