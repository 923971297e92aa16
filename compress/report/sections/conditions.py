"""Under what conditions files were measured, and which measurements are not to be trusted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..quantities import UNKNOWN, significant
from ..schema import BenchmarkRecord, Report
from . import costs


@dataclass(frozen=True)
class Loop:
    """A loop of measurements: the files in it, and facts before and after, in the order in which they are told."""

    names: tuple[str, ...]
    facts: tuple[tuple[str, str], ...]


def doubts(report: Report) -> list[tuple[str, tuple[str, ...]]]:
    """Each reason for which measurements are invalid, and a line for each setting with the files that it is of."""
    reasons: dict[str, dict[str, list[str]]] = {}
    for benchmark in report.benchmarks:
        if benchmark.valid is False:
            where = costs.setting_words(report, benchmark)
            for note in benchmark.notes or ("a rule was broken",):
                reasons.setdefault(note, {}).setdefault(where, []).append(benchmark.name)
    return [
        (reason, tuple(f"{', '.join(names)} {where}" for where, names in places.items()))
        for reason, places in reasons.items()
    ]


def loops(report: Report) -> list[Loop]:
    """The loops whose conditions were recorded."""
    groups: dict[object, list[BenchmarkRecord]] = {}
    for number, benchmark in enumerate(report.benchmarks):
        if benchmark.conditions:
            groups.setdefault(benchmark.loop or number, []).append(benchmark)
    return [Loop(tuple(b.name for b in group), tuple(_facts(group[0]))) for group in groups.values()]


def _facts(benchmark: BenchmarkRecord) -> list[tuple[str, str]]:
    before, after = benchmark.conditions, benchmark.conditions_after
    watched = benchmark.watched
    told = [
        ("began", benchmark.began),
        ("lasted", None if benchmark.duration_s is None else f"{significant(benchmark.duration_s)} s"),
        ("files loaded", f"{benchmark.loadings} times" if benchmark.loadings > 1 else "once"),
        ("device", " = ".join(part for part in (benchmark.device, benchmark.machine) if part) or None),
        ("cores", _words(before.get("cores"))),
        ("pinned to", _words(benchmark.pinned)),
        ("governor", _change(before, after, "governor")),
        ("power mode", _change(before, after, "power_mode")),
        ("clock, MHz", _change(before, after, "clock_mhz")),
        ("temperature, °C", _change(before, after, "temperatures_c")),
        ("throttle bits", _change(before, after, "throttled")),
        ("load average", _change(before, after, "load_average")),
        ("taken by others", _share(watched.get("others_share"))),
        ("taken by a hypervisor", _share(watched.get("stolen_share"))),
        ("power rail", _rail(benchmark)),
        ("system", _words(before.get("os"))),
    ]
    return [(name, value) for name, value in told if value is not None]


def _rail(benchmark: BenchmarkRecord) -> str | None:
    energy = benchmark.energy
    if energy is None:
        return None
    idle = "" if energy.idle_watts is None else f", {significant(energy.idle_watts)}\u00a0W at rest"
    return f"{energy.rail} ({energy.source}){idle}"


def _change(before: Mapping[str, object], after: Mapping[str, object], name: str) -> str | None:
    """A fact before and after the loop: once where it is the same; None where it was not told."""
    first, last = (_words(side.get(name)) for side in (before, after))
    if first is None or last is None or first == last:
        return first
    return f"{first} → {last}"


def _share(value: object) -> str | None:
    return f"{100 * value:.1f}\u00a0%" if isinstance(value, (int, float)) else None


def _words(value: object) -> str | None:
    if value is None or value in ((), {}):
        return None
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_words(item) or UNKNOWN}" for key, item in value.items())
    if isinstance(value, (tuple, list)):
        return ", ".join(_words(item) or UNKNOWN for item in value)
    return significant(value) if isinstance(value, float) else str(value)
