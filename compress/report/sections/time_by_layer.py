"""Where the time of each file goes: a bar for each layer, as the engine ran it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from .. import quantities
from ..figures.drawing import stacked
from ..schema import BenchmarkRecord, Profile, ProfileRow, Report
from . import costs, findings

ROWS = 40
"""Of a file that are shown."""

KINDS = {"integer": "in integers", "float": "in float", "other": "converting and moving data"}


@dataclass(frozen=True)
class TimeRow:
    """A layer, or nodes of one operator that belong to no known layer: its bar, and its share of the file's time."""

    name: str
    ran_as: str
    bar: Markup
    share: float
    row: ProfileRow


@dataclass(frozen=True)
class FileTime:
    """Where the time of a file goes.

    Args:
        title: the outcome in a sentence.
        where: how the file was run.
        whole: a bar of the kinds of arithmetic, and these in words.
        rows: the slowest first.
        notes: what else is to be known: the layers that are not shown, and what could not be joined.
    """

    benchmark: BenchmarkRecord
    title: str
    where: str
    whole: tuple[Markup, str]
    rows: tuple[TimeRow, ...]
    notes: tuple[str, ...]


def files(report: Report) -> tuple[FileTime, ...]:
    """A file for each benchmark that tells it, those of the headline's setting first; one setting has one scale."""
    shown = []
    for group in findings.settings(report):
        told = [
            (b, b.profile) for b in costs.ordered(report, group) if b.profile is not None and b.profile.total_ms > 0
        ]
        most_ms = max((row.duration_ms for _, profile in told for row in profile.rows), default=0.0)
        shown += [_file(report, benchmark, profile, most_ms) for benchmark, profile in told]
    return tuple(shown)


def untold(report: Report) -> str:
    """The files of a profiled report that have no times of single nodes, in a sentence; "" where all have them."""
    places: dict[str, list[str]] = {}
    for benchmark in report.benchmarks:
        if benchmark.profile is None or not benchmark.profile.total_ms:
            places.setdefault(costs.setting_words(report, benchmark), []).append(benchmark.name)
    told = "; ".join(f"{', '.join(names)} {where}" for where, names in places.items())
    return f"No time of single nodes is told of {told}." if told else ""


def headline(shown: Sequence[FileTime], deployed: str | None) -> FileTime:
    """The file that the title is of: the deployed one, or the last where that tells no times."""
    return next((file for file in shown if file.benchmark.name == deployed), shown[-1])


def title(file: FileTime) -> str:
    """Above all of it: "conv1 takes 23 % of the time of int8"."""
    slowest = next((row for row in file.rows if row.row.layer), file.rows[0])
    return f"{slowest.name} takes {quantities.percent(100 * slowest.share, 0)} of the time of {file.benchmark.name}"


def _file(report: Report, benchmark: BenchmarkRecord, profile: Profile, most_ms: float) -> FileTime:
    several = len({provider for row in profile.rows for provider in row.providers}) > 1
    rows = tuple(_row(row, profile.total_ms, most_ms, with_provider=several) for row in profile.rows)
    return FileTime(
        benchmark,
        f"{benchmark.name}: {quantities.milliseconds(profile.total_ms)} in all nodes",
        costs.setting_words(report, benchmark),
        _whole(benchmark.name, profile),
        rows[:ROWS],
        tuple(_notes(profile, rows[ROWS:])),
    )


def _row(row: ProfileRow, total_ms: float, most_ms: float, *, with_provider: bool) -> TimeRow:
    share = row.duration_ms / total_ms
    name = row.layer or f"{', '.join(row.ops)} ({quantities.plural(len(row.nodes), 'node')})"
    ran = [*(row.ops if row.layer else ()), *(row.providers if with_provider else ())]
    words = f"{name}: {quantities.milliseconds(row.duration_ms)}, {quantities.percent(100 * share, 1)}"
    return TimeRow(name, ", ".join(ran), stacked(_parts(row), most_ms, words), share, row)


def _parts(row: ProfileRow) -> list[tuple[str, float, str]]:
    """What a row took where the engine was to run it, and elsewhere."""
    fell_ms = min(row.fallback_ms, row.duration_ms)
    parts = [
        (KINDS[row.kind], row.duration_ms - fell_ms, f"n-{row.kind}"),
        ("in nodes that fell back", fell_ms, "n-fell"),
    ]
    return [(f"{quantities.milliseconds(ms)} {name}", ms, kind) for name, ms, kind in parts if ms > 0]


def _whole(name: str, profile: Profile) -> tuple[Markup, str]:
    """The time of a file by arithmetic, and what of it is in nodes that fell back."""
    parts = [
        (words, sum(row.duration_ms - row.fallback_ms for row in profile.rows if row.kind == kind), f"n-{kind}")
        for kind, words in KINDS.items()
    ]
    parts.append(("in nodes that fell back", sum(row.fallback_ms for row in profile.rows), "n-fell"))
    told = [(words, ms, kind) for words, ms, kind in parts if ms > 0]
    text = " · ".join(f"{quantities.percent(100 * ms / profile.total_ms, 0)} {words}" for words, ms, _ in told)
    return stacked(told, profile.total_ms, f"time of {name}: {text}"), text


def _notes(profile: Profile, hidden: Sequence[TimeRow]) -> list[str]:
    notes = []
    if hidden:
        ms = sum(row.row.duration_ms for row in hidden)
        share = quantities.percent(100 * ms / profile.total_ms, 1)
        notes.append(f"{quantities.plural(len(hidden), 'faster row')} with {share} of the time are not shown.")
    if profile.left_layers:
        notes.append(f"No node was found for {', '.join(profile.left_layers)}.")
    ordered = sum(row.joined == "order" for row in profile.rows)
    if ordered:
        were = "was" if ordered == 1 else "were"
        notes.append(
            f"{quantities.plural(ordered, 'layer')} {were} found by order alone: parallel branches may be exchanged."
        )
    return notes
