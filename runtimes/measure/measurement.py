"""What was measured of a file: raw latencies, with the conditions that they were taken in."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from ..sensors.conditions import Conditions
from ..sensors.power import Energy
from ..sensors.watch import Watched
from ..stored import stored_fields
from .percentiles import P99_RUNS, early_stopping, median_interval
from .presets import FORMER_NAMES
from .validity import BrokenRule, broken_rules, drift_of, spread_of


@dataclass(frozen=True)
class Measurement:
    """The latency of one file: raw samples and the conditions they were taken in. Every figure is computed from them.

    Args:
        samples_ms: of every run, in order, none left out.
        duration_s: of the loop that all the files were run in, warm-up not included.
        interleaved: the number of files in that loop.
        conditions: before the loop.
        conditions_after: after it.
        sentinel_ms: of a fixed piece of work, run at intervals in the same loop.
        size_bytes: on disk, with external weights.
        peak_memory_bytes: of a process that does nothing but load the file and run it; None where it was not measured.
        baseline_memory_bytes: of that process before it loaded the file.
        load_ms: from the file to a runtime, the engine being imported already.
        loop: a name that no other loop has. Files with the same one were run in turn: their samples with the same index
            are of the same round.
        began: when that loop began, as ISO 8601 in UTC.
        sha256: of the file, and of what belongs to it.
        least_runs: that the preset asks for.
        percentiles: that the preset asks the runs to bear.
        pinned: the cores that the process was pinned to; None where it was free.
        watched: what happened around the loop.
        energy: of the runs of a loop of its own; None where it was not asked for.
        disturbances: what else speaks against this measurement, in words: a machine that did not become cool in time, a
            connection that was lost.
        loadings: how often the file was loaded in the loop, the first time included.
        loaded_at: the numbers of samples after which it was loaded anew.
    """

    file: str
    engine: str
    engine_version: str
    threads: int
    preset: str
    samples_ms: tuple[float, ...]
    warmup_runs: int
    duration_s: float
    interleaved: int
    conditions: Conditions
    conditions_after: Conditions
    sentinel_ms: tuple[float, ...]
    size_bytes: int
    peak_memory_bytes: int | None
    baseline_memory_bytes: int | None
    load_ms: float
    loop: str | None = None
    began: str | None = None
    sha256: str | None = None
    least_runs: int = 0
    percentiles: tuple[int, ...] = ()
    pinned: tuple[int, ...] | None = None
    watched: Watched = field(default_factory=Watched)
    disturbances: tuple[str, ...] = ()
    energy: Energy | None = None
    loadings: int = 1
    loaded_at: tuple[int, ...] = ()

    @property
    def p50_ms(self) -> float:
        """Return the median."""
        return self._percentile(50)

    @property
    def p90_ms(self) -> float:
        """Return the 90th percentile."""
        return self._percentile(90)

    @property
    def p95_ms(self) -> float:
        """Return the 95th percentile."""
        return self._percentile(95)

    @property
    def p99_ms(self) -> float | None:
        """Return the 99th percentile, or None below 662 runs, which do not bear it."""
        return self._percentile(99) if len(self.samples_ms) >= P99_RUNS else None

    @property
    def min_ms(self) -> float:
        """Return the fastest run."""
        return min(self.samples_ms)

    @property
    def mean_ms(self) -> float:
        """Return the mean."""
        return float(np.mean(self.samples_ms))

    @property
    def std_ms(self) -> float:
        """Return the standard deviation of the sample (n - 1), 0 for a single run."""
        return float(np.std(self.samples_ms, ddof=1)) if len(self.samples_ms) > 1 else 0.0

    @property
    def p50_interval_ms(self) -> tuple[float, float] | None:
        """Return between which runs the median lies at 95 %, or None where they are too few; see `median_interval`."""
        return median_interval(self.samples_ms)

    @property
    def p90_bound_ms(self) -> float | None:
        """Return the 90th percentile by MLPerf's early stopping, or None where the runs do not bear it."""
        return early_stopping(self.samples_ms, 90)

    @property
    def p99_bound_ms(self) -> float | None:
        """Return the 99th percentile by MLPerf's early stopping, or None where the runs do not bear it."""
        return early_stopping(self.samples_ms, 99)

    @property
    def spread(self) -> float:
        """Return (p90 - p10) / p50."""
        return spread_of(self.samples_ms)

    @property
    def drift(self) -> float:
        """Return by what share the median of the sentinel moved from the first half of the loop to the second."""
        return drift_of(self.sentinel_ms)

    @property
    def broken_rules(self) -> tuple[BrokenRule, ...]:
        """Return why this measurement is not to be trusted; empty where it is valid."""
        return broken_rules(self)

    @property
    def valid(self) -> bool:
        """Return whether no rule speaks against this measurement."""
        return not self.broken_rules

    def to_json(self) -> dict[str, object]:
        """Return a mapping that ``json`` writes, with the computed figures under ``latency_ms`` and ``validity``."""
        names = ("p50", "p90", "p95", "p99", "min", "mean", "std", "p50_interval", "p90_bound", "p99_bound")
        latency = {name: getattr(self, f"{name}_ms") for name in names}
        broken = self.broken_rules
        validity = {
            "valid": not broken,
            "broken_rules": [asdict(each) for each in broken],
            "spread": self.spread,
            "drift": self.drift,
        }
        facts = asdict(self) | {"runs": len(self.samples_ms), "latency_ms": latency, "validity": validity}
        if self.energy is not None:
            facts["energy"] |= {
                "per_run_mj": self.energy.per_run_mj,
                "per_run_above_idle_mj": self.energy.per_run_above_idle_mj,
            }
        plain: dict[str, object] = json.loads(json.dumps(facts))
        return plain

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Measurement:
        """Return the measurement that `to_json` gave, or that of an older version; figures are computed again.

        Raises:
            InvalidInputs: a field is missing that has always been there.
        """
        facts = stored_fields(cls, stored, "measurement")
        for name in ("conditions", "conditions_after"):
            facts[name] = Conditions.from_json(facts[name])
        if "watched" in facts:
            facts["watched"] = Watched.from_json(facts["watched"])
        if facts.get("energy") is not None:
            names = Energy.__dataclass_fields__
            facts["energy"] = Energy(**{name: value for name, value in facts["energy"].items() if name in names})
        facts["preset"] = FORMER_NAMES.get(facts["preset"], facts["preset"])
        return cls(**facts)

    def _percentile(self, q: float) -> float:
        return float(np.percentile(self.samples_ms, q))


def broken_off(
    begun: Sequence[Measurement],
    rows_ms: Sequence[Sequence[float]],
    sentinel_ms: Sequence[float],
    duration_s: float,
    reason: str,
) -> tuple[Measurement, ...]:
    """Return measurements of a loop that was broken off, with a disturbance that says so.

    Args:
        begun: the measurements as they were before the first sample.
        rows_ms: the samples that were taken of each until then; none is returned where one of them has no sample.
        reason: in words, why the loop was broken off.
    """
    rounds = min(map(len, rows_ms), default=0)
    if not rounds:
        return ()
    return tuple(
        replace(
            each,
            samples_ms=tuple(row[:rounds]),
            sentinel_ms=tuple(sentinel_ms),
            duration_s=duration_s,
            disturbances=(*each.disturbances, f"it was broken off: {reason}"),
        )
        for each, row in zip(begun, rows_ms, strict=True)
    )
