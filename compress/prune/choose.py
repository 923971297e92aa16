"""Which units go: by a target, within rounding and limits."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import Literal

import torch
from torch import Tensor

from ..errors import InvalidInput
from ..stage import Skip
from .channels import Channels, Group, Unit


@dataclass(frozen=True)
class Selection:
    """What to choose from, and by which rules; the names are those of :class:`compress.prune.Prune`."""

    found: Channels
    groups: Sequence[Group]
    scores: Sequence[Tensor]
    ratio: float | None
    macs: float | None
    scope: Literal["layer", "global"]
    round_to: int
    minimum: int
    exclusions: int

    def choose(self) -> tuple[list[Unit], list[Skip]]:
        """The units to remove, and the layers that keep all of theirs.

        Raises:
            InvalidInput: the target is out of reach, or nothing goes.
        """
        found, groups, scores = self.found, self.groups, self.scores
        orders = [torch.argsort(score, stable=True).tolist() for score in scores]

        def lowest(kept: Sequence[int]) -> list[Unit]:
            return [
                group.units[i]
                for group, order, keep in zip(groups, orders, kept, strict=True)
                for i in sorted(order[: len(order) - keep])
            ]

        def macs(kept: Sequence[int]) -> int:
            return found.macs([unit.label for unit in lowest(kept)])

        if self.ratio is not None:
            kept = self._rounded(self._wanted(self.ratio))
        else:
            assert self.macs is not None
            kept = self._reach(found.macs() / self.macs, macs)
        removed = lowest(kept)
        if not removed:
            raise InvalidInput(
                f"prune: nothing is removed: with round_to={self.round_to} and minimum={self.minimum} every width "
                "rounds to what it was; prune more or set round_to lower"
            )
        untouched = [
            Skip(layer, f"{group.width} channels stay: round_to={self.round_to}, minimum={self.minimum}")
            for group, keep in zip(groups, kept, strict=True)
            if keep == len(group.units)
            for layer in group.layers
        ]
        return removed, untouched

    def _wanted(self, ratio: float) -> list[float]:
        """Units to keep of each group, before rounding."""
        groups, scores = self.groups, self.scores
        if self.scope == "layer":
            return [len(group.units) * (1 - ratio) for group in groups]
        owner = torch.cat([torch.full((len(score),), index) for index, score in enumerate(scores)])
        order = owner[torch.argsort(torch.cat(list(scores)), stable=True)].tolist()
        kept = [len(group.units) for group in groups]
        to_remove = round(ratio * len(order))
        for index in order:
            if to_remove and kept[index] > self._floor(groups[index]):
                kept[index] -= 1
                to_remove -= 1
        return [float(keep) for keep in kept]

    def _step(self, group: Group) -> int:
        """Units by which the width of a group changes."""
        if group.width < self.round_to:
            return 1
        return math.lcm(self.round_to, group.per_unit) // group.per_unit

    def _floor(self, group: Group) -> int:
        step = self._step(group)
        return min(len(group.units), step * max(1, math.ceil(self.minimum / (group.per_unit * step))))

    def _rounded(self, wanted: Sequence[float]) -> list[int]:
        kept = []
        for group, want in zip(self.groups, wanted, strict=True):
            step = self._step(group)
            nearest = step * math.floor(want / step + 0.5)
            kept.append(min(len(group.units), max(self._floor(group), nearest)))
        return kept

    def _reach(self, budget: float, macs: Callable[[Sequence[int]], int]) -> list[int]:
        """The widths of the lowest ratio within the budget; then those rounded down the most go up where it allows."""
        groups = self.groups
        low, high = 0.0, 1.0
        floors = [self._floor(group) for group in groups]
        if macs(floors) > budget:
            reachable = macs([len(group.units) for group in groups]) / macs(floors)
            raise InvalidInput(
                f"prune: macs={self.macs:g} is out of reach: at most {reachable:.2f} times fewer with "
                f"round_to={self.round_to}, minimum={self.minimum} and {self.exclusions} exclusions"
            )
        for _ in range(24):
            middle = (low + high) / 2
            if macs(self._rounded(self._wanted(middle))) > budget:
                low = middle
            else:
                high = middle
        wanted = self._wanted(high)
        kept = self._rounded(wanted)
        for index in sorted(range(len(groups)), key=lambda i: kept[i] - wanted[i]):
            if kept[index] < wanted[index]:
                wider = [*kept]
                wider[index] = min(len(groups[index].units), kept[index] + self._step(groups[index]))
                if macs(wider) <= budget:
                    kept = wider
        return kept


def eligible(found: Channels, exclude: Sequence[str], needs_scales: bool) -> tuple[list[Group], list[Skip]]:
    """The groups that may be cut, and the layers of all others with the reason."""
    names = [name for name, _ in found.graph.model.named_modules() if name]
    for pattern in exclude:
        if not any(fnmatch(name, pattern) for name in names):
            raise InvalidInput(f"prune: exclude {pattern!r} matches no layer; layers are named like {names[:3]}")
    groups, skipped = [], list(found.skipped)
    for group in found.groups:
        owners = {site[0].rpartition(".")[0] for site in (*group.filters, *group.scales)} | set(group.layers)
        excluded = sorted(o for o in owners if any(fnmatch(o, pattern) for pattern in exclude))
        if excluded:
            skipped += [Skip(layer, f"excluded ({', '.join(excluded)})") for layer in group.layers]
        elif needs_scales and not group.scales:
            skipped += [Skip(layer, "bn_scale: no batch normalization follows") for layer in group.layers]
        else:
            groups.append(group)
    return groups, skipped
