"""What a quantized network got back in precision so that it loses no more than was allowed."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class RestoredGroup(BaseModel):
    """Tensors that were given more bits together.

    Args:
        tensors: their names: a parameter's own, or of a value as :mod:`compress.integers.keys` tells.
        layers: that compute in float because of it.
        precision: that the tensors have now: "float", "int16" of values, "int8" of weights that had fewer bits.
        lost: what the network loses with this group and those before it restored.
        gave_back: how much less that is than without this group.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")

    tensors: tuple[str, ...]
    layers: tuple[str, ...] = ()
    precision: str
    lost: float
    gave_back: float

    @property
    def named(self) -> str:
        """The first tensors, and how many more there are."""
        more = len(self.tensors) - 3
        return ", ".join(self.tensors[:3]) + (f" and {more} more" if more > 0 else "")


class Restoration(BaseModel):
    """How a network was brought within what it may lose of a score.

    Args:
        score: its name.
        unit: of what is lost, see :attr:`compress.tasks.task.Task.drop_unit`.
        split: the samples that it was told on.
        allowed: what may be lost, at most.
        before: what was lost with everything in the integers of the scheme.
        after: what is lost now.
        groups: what was restored, in the order in which it was; what hurt most comes first.
        tensors: how many there were to restore.
        trials: networks that were scored.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")

    score: str
    unit: str
    split: str
    allowed: float
    before: float
    after: float
    groups: tuple[RestoredGroup, ...] = ()
    tensors: int
    trials: int

    @property
    def reached(self) -> bool:
        """Whether no more is lost than is allowed; without the noise of differences of floats."""
        return within(self.after, self.allowed)

    def told(self) -> str:
        """In words, what is lost now and before, and how much was restored for it."""
        count = sum(len(group.tensors) for group in self.groups)
        restored = f"{count} of {self.tensors} tensors restored" if count else "nothing restored"
        words = f"loses {amount(self.after)} {self.unit} of {self.score} on the {self.split} split"
        words += f", at most {amount(self.allowed)} allowed" if self.reached else f", more than {amount(self.allowed)}"
        return f"{words}; {amount(self.before)} all in integers; {restored}"

    def failure(self) -> str:
        """In one line, that the network loses more than is allowed, and the best there is."""
        return (
            f"the best that keeps something in integers {self.told()}; allow more (--max-drop), train (--epochs), or "
            "take a scheme of more bits"
        )


def amount(value: float) -> str:
    """What is lost, with as many digits as tell small amounts apart.

    >>> amount(12.3456), amount(0.004321), amount(0.0)
    ('12.35', '0.0043', '0')
    """
    return "0" if value == 0 else f"{value:.2f}" if abs(value) >= 0.1 else f"{value:.2g}"


def within(lost: float, allowed: float) -> bool:
    """Whether ``lost`` is at most what is allowed; scores are often multiples of one sample, their differences not."""
    return round(lost, 6) <= allowed
