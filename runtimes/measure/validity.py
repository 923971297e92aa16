"""When a measurement is not to be trusted: rules, each with a name, and the reason in words where one is broken."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ..sensors.conditions import Conditions
from ..sensors.throttling import NOW
from ..sensors.watch import Watched
from .percentiles import most_over

TOLERANCE = 0.10
"""A spread, a drift, a change of clocks or a share of time that others took over this is too much."""

CLOCK_JUMP_S = 0.1
"""The time of day may move so much further than the time that is measured by, and a thousandth of the duration."""


@dataclass(frozen=True)
class BrokenRule:
    """A rule that a measurement broke.

    Args:
        rule: its name, a key of `RULES`.
        reason: in words, with figures.
    """

    rule: str
    reason: str


class Judged(Protocol):
    """What rules look at in a measurement."""

    @property
    def samples_ms(self) -> Sequence[float]: ...
    @property
    def sentinel_ms(self) -> Sequence[float]: ...
    @property
    def duration_s(self) -> float: ...
    @property
    def conditions(self) -> Conditions: ...
    @property
    def conditions_after(self) -> Conditions: ...
    @property
    def watched(self) -> Watched: ...
    @property
    def least_runs(self) -> int: ...
    @property
    def percentiles(self) -> Sequence[int]: ...
    @property
    def pinned(self) -> Sequence[int] | None: ...
    @property
    def disturbances(self) -> Sequence[str]: ...


def broken_rules(measured: Judged) -> tuple[BrokenRule, ...]:
    """Return the rules that a measurement broke, in the order of `RULES`; empty where it is valid."""
    return tuple(BrokenRule(name, reason) for name, rule in RULES.items() for reason in rule(measured))


def spread_of(samples_ms: Sequence[float]) -> float:
    """Return (p90 - p10) / p50."""
    p10, p50, p90 = np.percentile(samples_ms, (10, 50, 90)) if samples_ms else (0.0, 1.0, 0.0)
    return float((p90 - p10) / p50) if p50 else 0.0


def drift_of(sentinel_ms: Sequence[float]) -> float:
    """Return by what share the median of the sentinel moved from the first half of the loop to the second."""
    half = len(sentinel_ms) // 2
    if half == 0:
        return 0.0
    return abs(float(np.median(sentinel_ms[half:]) / np.median(sentinel_ms[:half])) - 1.0)


def clock_range_mhz(measured: Judged) -> tuple[float, float] | None:
    """Return the lowest and the highest clock during the loop, of the fastest core at each moment; None if untold.

    Without pinning the process is on the core that is clocked highest, while idle ones are clocked down.
    """
    told = [reading.clocks_mhz for reading in measured.watched.readings if reading.clocks_mhz]
    fastest = [max(mhz for name, mhz in each.items() if name.startswith("cpu")) for each in told if _has_core(each)]
    return (min(fastest), max(fastest)) if fastest else None


def _has_core(clocks: Mapping[str, float]) -> bool:
    return any(name.startswith("cpu") for name in clocks)


def _spread(measured: Judged) -> list[str]:
    spread = spread_of(measured.samples_ms)
    return [f"spread of {spread:.0%}, (p90 - p10) / p50, is over {TOLERANCE:.0%}"] if spread > TOLERANCE else []


def _drift(measured: Judged) -> list[str]:
    drift = drift_of(measured.sentinel_ms)
    told = f"the machine drifted by {drift:.0%}, over {TOLERANCE:.0%}, while it was measured"
    return [told] if drift > TOLERANCE else []


def _throttled(measured: Judged) -> list[str]:
    first, last, reasons = measured.conditions, measured.conditions_after, []
    before, after = first.throttled or 0, last.throttled or 0
    during = [reading.throttled for reading in measured.watched.readings if (reading.throttled or 0) & NOW]
    if (before | after) & NOW or after & ~before or during:
        reasons.append(f"the machine was throttled (get_throttled: {before:#x} before, {after:#x} after)")
    states = [first.cooling, *(reading.cooling for reading in measured.watched.readings), last.cooling]
    worst: dict[str, int] = {}
    for each in states:
        for name, state in (each or {}).items():
            worst[name] = max(state, worst.get(name, 0))
    held = [f"{name} at {state}" for name, state in worst.items() if state]
    if held:
        reasons.append(f"cooling held clocks back ({', '.join(held)})")
    counts, known = last.throttle_counts or {}, first.throttle_counts or {}
    grown = [f"{name} by {count - known.get(name, 0)}" for name, count in counts.items() if count > known.get(name, 0)]
    if grown:
        reasons.append(f"the machine counted throttling ({', '.join(grown)})")
    return reasons


def _clocks(measured: Judged) -> list[str]:
    told = clock_range_mhz(measured)
    if told is None or told[1] - told[0] <= TOLERANCE * told[1]:
        return []
    return [f"the clock changed between {told[0]:.0f} and {told[1]:.0f} MHz, by over {TOLERANCE:.0%}"]


def _governor(measured: Judged) -> list[str]:
    before, after = measured.conditions.governor, measured.conditions_after.governor
    return [f"the governor changed from {before} to {after}"] if before != after else []


def _runs(measured: Judged) -> list[str]:
    runs, reasons = len(measured.samples_ms), []
    if runs < measured.least_runs:
        reasons.append(f"{runs} of at least {measured.least_runs} runs were taken")
    few = [percentile for percentile in measured.percentiles if not most_over(runs, percentile)]
    if few:
        reasons.append(f"{runs} runs are too few for percentile {' and '.join(map(str, few))}")
    return reasons


def _time(measured: Judged) -> list[str]:
    jump = measured.watched.clock_jump_s
    if abs(jump) <= CLOCK_JUMP_S + measured.duration_s / 1000:
        return []
    return [f"the time of day jumped by {jump:+.1f} s against the time that was measured by"]


def _emulated(measured: Judged) -> list[str]:
    return ["the processor is emulated: its times say nothing of a real one"] if measured.conditions.emulated else []


def _memory(measured: Judged) -> list[str]:
    reasons, watched = [], measured.watched
    if watched.major_faults:
        reasons.append(f"{watched.major_faults} pages were read from storage in between (major faults)")
    if watched.swapped_bytes:
        reasons.append(f"{watched.swapped_bytes / 1e6:.1f} MB were swapped out in between")
    return reasons


def _others(measured: Judged) -> list[str]:
    reasons, watched = [], measured.watched
    others, stolen = watched.others_share, watched.stolen_share
    if measured.pinned and others is not None and others > TOLERANCE:
        reasons.append(f"others took {others:.0%} of the time of the cores that it was pinned to")
    if stolen is not None and stolen > TOLERANCE:
        reasons.append(f"the hypervisor took {stolen:.0%} of the cores' time")
    return reasons


def _disturbances(measured: Judged) -> list[str]:
    return list(measured.disturbances)


RULES: Mapping[str, Callable[[Judged], list[str]]] = {
    "spread": _spread,
    "drift": _drift,
    "throttled": _throttled,
    "clocks": _clocks,
    "governor": _governor,
    "runs": _runs,
    "time": _time,
    "emulated": _emulated,
    "memory": _memory,
    "others": _others,
    "disturbed": _disturbances,
}
"""By name, what each rule finds wrong with a measurement, in words."""
