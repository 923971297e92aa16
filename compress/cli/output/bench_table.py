"""The table of measurements that ``compress bench`` prints."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from ...report.schema import BenchmarkRecord


def bench_table(records: Sequence[BenchmarkRecord]) -> Table:
    """One row per file; the last column compares its median with that of the first file on the same device."""
    firsts: dict[str | None, float | None] = {}
    for record in records:
        firsts.setdefault(record.device, record.latency_ms.p50)
    elsewhere = any(record.device for record in records)
    table = Table(
        *(["device"] if elsewhere else []),
        "file", "p50 ms", "p90", "p99", "runs", "size kB", "peak memory MB", "test top-1 %", "agreement %", "speed",
        title=f"{records[0].runtime} {records[0].runtime_version}, {records[0].threads} thread(s), {records[0].preset}",
        title_justify="left",
    )  # fmt: skip
    for record in records:
        latency = record.latency_ms
        agreement = record.parity.top1_agreement if record.parity else None
        memory = record.peak_memory_bytes / 1e6 if record.peak_memory_bytes is not None else None
        first = firsts[record.device]
        table.add_row(
            *([record.device or "local"] if elsewhere else []),
            record.name + ("" if record.valid is not False else " (invalid)"),
            _number(latency.p50, 3), _number(latency.p90, 3), _number(latency.p99, 3), str(record.runs),
            _number(record.size_bytes / 1e3 if record.size_bytes is not None else None, 1),
            _number(memory, 1), _number(record.top1, 2), _number(agreement, 2),
            _number(first / latency.p50 if first and latency.p50 else None, 2) + "x",
        )  # fmt: skip
    return table


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
