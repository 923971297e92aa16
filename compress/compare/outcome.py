"""All that a comparison found: pairs, limits, and what cannot be compared, for tables and files."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ..errors import InvalidInput
from ..report.schema import BenchmarkRecord
from ..siblings import runtimes
from .comparison import Comparison, median_ms
from .limits import Check, Limits, checks
from .pairing import Matching
from .read import names_of


@dataclass(frozen=True)
class Outcome:
    """Comparisons in their order with the checks of each, and the measurements that have no counterpart.

    Args:
        before: what the first side is called: a file, or a label of a log.
        after: what the second side is called.
        notes: what is to be said of the whole.
    """

    before: str
    after: str
    comparisons: tuple[Comparison, ...]
    checks: tuple[tuple[Check, ...], ...]
    only_before: tuple[BenchmarkRecord, ...]
    only_after: tuple[BenchmarkRecord, ...]
    notes: tuple[str, ...] = ()

    @property
    def mean_ratio(self) -> float | None:
        """The geometric mean of the ratios of medians; None where a pair cannot be compared, or there is but one."""
        if len(self.comparisons) < 2 or any(each.obstacles for each in self.comparisons):
            return None
        return math.exp(sum(math.log(each.ratio.value) for each in self.comparisons) / len(self.comparisons))

    @property
    def broken(self) -> tuple[tuple[Comparison, Check], ...]:
        """The checks that do not hold, with what they are of."""
        return self._with("broken")

    @property
    def undecided(self) -> tuple[tuple[Comparison, Check], ...]:
        """The checks that cannot be decided."""
        return self._with("undecided")

    @property
    def invalid(self) -> tuple[tuple[Comparison, str], ...]:
        """Why measurements are not to be trusted."""
        return tuple((each, reason) for each in self.comparisons for reason in each.invalid)

    def _with(self, outcome: str) -> tuple[tuple[Comparison, Check], ...]:
        pairs = zip(self.comparisons, self.checks, strict=True)
        return tuple((each, check) for each, found in pairs for check in found if check.outcome == outcome)

    def unmatched(self) -> tuple[str, ...]:
        """A line for each side that has measurements without a counterpart."""
        sides = ((self.before, self.only_before), (self.after, self.only_after))
        return tuple(f"only in {side}: {names_of(records)}" for side, records in sides if records)

    def to_json(self) -> dict[str, Any]:
        """A mapping that ``json`` writes."""
        rows = [_row(each, found) for each, found in zip(self.comparisons, self.checks, strict=True)]
        return {
            "before": self.before,
            "after": self.after,
            "comparisons": rows,
            "mean_ratio": self.mean_ratio,
            "only_before": [record.name for record in self.only_before],
            "only_after": [record.name for record in self.only_after],
            "notes": list(self.notes),
        }


def compared(
    matching: Matching,
    sides: tuple[str, str],
    limits: Limits,
    *,
    strict: bool = False,
    across: bool = False,
    notes: Sequence[str] = (),
) -> Outcome:
    """Every pair of ``matching``, against the limits.

    Args:
        strict: times of measurements that are not to be trusted decide nothing.
        across: pairs of different devices or numbers of threads are told all the same, and marked.

    Raises:
        InvalidInput: there is no pair, or one whose times cannot be compared.
    """
    if not matching.pairs:
        told = f"{sides[0]} has {names_of(matching.only_before)}; {sides[1]} has {names_of(matching.only_after)}"
        raise InvalidInput(f"compare: no measurement of one is in the other: {told}")
    comparisons = tuple(Comparison(before, after) for before, after in matching.pairs)
    for each in comparisons if not across else ():
        if each.obstacles:
            raise InvalidInput(
                f"{each.name}: times cannot be compared: {'; '.join(each.obstacles)}; measure both alike, or add "
                "--across to see them side by side"
            )
    found = tuple(checks(each, limits, strict=strict) for each in comparisons)
    return Outcome(*sides, comparisons, found, matching.only_before, matching.only_after, tuple(notes))


def title_of(comparison: Comparison) -> str:
    """What a pair is called: the name, both where they differ, with the engine and the threads.

    A pair from two engines has both.
    """
    before, after = comparison.before, comparison.after
    return before.name if before.name == after.name else f"{before.name} → {after.name}"


def setting_of(comparison: Comparison) -> str:
    """In what a pair ran: "ONNX Runtime, 1 thread"."""
    record = comparison.after
    threads = "" if record.threads is None else f", {record.threads} thread{'s' if record.threads != 1 else ''}"
    return f"{runtimes.facts.title_of(record.runtime)}{threads}"


def verdict(comparison: Comparison) -> str:
    """What the time did, in a word or two."""
    ratio = comparison.ratio
    if comparison.obstacles:
        return "not comparable"
    if ratio.low is None:
        return "no interval"
    if not ratio.differs:
        return "no difference"
    return "slower" if ratio.value > 1 else "faster"


def change_of(value: float) -> str:
    """A ratio as a change in percent, with its sign.

    >>> change_of(1.034), change_of(0.5), change_of(12.0)
    ('+3.4 %', '-50.0 %', '+1100 %')
    """
    change = 100 * (value - 1)
    return f"{change:+.{1 if abs(change) < 999.5 else 0}f} %"


def interval_of(comparison: Comparison) -> str:
    """The 95 % interval of the change, in percent; a dash where there is none."""
    ratio = comparison.ratio
    if ratio.low is None or ratio.high is None:
        return "–"
    return f"{change_of(ratio.low)[:-2]} to {change_of(ratio.high)}"


def remarks(comparison: Comparison, found: Sequence[Check]) -> tuple[str, ...]:
    """What is to be said of a pair besides its time, one remark each."""
    return (
        *(f"{'broken' if check.outcome == 'broken' else 'undecided'}: {check.words}" for check in found
          if check.outcome != "holds"),
        *(f"not comparable: {reason}" for reason in comparison.obstacles),
        *(f"invalid {reason}" for reason in comparison.invalid),
        *(change.words for change in comparison.changes),
    )  # fmt: skip


def _row(comparison: Comparison, found: Sequence[Check]) -> dict[str, Any]:
    ratio = comparison.ratio
    sides = {
        side: {
            "name": record.name,
            "runtime": record.runtime,
            "threads": record.threads,
            "began": record.began,
            "sha256": record.sha256,
            "p50_ms": median_ms(record),
            "runs": len(record.samples_ms) or record.runs,
            "size_bytes": record.size_bytes,
            "peak_memory_bytes": record.peak_memory_bytes,
            "scores": [score.model_dump(mode="json") for score in record.scores],
        }
        for side, record in (("before", comparison.before), ("after", comparison.after))
    }
    return {
        **sides,
        "ratio": {"value": ratio.value, "low": ratio.low, "high": ratio.high, "paired": ratio.paired},
        "verdict": verdict(comparison),
        "changes": [asdict(change) for change in comparison.changes],
        "obstacles": list(comparison.obstacles),
        "invalid": list(comparison.invalid),
        "checks": [asdict(check) for check in found],
    }


def outcome_line(outcome: Outcome) -> str:
    """The whole in one line: how many files, how much in the mean, and what is broken."""
    count = len(outcome.comparisons)
    parts = [f"{count} file{'s' if count != 1 else ''} compared"]
    if outcome.mean_ratio is not None:
        parts.append(f"median times {change_of(outcome.mean_ratio)} in the geometric mean")
    total = sum(map(len, outcome.checks))
    if total:
        parts.append(f"{len(outcome.broken)} of {total} limits broken")
    if outcome.undecided:
        parts.append(f"{len(outcome.undecided)} undecided")
    return ", ".join(parts)
