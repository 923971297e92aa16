"""What may change at most between two measurements, and whether it does."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from ..report.quantities import percent, points
from .comparison import Comparison

Outcome = Literal["holds", "broken", "undecided"]


@dataclass(frozen=True)
class Limits:
    """The most that is allowed; None allows anything.

    Args:
        slowdown: of the median latency, in percent.
        growth: of the file, in percent.
        memory_growth: of the peak memory, in percent.
        loss: of the score, in its points.
    """

    slowdown: float | None = None
    growth: float | None = None
    memory_growth: float | None = None
    loss: float | None = None


@dataclass(frozen=True)
class Check:
    """One limit held against one comparison.

    ``undecided`` is a time over the limit that may be chance, or that is of another device, or of a measurement that is
    not to be trusted where that is asked for.
    """

    name: str
    limit: str
    found: str
    outcome: Outcome
    reason: str = ""

    @property
    def words(self) -> str:
        """In one line."""
        return f"{self.name} {self.found}, {self.limit} allowed" + (f" ({self.reason})" if self.reason else "")


def checks(comparison: Comparison, limits: Limits, *, strict: bool = False) -> tuple[Check, ...]:
    """Every limit that is set, against a comparison. What was not measured breaks its limit."""
    return tuple(_checks(comparison, limits, strict))


def _checks(comparison: Comparison, limits: Limits, strict: bool) -> Iterator[Check]:
    before, after = comparison.before, comparison.after
    if limits.slowdown is not None:
        yield _slowdown(comparison, limits.slowdown, strict)
    if limits.growth is not None:
        yield _growth("file growth", before.size_bytes, after.size_bytes, limits.growth)
    if limits.memory_growth is not None:
        yield _growth("memory growth", before.peak_memory_bytes, after.peak_memory_bytes, limits.memory_growth)
    if limits.loss is not None:
        limit = points(limits.loss)
        if before.score is None or after.score is None or before.score.name != after.score.name:
            yield Check("accuracy loss", limit, "not measured", "broken", "measure with --data")
        else:
            lost = round(before.score.dropped(after.score), 6)
            yield Check("accuracy loss", limit, f"{lost:.2f} points", "broken" if lost > limits.loss else "holds")


def _slowdown(comparison: Comparison, limit: float, strict: bool) -> Check:
    """Broken where the file is slower by more than the limit, and no slower at all is outside the interval."""
    ratio = comparison.ratio
    slower = 100 * (ratio.value - 1)
    outcome: Outcome = "holds"
    reason = ""
    if comparison.obstacles:
        outcome, reason = "undecided", "; ".join(comparison.obstacles)
    elif strict and comparison.invalid:
        outcome, reason = "undecided", "a measurement is not to be trusted"
    elif slower > limit:
        outcome = "broken"
        if ratio.low is None:
            reason = "too few samples for an interval"
        elif ratio.low <= 1.0:
            outcome, reason = "undecided", "it may be chance: measure longer"
    return Check("slowdown", percent(limit, _decimals(limit)), percent(slower, 1), outcome, reason)


def _growth(name: str, before: int | None, after: int | None, limit: float) -> Check:
    allowed = percent(limit, _decimals(limit))
    if not before or after is None:
        return Check(name, allowed, "not measured", "broken")
    grown = round(100 * (after / before - 1), 9)
    return Check(name, allowed, percent(grown, 1), "broken" if grown > limit else "holds")


def _decimals(value: float) -> int:
    return 0 if value == int(value) else 2


def count_of(outcome: Outcome, found: Sequence[Sequence[Check]]) -> int:
    """How many checks of all comparisons came out so."""
    return sum(check.outcome == outcome for each in found for check in each)
