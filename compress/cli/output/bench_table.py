"""The table of measurements that ``compress bench`` prints."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.table import Table

from ...report.schema import BenchmarkRecord


def bench_table(records: Sequence[BenchmarkRecord]) -> Table:
    """One row per file; the last column compares its median with that of the first file on the same device."""
    firsts: dict[str | None, float | None] = {}
    for record in records:
        firsts.setdefault(record.device, record.latency_ms.p50)
    elsewhere = any(record.device for record in records)
    rails = {record.energy.rail for record in records if record.energy is not None}
    scored = next((record.score for record in records if record.score is not None), None)
    score_title = "test score" if scored is None else f"test {scored.name}{scored.unit}"
    table = Table(
        *(["device"] if elsewhere else []),
        "file", "p50 ms", "p90", "p99", "runs", "size kB", "peak memory MB", score_title, "agreement %", "speed",
        *([f"mJ/run ({', '.join(sorted(rails))})"] if rails else []),
        title=f"{records[0].runtime} {records[0].runtime_version}, {records[0].threads} thread(s), {records[0].preset}",
        title_justify="left",
    )  # fmt: skip
    for record in records:
        latency = record.latency_ms
        agreement = record.parity.top1_agreement if record.parity else None
        memory = record.peak_memory_bytes / 1e6 if record.peak_memory_bytes is not None else None
        first = firsts[record.device]
        by_rule = record.preset == "mlperf"  # whose percentiles are those of early stopping
        table.add_row(
            *([record.device or "local"] if elsewhere else []),
            record.name + ("" if record.valid is not False else " (invalid)"),
            _number(latency.p50, 3), _number(latency.p90_bound if by_rule else latency.p90, 3),
            _number(latency.p99_bound if by_rule else latency.p99, 3), str(record.runs),
            _number(record.size_bytes / 1e3 if record.size_bytes is not None else None, 1),
            _number(memory, 1), _score(record), _number(agreement, 2),
            _times(first / latency.p50 if first and latency.p50 and not record.emulated else None),
            *([_number(record.energy.per_run_mj if record.energy else None, 2)] if rails else []),
        )  # fmt: skip
    return table


def node_lines(records: Sequence[BenchmarkRecord]) -> Iterator[str]:
    """A line for each file whose engine tells who ran its nodes."""
    for record in records:
        nodes = record.nodes
        if nodes is None or not nodes.providers:
            continue
        ran = ", ".join(f"{name} {count}" for name, count in nodes.providers.items())
        fell = ""
        if nodes.fallen_back:
            share = "" if nodes.fallback_share is None else f" and took {nodes.fallback_share:.0%} of the time"
            fell = f"; {nodes.fallen_back} fell back{share}"
        yield f"{record.name}: {nodes.integer} nodes in integers, {nodes.float} in float; ran by {ran}{fell}"


def output_lines(records: Sequence[BenchmarkRecord]) -> Iterator[str]:
    """A line for each file with several outputs, or with parts of one that the rest of it drowns: how near each is."""
    for record in records:
        outputs = record.parity.outputs if record.parity else ()
        if len(outputs) < 2 and all(output.part_snr_db is None for output in outputs):
            continue
        parts = (
            f"{output.name} {_number(output.snr_db, 1)}"
            + ("" if output.part_snr_db is None else f" (its small channels {output.part_snr_db:.1f})")
            for output in outputs
        )
        yield f"{record.name}: SNR in dB of each output to its network: {', '.join(parts)}"


def _times(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}x"


def _score(record: BenchmarkRecord) -> str:
    """The value of the first score, without its unit, which stands above."""
    score = record.score
    return "" if score is None else str(score).removesuffix(score.unit)


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
