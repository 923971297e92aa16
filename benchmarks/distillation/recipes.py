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

    @classmethod
    def joined(cls, recipes: Sequence[Recipe]) -> Recipe:
        """All losses at once, with the teacher's weight of the first."""
        return replace(recipes[0], losses=tuple(loss for each in recipes for loss in each.losses))

    def __str__(self) -> str:
        return f"{' '.join(self.losses)} teacher {self.teacher_weight:g}" if self.losses else "labels"


def _beside_labels(loss: str) -> tuple[Recipe, ...]:
    return (Recipe((loss,), 0.5),)


TARGETS = "logits"
PLAIN = Recipe()
RECIPES: dict[str, tuple[Recipe, ...]] = {
    TARGETS: (Recipe(("logits",), 0.5), Recipe(("logits",), 0.9)),
    "dkd": (Recipe(("dkd:beta=2:weight=0.5",), 0.9), Recipe(("dkd:beta=8:weight=0.25",), 0.9)),
    "hint": _beside_labels("hint:weight=0.3"),
    "attention": _beside_labels("attention:weight=5"),
    "fsp": _beside_labels("fsp:weight=0.1"),
    "sp": _beside_labels("sp:weight=1500"),
    "rkd": _beside_labels("rkd:weight=0.3"),
    "crd": _beside_labels("crd:weight=0.1"),
    "mgd": _beside_labels("mgd:layers=last:weight=0.5"),
}
"""By the name of the row. Losses of features weigh so much that they begin at about the loss of the labels."""

JOINED = (("logits", "hint"), ("dkd", "hint"), ("logits", "hint", "attention"))
"""Rows whose chosen losses are joined; validation chooses one of these."""
