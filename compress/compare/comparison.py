"""A pair of measurements compared: the ratio of their medians, and what else is different."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ..report.quantities import millijoules, score, significant, size
from ..report.schema import BenchmarkRecord, NodeCounts
from .intervals import Ratio, ratio_of_medians

STEADY = ("governor", "power_mode", "clocks_locked", "max_clock_mhz", "cores", "affinity", "isa", "os", "python")
"""Facts of a device that are to be the same in measurements that are compared; clocks and temperatures never are."""


@dataclass(frozen=True)
class Change:
    """Something besides time that is different: in words, "size" from "341 kB" to "352 kB" ("+3.2 %")."""

    what: str
    before: str
    after: str
    by: str = ""

    @property
    def words(self) -> str:
        """In one line."""
        return f"{self.what} {self.before} → {self.after}" + (f" ({self.by})" if self.by else "")


@dataclass(frozen=True)
class Comparison:
    """Two measurements, of the same file or of one that takes its place."""

    before: BenchmarkRecord
    after: BenchmarkRecord

    @property
    def name(self) -> str:
        """What the measurement is called that is compared with the other."""
        return self.after.name

    @cached_property
    def ratio(self) -> Ratio:
        """How many times as long the file takes after as before."""
        before, after = self.before, self.after
        if not (before.samples_ms and after.samples_ms):
            return Ratio(median_ms(after) / median_ms(before))
        loaded = before.loaded_at, after.loaded_at
        return ratio_of_medians(before.samples_ms, after.samples_ms, paired=self.paired, loaded_at=loaded)

    @property
    def paired(self) -> bool:
        """Whether both were run in turn in one loop."""
        return self.before.loop is not None and self.before.loop == self.after.loop

    @property
    def obstacles(self) -> tuple[str, ...]:
        """Why their times say nothing of the files: another device, other numbers of threads."""
        sides = (self.before, self.after)
        devices = [record.machine for record in sides]
        told = [f"{devices[0]} against {devices[1]}"] if None not in devices and devices[0] != devices[1] else []
        threads = [record.threads for record in sides]
        if None not in threads and threads[0] != threads[1]:
            told.append(f"{threads[0]} against {threads[1]} threads")
        emulated = [record.emulated for record in sides]
        return (*told, *(["the processor is emulated"] if any(emulated) else []))

    @property
    def invalid(self) -> tuple[str, ...]:
        """Why one of the two measurements is not to be trusted."""
        return tuple(
            f"{side}: {'; '.join(record.notes) or 'a rule was broken'}"
            for side, record in (("before", self.before), ("after", self.after))
            if record.valid is False
        )

    @cached_property
    def changes(self) -> tuple[Change, ...]:
        """What else is different: what the file costs and scores, what ran it, and under what conditions."""
        before, after = self.before, self.after
        return (
            *_amount("size", before.size_bytes, after.size_bytes),
            *_amount("peak memory", before.peak_memory_bytes, after.peak_memory_bytes, least=0.01),
            *_energy(before, after),
            *_score(before, after),
            *_nodes(before, after),
            *_words("engine", before.runtime, after.runtime),
            *_words(f"version of {after.runtime}", before.runtime_version, after.runtime_version),
            *_of_mapping(before.versions, after.versions, "version of "),
            *_words("preset", before.preset, after.preset),
            *_of_mapping(_steady(before), _steady(after)),
            *(_words("SHA-256", _digest(before), _digest(after)) if before.name == after.name else ()),
        )


def median_ms(record: BenchmarkRecord) -> float:
    """The median latency: of the samples, or as it is told where they were left out."""
    if record.samples_ms:
        return float(np.median(record.samples_ms))
    assert record.latency_ms.p50 is not None, "require_samples looked"
    return record.latency_ms.p50


def _amount(what: str, before: int | None, after: int | None, least: float = 0.0) -> list[Change]:
    """A change of bytes by more than the share ``least``."""
    if before is None or after is None or abs(after - before) <= least * before:
        return []
    share = f"{after / before - 1:+.1%}".replace("%", " %") if before else ""
    return [Change(what, size(before), size(after), share)]


def _energy(before: BenchmarkRecord, after: BenchmarkRecord) -> list[Change]:
    """What a run takes, where it was read on the same rail."""
    first, last = before.energy, after.energy
    if first is None or last is None or first.rail != last.rail or first.per_run_mj == last.per_run_mj:
        return []
    if not (first.per_run_mj and last.per_run_mj):
        return []
    share = f"{last.per_run_mj / first.per_run_mj - 1:+.1%}".replace("%", " %")
    return [Change("energy of a run", millijoules(first.per_run_mj), millijoules(last.per_run_mj), share)]


def _score(before: BenchmarkRecord, after: BenchmarkRecord) -> list[Change]:
    changes = []
    later = {score.name: score for score in after.scores}
    for first in before.scores:
        last = later.get(first.name)
        if last is not None and last.value != first.value:
            unit = "points" if first.unit.strip() == "%" else first.unit.strip()
            by = f"{last.value - first.value:+.2f} {unit}".rstrip()
            changes.append(Change(first.name, score(first), score(last), by))
    return changes


def _nodes(before: BenchmarkRecord, after: BenchmarkRecord) -> list[Change]:
    """Nodes that left the integers, or came to them."""
    if before.nodes is None or after.nodes is None or before.nodes == after.nodes:
        return []
    more = after.nodes.float - before.nodes.float
    fell = after.nodes.integer < before.nodes.integer and more > 0
    told = f"{more} fell back to float" if fell else ""
    return [Change("nodes", _counts(before.nodes), _counts(after.nodes), told)]


def _counts(nodes: NodeCounts) -> str:
    return f"{nodes.integer} integer, {nodes.float} float, {nodes.other} other"


def _steady(record: BenchmarkRecord) -> dict[str, object]:
    return {name: record.conditions.get(name) for name in STEADY}


def _digest(record: BenchmarkRecord) -> str | None:
    return None if record.sha256 is None else record.sha256[:12]


def _words(what: str, before: object, after: object) -> list[Change]:
    if before == after or before is None or after is None:
        return []
    return [Change(what, _shown(before), _shown(after))]


def _of_mapping(before: Mapping[str, object], after: Mapping[str, object], prefix: str = "") -> list[Change]:
    names = [name for name in before if name in after]
    return [change for name in names for change in _words(f"{prefix}{name}", before[name], after[name])]


def _shown(value: object) -> str:
    if isinstance(value, (tuple, list)):
        return ", ".join(map(_shown, value)) or "none"
    return significant(value, 4) if isinstance(value, float) else str(value)
