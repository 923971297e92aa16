"""A report in the terminal: the same findings as the page, in a few tables."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ..tasks.record import ScoreRecord
from .page import fact
from .quantities import UNKNOWN, count, milliseconds, percent, plural, ratio, score, seconds, size
from .schema import Report, StageRecord
from .sections import cuts, findings, on_devices, time_by_layer
from .sections.conditions import doubts
from .sections.cuts import LayerCut
from .sections.findings import dropped

ROWS, BAR, NAMES, SLOWEST = 40, 24, 3, 5
"""Rows of a table of cuts, letters of its longest bar, names that are told with a reason, and layers of a file."""

Number = TypeVar("Number", int, float, ScoreRecord)


def terminal(report: Report) -> RenderableType:
    """The outcome, the files, the stages and the gates, for ``rich.print``."""
    parts: list[RenderableType] = [_title(report), _outcome(report)]
    parts += [_device(row) for row in on_devices.rows(report)]
    if report.exports or report.benchmarks:
        parts.append(_files(report))
    for reason, places in doubts(report):
        parts.append(Text(f"! not to be trusted: {'; '.join(places)}: {reason}\n", style="yellow"))
    parts += [_time(file) for file in time_by_layer.files(report)]
    if report.stages:
        parts.append(_stages(report))
        parts += [Text(f"! {line}\n", style="yellow") for stage in report.stages for line in stage.warnings]
        for index, rows in cuts.stage_cuts(report).items():
            parts += _cuts(report.stages[index], rows)
    if report.gates:
        parts.append(_gates(report))
    return Group(*parts)


def _title(report: Report) -> Text:
    where = report.model if report.data is None else f"{report.model} on {report.data.name}"
    return Text.assemble((where, "bold"), ": ", (findings.headline(report), "bold"))


def _outcome(report: Report) -> Text:
    summary = report.summary
    drop, name = summary.score_drop, next(iter(summary.score_drops), "score")
    lost = UNKNOWN if drop is None else f"{dropped(report, drop)} {'gained' if drop < -0.005 else 'lost'}"
    text = f"speedup {ratio(summary.speedup)}   size {ratio(summary.size_ratio)}   MACs {ratio(summary.macs_ratio)}   "
    return Text(f"{text}{name} {lost}", style="cyan")


def _device(row: on_devices.DeviceRow) -> Text:
    """The outcome on one of several devices."""
    reached = row.outcome.summary
    text = row.outcome.failure or f"speedup {ratio(reached.speedup)}   size {ratio(reached.size_ratio)}"
    return Text(f"  {row.outcome.device}: {text}" + (f"   {row.gates} gates passed" if row.gates else ""))


def _table(title: str, *columns: str) -> Table:
    table = Table(title=Text(title), title_justify="left", title_style="bold", box=SIMPLE_HEAD, pad_edge=False)
    for i, column in enumerate(columns):
        table.add_column(Text(column), justify="right" if i else "left", overflow="fold")
    return table


def _files(report: Report) -> Table:
    """A row per benchmark, then one per file that was not timed."""
    table = _table(
        "Files", "file", "size", "p50", "p90", "where", f"{findings.score_name(report)} (test)", "integer nodes"
    )

    def row(name: str, *timing: str) -> None:
        export = findings.export_of(report, name)
        nodes = export.nodes if export else None
        total = nodes.integer + nodes.float + nodes.other if nodes else 0
        integers = f"{nodes.integer} of {total}" if nodes else UNKNOWN
        style = "bold" if name == report.summary.deployed else ""
        stored = size(export.size_bytes if export else None)
        if export and export.packed_bytes is not None:
            stored += f" ({size(export.packed_bytes)} packed)"
        cells = (name, stored, *timing, integers)
        table.add_row(*map(Text, cells), style=style)

    for benchmark in (b for group in findings.settings(report) for b in group):
        latency = benchmark.latency_ms
        threads = "" if benchmark.threads is None else f", {plural(benchmark.threads, 'thread')}"
        device = f" on {benchmark.device}" if benchmark.device else ""
        invalid = ", invalid" if benchmark.valid is False else ""
        row(
            benchmark.name,
            milliseconds(latency.p50),
            milliseconds(latency.p90),
            f"{findings.engine_title(benchmark.runtime)}{threads}{device}{invalid}",
            score(benchmark.score),
        )
    timed = {benchmark.name for benchmark in report.benchmarks}
    for export in report.exports:
        if export.name not in timed:
            row(export.name, UNKNOWN, UNKNOWN, "not timed", UNKNOWN)
    return table


def _time(file: time_by_layer.FileTime) -> Text:
    """The slowest layers of a file that was profiled, and the kinds of arithmetic that its time is in."""
    slowest = ", ".join(f"{row.name} {percent(100 * row.share, 0)}" for row in file.rows[:SLOWEST])
    return Text(f"{file.title} {file.where}: {slowest}; {file.whole[1]}\n")


def _change(before: Number | None, after: Number | None, show: Callable[[Number | None], str]) -> str:
    if before is None or before == after:
        return show(after)
    return f"{show(before)} → {show(after)}"


def _stages(report: Report) -> Table:
    table = _table(
        "Stages",
        "stage",
        "parameters",
        "MACs",
        "bit operations",
        "weights",
        f"{findings.score_name(report)} (validation)",
        "edited",
        "skipped",
        "took",
    )
    for stage in report.stages:
        before, after = stage.before, stage.after
        table.add_row(
            Text(stage.name),
            _change(before.params, after.params, count),
            _change(before.macs, after.macs, count),
            _change(before.bit_operations, after.bit_operations, count),
            _change(before.size_bytes, after.size_bytes, size),
            _change(before.score, after.score, score),
            plural(len({edit.layer for edit in stage.edits}), "layer"),
            plural(len({skip.layer for skip in stage.skipped}), "layer"),
            seconds(stage.seconds),
        )
    return table


def _cuts(stage: StageRecord, rows: Sequence[LayerCut]) -> list[RenderableType]:
    """What was cut where, and why the rest was not."""
    table = _table(f"{stage.name}: {cuts.title(rows)}", "layer", "channels", "kept ░ went", "MACs kept")
    table.columns[2].justify = "left"
    shown = cuts.folded(rows, ROWS)
    most = max(cut.before for cut in shown)
    for cut in shown:
        whole, left = (max(1, round(BAR * n / most)) if n else 0 for n in (cut.before, cut.after))
        bar = Text("█" * left, style="cyan").append("░" * (whole - left), style="dim")
        name = cut.layer if cut.layers == 1 else f"{cut.layer} ({plural(cut.layers, 'layer')})"
        width = _change(cut.before, cut.after, str) if cut.after else f"{cut.before} → removed"
        table.add_row(Text(name), width, bar, percent(None if cut.macs_kept is None else 100 * cut.macs_kept, 0))
    groups = findings.skip_groups(stage.skipped)
    if not groups:
        return [table]
    reasons = _table("Why the rest was not cut", "reason", "layers", "which")
    reasons.columns[2].justify = "left"
    for group in groups:
        more = len(group.layers) - NAMES
        names = ", ".join(group.layers[:NAMES]) + (f" and {more} more" if more > 0 else "")
        reasons.add_row(Text(group.what), str(len(group.layers)), Text(names))
    return [table, reasons]


def _gates(report: Report) -> Text:
    text = Text(findings.gates_title(report) or "", style="bold")
    for gate in report.gates:
        mark, colour = ("✓", "green") if gate.passed else ("✗", "red")
        text.append(f"\n{mark} ", style=colour)
        text.append(f"{gate.title}: {fact(gate.got)} (expected {fact(gate.expected)})", style="not bold")
    return text
