"""Files with measurements as records: what ``compress bench -o``, ``python -m runtimes`` and runs write."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from ..core.complaint import first_complaint
from ..errors import InvalidInput
from ..files.untrusted import read_json
from ..report.schema import BenchmarkRecord, Report
from ..report.store import JSON_NAME
from ..report.store import read as read_report

ADVICE = "give what `compress bench -o FILE.json` or `python -m runtimes` wrote, a report.json, or a run's folder"
SHORTEST_MS, LONGEST_MS = 1e-9, 1e12
"""What can be the time of a run: a clock has no finer ticks, and nobody waits longer."""

_TOLERANCE = 0.01


def read(path: Path) -> tuple[BenchmarkRecord, ...]:
    """The measurements in a file, or in the ``report.json`` of a folder: at least one, in their order.

    Raises:
        InvalidInput: there is no such file, it is no JSON, has no measurements, or one of them is not whole: a sample
            is no positive number, or the median that is told is not that of the samples.
    """
    path = path / JSON_NAME if path.is_dir() else path
    if path.suffix.lower() == ".jsonl":
        raise InvalidInput(f"measurements {path}: a log of measurements; give it with --log")
    content = read_json(path, "measurements", ADVICE)
    if isinstance(content, dict) and "schema_version" in content:
        records = records_of(read_report(path))
    elif isinstance(content, dict) and isinstance(content.get("measurements"), list):
        machine = content.get("machine")
        items = content["measurements"]
        records = [_record(item, i, path, machine if isinstance(machine, dict) else {}) for i, item in enumerate(items)]
    elif isinstance(content, list):
        records = [_record(item, i, path, {}) for i, item in enumerate(content)]
    else:
        raise InvalidInput(f"measurements {path}: expected measurements, got other JSON; {ADVICE}")
    if not records:
        raise InvalidInput(f"measurements {path}: it has none; {ADVICE}")
    for i, record in enumerate(records):
        require_samples(record, f"measurements {path}: {i}")
    return tuple(records)


def require_samples(record: BenchmarkRecord, where: str) -> None:
    """Raise InvalidInput unless every sample is a positive number, and the median is the one that is told."""
    stated = record.latency_ms.p50
    if record.samples_ms:
        samples = np.asarray(record.samples_ms)
        bad = np.flatnonzero(~((samples >= SHORTEST_MS) & (samples <= LONGEST_MS)))
        if len(bad):
            raise InvalidInput(
                f"{where}.samples_ms.{bad[0]}: expected milliseconds over 0, got {samples[bad[0]]}; measure again"
            )
        median = float(np.median(samples))
        if stated is not None and not abs(stated - median) <= _TOLERANCE * median + 2e-6:
            raise InvalidInput(
                f"{where}: latency_ms.p50 is {stated:g}, and the median of samples_ms is {median:g}: both are to be in "
                "milliseconds, of the same runs; measure again"
            )
    elif stated is not None and not SHORTEST_MS <= stated <= LONGEST_MS:
        raise InvalidInput(f"{where}.latency_ms.p50: expected milliseconds over 0, got {stated}; measure again")
    elif stated is None:
        raise InvalidInput(f"{where} ({record.name:.60}): it was not timed: neither samples_ms nor latency_ms.p50")


def _record(item: object, number: int, path: Path, machine: Mapping[str, Any]) -> BenchmarkRecord:
    where = f"measurements {path}: {number}"
    if not isinstance(item, dict):
        raise InvalidInput(f"{where}: expected a measurement, got {type(item).__name__}; {ADVICE}")
    try:
        record = BenchmarkRecord.of(item) if "engine" in item else BenchmarkRecord.model_validate(item)
    except ValidationError as error:
        complaint = first_complaint(error)
        raise InvalidInput(f"{where}.{complaint.line('it')}{complaint.and_more}; measure again") from None
    return record if record.conditions else record.model_copy(update={"conditions": dict(machine)})


def records_of(report: Report, label: str | None = None) -> list[BenchmarkRecord]:
    """The benchmarks of a run under a ``label``, with what its exports and its machine tell of them."""
    exports = {export.name: export for export in report.exports}
    records = []
    for record in report.benchmarks:
        export = exports.get(record.name)
        known: Mapping[str, Any] = {
            "sha256": record.sha256 or (export.sha256 if export else None),
            "size_bytes": record.size_bytes or (export.size_bytes if export else None),
            "nodes": record.nodes or (export.nodes if export else None),
            "conditions": record.conditions or report.machine,
            "versions": record.versions or report.versions,
            "label": label,
        }
        records.append(record.model_copy(update=dict(known)))
    return records


def names_of(records: Sequence[BenchmarkRecord], most: int = 8) -> str:
    """Their names, the first few of them, for a line."""
    told = ", ".join(dict.fromkeys(record.name for record in records[:most]))
    return told + (f" and {len(records) - most} more" if len(records) > most else "")
