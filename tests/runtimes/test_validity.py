"""Each rule that makes a measurement invalid: broken on purpose, and left alone just before that."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from runtimes.measure.measurement import Measurement
from runtimes.measure.validity import RULES
from runtimes.sensors.conditions import Conditions, conditions
from runtimes.sensors.watch import Reading, Watched

HERE = dataclasses.replace(
    conditions(), governor="performance", throttled=None, cooling=None, throttle_counts=None, emulated=False
)


def measured(before: Conditions = HERE, after: Conditions = HERE, **changes: Any) -> Measurement:
    facts: dict[str, Any] = {
        "file": "net.onnx", "engine": "onnxruntime", "engine_version": "1", "threads": 1, "preset": "quick",
        "samples_ms": (1.0,) * 100, "warmup_runs": 3, "duration_s": 10.0, "interleaved": 1, "conditions": before,
        "conditions_after": after, "sentinel_ms": (1.0, 1.0), "size_bytes": 10, "peak_memory_bytes": None,
        "baseline_memory_bytes": None, "load_ms": 1.0,
    }  # fmt: skip
    return Measurement(**facts | changes)


def like(**changes: Any) -> Conditions:
    return dataclasses.replace(HERE, **changes)


def clocks(*each: dict[str, float]) -> Watched:
    return Watched(readings=tuple(Reading(float(at), clocks_mhz=mhz) for at, mhz in enumerate(each)))


BROKEN = {
    "spread of 20%": ("spread", measured(samples_ms=(1.0,) * 60 + (1.2,) * 40)),
    "drifted by 30%": ("drift", measured(sentinel_ms=(1.0,) * 10 + (1.3,) * 10)),
    "drifted by 20%": ("drift", measured(sentinel_ms=(1.0,) * 10 + (0.8,) * 10)),
    "0x4 after": ("throttled", measured(after=like(throttled=4), before=like(throttled=0))),
    "0x50000 after": ("throttled", measured(before=like(throttled=0), after=like(throttled=0x50000))),
    "0x1 before": ("throttled", measured(before=like(throttled=1), after=like(throttled=0))),
    "get_throttled": ("throttled", measured(watched=Watched(readings=(Reading(1.0, throttled=2),)))),
    "cpufreq-cpu0 at 2": (
        "throttled",
        measured(watched=Watched(readings=(Reading(1.0, cooling={"cpufreq-cpu0": 2}),))),
    ),
    "cpu0 by 3": (
        "throttled",
        measured(before=like(throttle_counts={"cpu0": 4}), after=like(throttle_counts={"cpu0": 7})),
    ),
    "between 1500 and 2400 MHz": ("clocks", measured(watched=clocks({"cpu0": 2400.0}, {"cpu0": 1500.0}))),
    "from performance to schedutil": ("governor", measured(after=like(governor="schedutil"))),
    "100 of at least 1024 runs": ("runs", measured(least_runs=1024)),
    "too few for percentile 99": ("runs", measured(percentiles=(90, 99))),
    r"jumped by \+3600.0 s": ("time", measured(watched=Watched(clock_jump_s=3600.0))),
    r"jumped by -2.0 s": ("time", measured(watched=Watched(clock_jump_s=-2.0))),
    "emulated": ("emulated", measured(before=like(emulated=True), after=like(emulated=True))),
    "7 pages": ("memory", measured(watched=Watched(major_faults=7))),
    "4.0 MB were swapped out": ("memory", measured(watched=Watched(swapped_bytes=4_000_000))),
    "others took 40%": ("others", measured(watched=Watched(others_share=0.4), pinned=(0,))),
    "hypervisor took 20%": ("others", measured(watched=Watched(stolen_share=0.2))),
    "connection was lost": ("disturbed", measured(disturbances=("the connection was lost",))),
}


@pytest.mark.parametrize("reason", BROKEN)
def test_a_broken_rule_is_named_with_its_reason(reason: str) -> None:
    import re

    rule, found = BROKEN[reason]
    assert [each.rule for each in found.broken_rules] == [rule] and not found.valid
    assert re.search(reason, found.broken_rules[0].reason)


def test_every_rule_is_broken_above() -> None:
    assert {rule for rule, _ in BROKEN.values()} == set(RULES)


@pytest.mark.parametrize(
    "found",
    [
        measured(samples_ms=(1.0,) * 99 + (50.0,)),
        measured(sentinel_ms=(1.0,) * 10 + (1.09,) * 10),
        measured(before=like(throttled=0x50000), after=like(throttled=0x50000)),  # long ago
        measured(before=like(throttle_counts={"cpu0": 7}), after=like(throttle_counts={"cpu0": 7})),
        measured(before=like(cooling={"cpufreq-cpu0": 0}), after=like(cooling={"cpufreq-cpu0": 0})),
        measured(watched=clocks({"cpu0": 2400.0, "cpu1": 600.0}, {"cpu0": 600.0, "cpu1": 2300.0})),  # it moved
        measured(watched=clocks({"gpu": 2400.0}, {"gpu": 600.0})),
        measured(least_runs=100, percentiles=(90,)),
        measured(watched=Watched(clock_jump_s=0.05, major_faults=0, swapped_bytes=0, others_share=0.4)),  # free to move
        measured(watched=Watched(others_share=0.05), pinned=(0,)),
    ],
)
def test_what_breaks_no_rule_is_valid(found: Measurement) -> None:
    assert found.broken_rules == ()


def test_reasons_survive_json() -> None:
    found = BROKEN["cpufreq-cpu0 at 2"][1]
    assert Measurement.from_json(found.to_json()) == found
    assert found.to_json()["validity"]["broken_rules"] == [  # type: ignore[index]
        {"rule": "throttled", "reason": "cooling held clocks back (cpufreq-cpu0 at 2)"}
    ]
