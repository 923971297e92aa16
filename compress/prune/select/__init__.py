"""How the groups of channels of a network share what goes: one selection a file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar

from ...core.parts import Kind, Part
from ...stage import Context
from ..channels.groups import Channels
from ..criteria import Criterion
from ..surgery.choose import Plan, Selection
from ..surgery.goal import Curve, Key

__all__ = ["SELECTIONS", "AnySelect", "Plan", "Select"]


class Select(Part):
    """How groups of channels share what goes."""

    alike: ClassVar[bool] = False
    """Every group loses the same share: a ratio is out of reach only where it is in every group."""

    comparable: ClassVar[bool] = False
    """Scores are compared between groups, so that what is left of importance is their sum over the network."""

    of_units: ClassVar[bool] = True
    """The share of :data:`Plan` is of the units of all groups, so that a ratio needs no search."""

    @property
    def needs_data(self) -> bool:
        """Whether it measures on data."""
        return False

    def curves(
        self, channels: Channels, criterion: Criterion, exclude: tuple[str, ...], context: Context
    ) -> Mapping[Key, Curve]:
        """What it measures of each group before the first step, by what the group is cut on.

        Raises:
            InvalidInput: the data that it measures on is not there.
        """
        return {}

    def plan(self, choice: Selection) -> Plan:
        """How much of each group stays, by the share of all that goes."""
        raise NotImplementedError


SELECTIONS = Kind("selection", __name__, Select, verb="plan")
AnySelect = Annotated[Select, SELECTIONS]
"""A field's type: a selection's name, a mapping from it to its settings, or an object."""
