"""What is compared: for each row of the table the recipes of which validation chooses one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Recipe:
    """How a student is trained.

    Args:
        losses: between student and teacher, as they are typed; none: it learns from labels alone.
        teacher_weight: of all of them, beside that of the labels.
    """

    losses: tuple[str, ...] = ()
    teacher_weight: float = 0.9
    learning_rate: float = 0.1

    def at(self, learning_rate: float) -> Recipe:
        """The same with this learning rate."""
        return replace(self, learning_rate=learning_rate)

    @classmethod
    def joined(cls, recipes: Sequence[Recipe]) -> Recipe:
        """All losses at once, with the teacher's weight of the first."""
        return replace(recipes[0], losses=tuple(loss for each in recipes for loss in each.losses))

    def __str__(self) -> str:
        taught = f"{' '.join(self.losses)} teacher {self.teacher_weight:g}" if self.losses else "labels"
        return f"{taught} lr {self.learning_rate:g}"


def _weighted(loss: str, *weights: float, teacher_weight: float = 0.5) -> tuple[Recipe, ...]:
    return tuple(Recipe((f"{loss}:weight={weight:g}",), teacher_weight) for weight in weights)


TARGETS = "logits"
PLAIN = tuple(Recipe(learning_rate=rate) for rate in (0.1, 0.2))
RECIPES: dict[str, tuple[Recipe, ...]] = {
    TARGETS: (Recipe(("logits",), 0.5), Recipe(("logits",), 0.9)),
    "dkd": (Recipe(("dkd:beta=2",), 0.9), Recipe(("dkd:beta=8",), 0.5)),
    "hint": _weighted("hint", 0.3, 1),
    "attention": _weighted("attention", 30),
    "fsp": _weighted("fsp", 0.1),
    "sp": _weighted("sp", 3000),
    "rkd": _weighted("rkd", 1),
    "crd": _weighted("crd", 0.8),
    "mgd": _weighted("mgd:layers=last", 1),
}
"""By the name of the row."""

JOINED = (("logits", "hint"), ("dkd", "hint"), ("logits", "hint", "attention"))
"""Rows whose chosen losses are joined; validation chooses one of these."""
