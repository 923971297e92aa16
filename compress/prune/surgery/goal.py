"""What pruning is to reach: one goal, and the network before the first step that it is relative to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np
from torch import nn

from ..channels.groups import Group
from ..channels.labels import Site
from .size_model import SizeModel, Widths

GoalName = Literal["ratio", "macs", "parameters", "size", "latency"]
WORDS: Mapping[GoalName, str] = {
    "ratio": "fewer channels",
    "macs": "fewer multiply-adds",
    "parameters": "fewer parameters",
    "size": "fewer bytes of weights",
    "latency": "faster",
}
Key = frozenset[Site]
"""What makes a group the same one before and after pruning: the dimensions of the tensors that it is cut on."""


@dataclass(frozen=True)
class PruneGoal:
    """``value`` is a share of the channels for ``ratio``, and what to divide by for all others."""

    name: GoalName
    value: float

    def after(self, share: float) -> PruneGoal:
        """The goal of a step: ``share`` of the way, so that equal shares keep equal parts of what is there.

        >>> PruneGoal("macs", 4.0).after(0.5), PruneGoal("ratio", 0.75).after(0.5)
        (PruneGoal(name='macs', value=2.0), PruneGoal(name='ratio', value=0.5))
        """
        if self.name == "ratio":
            return PruneGoal("ratio", 1 - (1 - self.value) ** share)
        return PruneGoal(self.name, self.value**share)

    @property
    def factor(self) -> float:
        """What the goal divides its figure by: 4 for ``macs=4``, 2 for ``ratio=0.5``."""
        return 1 / (1 - self.value) if self.name == "ratio" else self.value

    def __str__(self) -> str:
        return f"{self.name}={self.value:g}"


@dataclass(frozen=True)
class Curve:
    """Points of accuracy lost by the share that was removed; ``resolution`` is what one sample is worth, in points."""

    removed: tuple[float, ...]
    losses: tuple[float, ...]
    resolution: float

    @cached_property
    def rising(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Shares and losses from (0, 0), each loss above the last: no share costs less than a smaller one, and where
        the measured losses are equal the larger share costs more, by up to one sample in all.
        """
        shares = (0.0, *self.removed)
        highest = np.maximum.accumulate([0.0, *self.losses])
        return shares, tuple(float(loss + self.resolution * r) for loss, r in zip(highest, shares, strict=True))

    @property
    def most(self) -> float:
        """The loss at the largest share."""
        return self.rising[1][-1]

    def loss(self, share: float) -> float:
        """What it costs to remove ``share``, interpolated; beyond the largest that was scanned it rises on as before.

        >>> Curve((0.5,), (2.0,), 0.0).loss(0.25), Curve((0.5,), (2.0,), 0.0).loss(0.75)
        (1.0, 3.0)
        """
        shares, losses = self.rising
        if share <= shares[-1]:
            return float(np.interp(share, shares, losses))
        slope = (losses[-1] - losses[-2]) / (shares[-1] - shares[-2])
        return losses[-1] + slope * (share - shares[-1])

    def share(self, loss: float) -> float:
        """The share that costs ``loss`` points, interpolated; at most the largest that was scanned.

        >>> Curve((0.5, 1.0), (1.0, 9.0), 0.0).share(5.0)
        0.75
        """
        shares, losses = self.rising
        return float(np.interp(loss, losses, shares))


@dataclass(frozen=True)
class Baseline:
    """The network before the first step.

    Args:
        units: of each group.
        counted: what the goal divides: channels (ratio), multiply-adds, parameters, bytes, or the sum of the
            latencies of the layers in ms.
        curves: how sensitive each group is, where the scope is "sensitivity".
    """

    model: nn.Module
    units: Mapping[Key, int]
    counted: float
    curves: Mapping[Key, Curve] = field(default_factory=dict)


def key_of(group: Group) -> Key:
    """What stays the same of a group while it is pruned."""
    return frozenset(group.sites)


def count(size_model: SizeModel, name: GoalName, widths: Widths) -> int:
    """What the goal called ``name`` divides (not latency, which is measured)."""
    counted = {
        "ratio": size_model.channel_count,
        "macs": size_model.macs,
        "parameters": size_model.parameters,
        "size": size_model.size_bytes,
    }
    return counted[name](widths)


def units_at_first(groups: Sequence[Group], baseline: Baseline) -> list[int]:
    """Units that each group had before the first step."""
    return [baseline.units.get(key_of(group), len(group.units)) for group in groups]
