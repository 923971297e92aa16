"""The same share of every group."""

from __future__ import annotations

from typing import ClassVar

from ..surgery.choose import Selection
from . import Plan, Select


class Layer(Select):
    """Every layer loses the same share of its channels."""

    alike: ClassVar[bool] = True

    def plan(self, choice: Selection) -> Plan:
        """The share of what each group had before the first step."""
        return lambda share: [bounds.first * (1 - share) for bounds in choice.ranges]
