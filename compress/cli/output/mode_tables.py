"""The tables of what ``compress bench`` measures besides warm runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from rich.table import Table

from ...siblings import runtimes

modes = runtimes.measure.modes


def mode_tables(results: runtimes.measure.modes.mode.ModeResults) -> Iterator[Table]:
    """The tables of what was measured on a device, mode by mode."""
    for mode, of in results.modes:
        for table in _TABLES[mode.NAME](mode, of) if of else ():
            if results.device != runtimes.devices.device.LOCAL:
                table.title = f"{results.device}: {table.title}"
            yield table


def _sustained(_: object, results: Sequence[Any]) -> Iterator[Table]:
    for found in results:
        yield _load(found)


def _load(found: runtimes.measure.modes.sustained.Sustained) -> Table:
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
        caption="; ".join(found.disturbances) or None, caption_justify="left",
    )  # fmt: skip
    for i, name in enumerate(found.files):
        slowest = max(window.max_ms[i] for window in found.windows)
        table.add_row(
            Path(name).name, _number(found.first_ms(i), 3), _number(found.last_ms(i), 3),
            f"{found.slowdown(i):.2f}x", _number(slowest, 3),
        )  # fmt: skip
    return table


def _cold_starts(_: object, results: Sequence[Any]) -> Iterator[Table]:
    table = Table(
        "file", "to the first result ms", "process", "engine", "load", "first run", "second run", "processes",
        title="cold starts, medians", title_justify="left",
        caption="; ".join(dict.fromkeys(why for each in results for why in each.disturbances)) or None,
        caption_justify="left",
    )  # fmt: skip
    for each in results:
        medians = each.to_json()["p50_ms"]
        parts = ("total_ms", "start_ms", "import_ms", "load_ms", "first_ms", "second_ms")
        spans = (_number(medians[part], 1) for part in parts)
        table.add_row(Path(each.file).name, *spans, str(len(each.total_ms)))
    yield table


def _sweep(mode: runtimes.measure.modes.mode.Mode, results: Sequence[Any]) -> Iterator[Table]:
    for name, points in groupby(results, key=lambda point: point.measurement.file):
        title = f"{name}: {mode.TITLE}"
        table = Table("batch", "threads", "cores", "p50 ms", "p90", "samples/s", "", title=title, title_justify="left")
        for point in points:
            measured = point.measurement
            table.add_row(
                str(point.batch), str(point.threads), point.cores or "all", _number(measured.p50_ms, 3),
                _number(measured.p90_ms, 3), f"{point.samples_per_s:,.0f}", "" if measured.valid else "invalid",
            )  # fmt: skip
        yield table


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


_TABLES: Mapping[str, Callable[[Any, Sequence[Any]], Iterator[Table]]] = {
    modes.sustained.SustainedLoad.NAME: _sustained,
    modes.cold_start.ColdStarts.NAME: _cold_starts,
    modes.sweep.BatchSweep.NAME: _sweep,
    modes.sweep.CoresSweep.NAME: _sweep,
}
