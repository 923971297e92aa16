"""The tables of what ``compress bench`` measures besides warm runs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

if TYPE_CHECKING:
    from ...deploy.modes import ModeResults
    from ...siblings import runtimes


def mode_tables(results: ModeResults) -> Iterator[Table]:
    """A table for each mode that was measured."""
    if results.sustained is not None:
        yield _sustained(results.sustained)
    if results.cold_starts:
        yield _cold_starts(results.cold_starts)
    for title, sweeps in (("batches", results.batches), ("threads and cores", results.sweeps)):
        for name, points in sweeps.items():
            yield _sweep(f"{name}: {title}", points)


def _sustained(found: runtimes.measure.sustained.Sustained) -> Table:
    first, last = found.before, found.windows[-1].after
    clocks = [max(each.clocks_mhz.values()) if each.clocks_mhz else None for each in (first, last)]
    degrees = [max(each.temperatures_c.values()) if each.temperatures_c else None for each in (first, last)]
    told = [
        f"{name} {_number(pair[0], 0)} to {_number(pair[1], 0)} {unit}"
        for name, pair, unit in (("clock", clocks, "MHz"), ("hottest", degrees, "C"))
        if pair[0] is not None and pair[1] is not None
    ]
    table = Table(
        "file", "first minute p50 ms", "last minute", "times", "slowest run",
        title=", ".join([f"{found.windows[-1].end_s / 60:.1f} minutes under load", *told]), title_justify="left",
    )  # fmt: skip
    for i, name in enumerate(found.files):
        slowest = max(window.max_ms[i] for window in found.windows)
        table.add_row(
            Path(name).name, _number(found.first_ms(i), 3), _number(found.last_ms(i), 3),
            f"{found.slowdown(i):.2f}x", _number(slowest, 3),
        )  # fmt: skip
    return table


def _cold_starts(found: tuple[runtimes.measure.cold_start.ColdStart, ...]) -> Table:
    table = Table(
        "file", "to the first result ms", "process", "engine", "load", "first run", "second run",
        title=f"cold starts, medians of {len(found[0].total_ms)} processes", title_justify="left",
    )  # fmt: skip
    for each in found:
        medians = each.to_json()["p50_ms"]
        parts = ("total_ms", "start_ms", "import_ms", "load_ms", "first_ms", "second_ms")
        table.add_row(Path(each.file).name, *(_number(medians[part], 1) for part in parts))
    return table


def _sweep(title: str, points: tuple[runtimes.measure.sweep.SweepPoint, ...]) -> Table:
    table = Table("batch", "threads", "cores", "p50 ms", "p90", "samples/s", "", title=title, title_justify="left")
    for point in points:
        measured = point.measurement
        table.add_row(
            str(point.batch), str(point.threads), point.cores or "all", _number(measured.p50_ms, 3),
            _number(measured.p90_ms, 3), f"{point.samples_per_s:,.0f}", "" if measured.valid else "invalid",
        )  # fmt: skip
    return table


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
