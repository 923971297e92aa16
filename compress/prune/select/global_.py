"""The lowest scores of the whole network."""

from __future__ import annotations

from typing import ClassVar

import torch

from ..surgery.choose import Selection
from . import Plan, Select


class Global(Select):
    """The channels with the lowest scores of the whole network go, wherever they are."""

    comparable: ClassVar[bool] = True

    def plan(self, choice: Selection) -> Plan:
        """The share of the units that all groups had before the first step, the lowest scores first."""
        owner = torch.cat([torch.full((len(score),), index) for index, score in enumerate(choice.scores)])
        order = owner[torch.argsort(torch.cat(list(choice.scores)), stable=True)].tolist()
        first = sum(bounds.first for bounds in choice.ranges)

        def wanted(share: float) -> list[float]:
            widths = [len(group.units) for group in choice.groups]
            to_remove = round(share * first) - (first - len(order))
            for index in order:
                if to_remove > 0 and widths[index] > choice.ranges[index].least:
                    widths[index] -= 1
                    to_remove -= 1
            return [float(keep) for keep in widths]

        return wanted
