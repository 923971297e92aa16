"""What brings a network whose channels were cut closer to what it was, without training: one repair a file."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from torch import nn

from ...core.parts import Kind, Part
from ...data import Split
from ...errors import InvalidInput
from ...stage import Context, Edit, Skip

Augmentations = Sequence[Literal["flip", "crop", "cutout"]]
Account = tuple[tuple[Edit, ...], tuple[Skip, ...]]
"""What was changed and what was left alone."""


@dataclass(frozen=True)
class Damage:
    """A network before and after its channels were cut.

    Args:
        original: before.
        pruned: after; repairs change its weights and statistics in place.
        edits: those that made ``pruned`` out of ``original``.
        samples: the calibration samples.
        augment: what the network was trained with.
    """

    original: nn.Module
    pruned: nn.Module
    edits: tuple[Edit, ...]
    samples: Split
    context: Context
    augment: Augmentations = ()


class Repair(Part):
    """A way to bring the outputs of a pruned network closer to those that it had, on calibration samples."""

    place: ClassVar[int]
    """Its place in the order of the repairs, whatever order they are listed in."""

    def apply(self, damage: Damage) -> Account:
        """What was repaired in ``damage.pruned``, in place, and what was not."""
        raise NotImplementedError


REPAIRS = Kind("repair", __name__, Repair, verb="apply")
AnyRepair = Annotated[Repair, REPAIRS]
"""A field's type: a repair's name, a mapping from it to its settings, or an object."""


def repair(
    original: nn.Module,
    pruned: nn.Module,
    edits: Iterable[Edit],
    context: Context,
    repairs: Iterable[Repair],
    *,
    augment: Augmentations = (),
) -> Account:
    """What ``repairs`` did to ``pruned``, in place and in their own order, and what they left alone.

    Args:
        edits: those that made ``pruned`` out of ``original``.
        augment: what the network was trained with.

    Raises:
        InvalidInput: there are no calibration samples.
    """
    ordered = sorted(repairs, key=lambda part: part.place)
    if not ordered:
        return (), ()
    if context.data is None:
        raise InvalidInput("prune: repairing the network needs calibration samples; give --data or leave it out")
    damage = Damage(original, pruned, tuple(edits), context.data.split("calibration"), context, augment)
    accounts = [part.apply(damage) for part in ordered]
    return tuple(e for edits, _ in accounts for e in edits), tuple(s for _, skipped in accounts for s in skipped)
