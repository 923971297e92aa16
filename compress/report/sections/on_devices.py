"""The outcome on each of several devices, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...siblings import runtimes
from ..quantities import plural, ratio
from ..schema import BenchmarkRecord, DeviceOutcome, Gate, Report


@dataclass(frozen=True)
class DeviceRow:
    """A device: its outcome, how the first and the deployed file did there, and the gates that failed there.

    Args:
        machine: what it is, where it tells; None where it was lost before that.
        base: None where it was lost; so is ``deployed``.
        gates: how many hold there, as "3 of 4"; "" where there are none.
    """

    outcome: DeviceOutcome
    machine: str | None
    base: BenchmarkRecord | None
    deployed: BenchmarkRecord | None
    gates: str
    failed: tuple[Gate, ...]


def rows(report: Report) -> tuple[DeviceRow, ...]:
    """A row for each device, in the order of the recipe; none where there is but one."""
    return tuple(_row(report, outcome) for outcome in report.devices)


def title(shown: Sequence[DeviceRow]) -> str:
    """Above all of it: "1.9× to 3.2× faster on 3 devices"."""
    speedups = [row.outcome.summary.speedup for row in shown]
    known = sorted(speedup for speedup in speedups if speedup is not None)
    lost = sum(row.outcome.failure is not None for row in shown)
    without = f"; {lost} of {plural(len(shown), 'device')} lost" if lost else ""
    if not known:
        return f"On {plural(len(shown), 'device')}{without}"
    least, most = ratio(known[0]), ratio(known[-1])
    span = least if least == most else f"{least} to {most}"
    return f"{span} the speed on {plural(len(known), 'device')}{without}"


def _row(report: Report, outcome: DeviceOutcome) -> DeviceRow:
    here = [
        record for record in report.benchmarks if (record.device or runtimes.devices.device.LOCAL) == outcome.device
    ]
    by_name = {record.name: record for record in here}
    gates = [gate for gate in report.gates if gate.device == outcome.device]
    failed = tuple(gate for gate in gates if not gate.passed)
    lost = outcome.failure is not None
    return DeviceRow(
        outcome,
        next((record.machine for record in here if record.machine), None),
        None if lost else by_name.get(outcome.summary.baseline or ""),
        None if lost else by_name.get(outcome.summary.deployed or ""),
        f"{len(gates) - len(failed)} of {len(gates)}" if gates else "",
        failed,
    )
