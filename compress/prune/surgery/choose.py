"""Which units go: as many as the goal asks for, within rounding and limits."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from functools import cached_property
from typing import ClassVar, Literal, Protocol

from torch import Tensor

from ...errors import InvalidInput
from ...stage import Skip
from ..channels.groups import Channels, Group
from ..criteria import Criterion
from .goal import Curve
from .size_model import Widths

CLOSE = 0.8
"""Of a budget: widths that cost less than this share of it fell too far in one step."""


@dataclass(frozen=True)
class Range:
    """How narrow a group may become, all in units.

    Args:
        first: units before the first step of the pruning; shares are of these.
        step: widths are multiples of this.
        least: what has to stay.
        reasons: the rules that say so.
    """

    first: int
    step: int
    least: int
    reasons: str

    def rounded(self, wanted: float, now: int) -> int:
        """The multiple of the step nearest to ``wanted`` units, at least ``least`` and at most those that there are
        ``now``.
        """
        nearest = self.step * math.floor(wanted / self.step + 0.5)
        return min(now, max(self.least, nearest))


@dataclass(frozen=True)
class Rules:
    """How narrow every group may become at most; the names are those of :class:`compress.prune.Prune`."""

    round_to: int | Literal["measured"] = 1
    minimum: int = 1
    limits: Mapping[str, float] = field(default_factory=dict)
    exclude: tuple[str, ...] = ()

    def range_of(self, group: Group, first: int) -> Range:
        """The range of a group that had ``first`` units."""
        width = first * group.per_unit
        multiple = 1 if self.round_to == "measured" or width < self.round_to else self.round_to
        step = math.lcm(multiple, group.per_unit) // group.per_unit
        owners = owners_of(group)
        limits = [share for pattern, share in self.limits.items() if any(fnmatch(o, pattern) for o in owners)]
        stays = first * (1 - min(limits)) if limits else 0.0
        least = max(1, math.ceil(self.minimum / group.per_unit), math.ceil(stays - 1e-9))
        least = min(first, step * math.ceil(least / step))
        return Range(first, step, least, f"{self}, limit {min(limits):g}" if limits else str(self))

    def __str__(self) -> str:
        return f"round_to={self.round_to}, minimum={self.minimum}"


Plan = Callable[[float], list[float]]
"""Units to keep of each group, before rounding, by a share from 0 (all are kept) to 1 (none): never more the larger the
share is.
"""


class Shares(Protocol):
    """How groups share what goes, as :class:`compress.prune.select.Select` has it."""

    alike: ClassVar[bool]
    comparable: ClassVar[bool]
    of_units: ClassVar[bool]

    def plan(self, choice: Selection) -> Plan:
        """How much of each group stays, by the share of all that goes."""
        ...


@dataclass(frozen=True)
class Selection:
    """The groups of channels to choose from, and how they share what goes.

    Args:
        scores: of the units of each group.
        curves: what the selection measured of each group before the first step; a group may have none.
        cost: of so many units left of each group, what the goal divides.
    """

    groups: Sequence[Group]
    scores: Sequence[Tensor]
    ranges: Sequence[Range]
    select: Shares
    curves: Sequence[Curve | None]
    cost: Callable[[Widths], float] = sum

    @cached_property
    def _plan(self) -> Plan:
        return self.select.plan(self)

    def wanted(self, share: float) -> list[float]:
        """Units to keep of each group, before rounding: fewer the larger ``share``, from all at 0 to none at 1.

        ``share`` is of the units (of those before the first step), or of what the selection measures in their place.
        """
        return self._plan(share)

    def rounded(self, wanted: Sequence[float]) -> list[int]:
        """The nearest widths that the ranges allow."""
        return [
            bounds.rounded(want, len(group.units))
            for bounds, want, group in zip(self.ranges, wanted, self.groups, strict=True)
        ]

    @property
    def least(self) -> list[int]:
        """The narrowest that everything may become."""
        return [min(bounds.least, len(g.units)) for bounds, g in zip(self.ranges, self.groups, strict=True)]

    def nearest(self, ratio: float) -> list[int]:
        """The widths nearest to ``ratio`` of the channels gone: of each group alike, or of all.

        Raises:
            InvalidInput: less than that can go, by more than rounding explains: in every group, or of all.
        """
        sizes = [(bounds, group.per_unit) for bounds, group in zip(self.ranges, self.groups, strict=True)]
        parts = [[one] for one in sizes] if self.select.alike else [sizes]
        reachable = []
        for part in parts:
            first = sum(bounds.first * size for bounds, size in part)
            least = sum(bounds.least * size for bounds, size in part)
            rounding = sum(bounds.step * size for bounds, size in part)
            reachable.append((least <= first * (1 - ratio) + rounding, 1 - least / first))
        if not any(reached for reached, _ in reachable):
            most = max(share for _, share in reachable)
            raise InvalidInput(
                f"prune: ratio={ratio:g} is out of reach: at most {most:.2f} of the channels can go with "
                f"{self._rules()}"
            )
        return self.rounded(self.wanted(ratio))

    def within(self, cost: Callable[[Widths], float], budget: float) -> tuple[list[float], list[int]]:
        """The widest that costs no more than ``budget``, before and after rounding; what was rounded down the most
        goes up again where the budget allows, at most to a step above. The least widths where nothing is within.

        Where a group whose step is large, as the width of all residual sums, would jump far below the budget, it stays
        above the jump, and the others make up for it.
        """
        wanted, widths, above = self._widest(cost, budget, [0] * len(self.groups))
        if cost(widths) > budget:
            return [float(keep) for keep in self.least], self.least
        stay = [0] * len(self.groups)
        for _ in self.groups:
            if cost(widths) >= CLOSE * budget or above == widths:
                break
            stay = [keep if keep > below else least for keep, below, least in zip(above, widths, stay, strict=True)]
            others, tried, above = self._widest(cost, budget, stay)
            if not cost(widths) < cost(tried) <= budget:
                break
            wanted, widths = others, tried
        steps = [bounds.step for bounds in self.ranges]
        for spare in (0, 1):  # first what is narrower than wanted, then up to a step more
            for index in sorted(range(len(widths)), key=lambda i: (widths[i] - wanted[i]) / self.ranges[i].first):
                if widths[index] < wanted[index] + spare * steps[index]:
                    wider = [*widths]
                    wider[index] = min(len(self.groups[index].units), widths[index] + steps[index])
                    if cost(wider) <= budget:
                        widths = wider
        return wanted, widths

    def _widest(
        self, cost: Callable[[Widths], float], budget: float, stay: Sequence[int]
    ) -> tuple[list[float], list[int], list[int]]:
        """The least share whose widths are within ``budget``, where no group falls below what has to ``stay``: before
        and after rounding, and the widths just above it.
        """

        def wanted(share: float) -> list[float]:
            return [max(want, float(least)) for want, least in zip(self.wanted(share), stay, strict=True)]

        low, high = 0.0, 1.0
        for _ in range(24):
            middle = (low + high) / 2
            if cost(self.rounded(wanted(middle))) > budget:
                low = middle
            else:
                high = middle
        return wanted(high), self.rounded(wanted(high)), self.rounded(wanted(low))

    def out_of_reach(self, goal: object, reachable: float, what: str) -> InvalidInput:
        """The error for a goal beyond the least widths."""
        return InvalidInput(
            f"prune: {goal} is out of reach: at most {reachable:.2f} times {what} with {self._rules()}; "
            "lower it, or loosen the rules"
        )

    def _rules(self) -> str:
        return "; ".join(dict.fromkeys(bounds.reasons for bounds in self.ranges))

    def unchanged(self, widths: Widths) -> bool:
        """Whether every group has all that it had before the first step."""
        return all(keep >= bounds.first for keep, bounds in zip(widths, self.ranges, strict=True))

    def held_back(self, widths: Widths, wanted: Sequence[float]) -> list[Skip]:
        """The layers that keep more channels than ``wanted`` because of a rule, and by more than rounding explains."""
        return [
            Skip(layer, f"{keep * g.per_unit} channels stay where {want * g.per_unit:.1f} are wanted: {bounds.reasons}")
            for g, bounds, keep, want in zip(self.groups, self.ranges, widths, wanted, strict=True)
            if want + bounds.step < keep < bounds.first
            for layer in g.layers
        ]

    def untouched(self, widths: Widths) -> list[Skip]:
        """The layers that keep all the channels that they had before the first step."""
        return [
            Skip(layer, f"{group.width} channels stay: {bounds.reasons}")
            for group, bounds, keep in zip(self.groups, self.ranges, widths, strict=True)
            if keep >= bounds.first
            for layer in group.layers
        ]


def owners_of(group: Group) -> set[str]:
    """The names of the layers that a pattern finds a group by."""
    return {site[0].rpartition(".")[0] for site in (*group.filters, *group.scales)} | set(group.layers)


def require_matches(channels: Channels, patterns: Sequence[str], option: str) -> None:
    """Raise InvalidInput where a pattern matches the name of no layer."""
    names = [name for name, _ in channels.graph.model.named_modules() if name]
    for pattern in patterns:
        if not any(fnmatch(name, pattern) for name in names):
            raise InvalidInput(f"prune: {option} {pattern!r} matches no layer; layers are named like {names[:3]}")


def eligible(channels: Channels, exclude: Sequence[str], needs_scales: bool = False) -> tuple[list[Group], list[Skip]]:
    """The groups that may be cut, and the layers of all others with the reason."""
    require_matches(channels, exclude, "exclude")
    groups, skipped = [], list(channels.skipped)
    for group in channels.groups:
        excluded = sorted(o for o in owners_of(group) if any(fnmatch(o, pattern) for pattern in exclude))
        if excluded:
            skipped += [Skip(layer, f"excluded ({', '.join(excluded)})") for layer in group.layers]
        elif needs_scales and not group.scales:
            skipped += [Skip(layer, "bn_scale: no batch normalization follows") for layer in group.layers]
        else:
            groups.append(group)
    return groups, skipped


def scorable(
    groups: Sequence[Group], skipped: Sequence[Skip], channels: Channels, criterion: Criterion
) -> tuple[list[Group], list[Skip]]:
    """The groups whose units the criterion can tell apart, and the skipped layers with those of all others."""
    reasons = [criterion.blind_to(group, channels) for group in groups]
    blind = [
        Skip(layer, reason)
        for group, reason in zip(groups, reasons, strict=True)
        if reason is not None
        for layer in group.layers
    ]
    return [g for g, reason in zip(groups, reasons, strict=True) if reason is None], [*skipped, *blind]
