"""A score as reports and scans keep it: with its name, its unit and its direction."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, field_validator

if TYPE_CHECKING:
    from .task import Task


class ScoreRecord(BaseModel):
    """A measured score.

    Args:
        name: of the score ("top-1").
        value: in its unit; infinities are written as the string "Infinity".
        unit: with a space before it where one belongs there (" dB").
        higher_is_better: whether more of it is.
        drop_unit: of what a network loses of it, see :meth:`compress.tasks.task.Task.dropped`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")

    name: str
    value: float
    unit: str = ""
    higher_is_better: bool = True
    drop_unit: str = "points"

    @field_validator("value")
    @classmethod
    def _known(cls, value: float) -> float:
        if math.isnan(value):
            raise ValueError("expected a number")
        return value

    def __str__(self) -> str:
        return self.written(self.value)

    def written(self, value: float) -> str:
        """A value of this score with its unit.

        >>> ScoreRecord(name="top-1", value=95.1, unit=" %").written(12.5)
        '12.50 %'
        >>> ScoreRecord(name="error", value=1, higher_is_better=False).written(math.inf)
        'none'
        """
        if math.isfinite(value):
            return f"{value:.2f}{self.unit}"
        return "exact" if (value > 0) == self.higher_is_better else "none"

    def dropped(self, after: ScoreRecord) -> float:
        """How much worse ``after`` is; less than 0 where it is better."""
        return 0.0 if self.value == after.value else (self.value - after.value) * (1 if self.higher_is_better else -1)


def records(task: Task, scores: Mapping[str, float]) -> tuple[ScoreRecord, ...]:
    """The records of scores by name, the task's first one first; the unit is the first one's.

    A score that is NaN, as of outputs that are, counts as the worst that there is.
    """
    made = []
    for name, value in scores.items():
        higher = task.scores[name]().higher_is_better is not False
        unit, drop_unit = (task.unit, task.drop_unit) if name == task.score else ("", "")
        known = (-math.inf if higher else math.inf) if math.isnan(value) else value
        made.append(ScoreRecord(name=name, value=known, unit=unit, higher_is_better=higher, drop_unit=drop_unit))
    return tuple(made)
