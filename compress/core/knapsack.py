"""One option for each item under a budget: the multiple-choice knapsack, solved exactly.

Kellerer, Pferschy and Pisinger, "Knapsack Problems" (2004), chapter 11: dynamic programming over lists of undominated
states, and what cannot beat a known solution by the bound of the linear relaxation is dropped. Costs and losses are
any finite numbers; there is nothing to round.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]

SLACK = 1e-12
"""Of the sum of all that is added up: what rounding may cost a bound."""


def least_loss(
    losses: Sequence[Sequence[float]], costs: Sequence[Sequence[float]], budget: float
) -> tuple[int, ...] | None:
    """The option of each item with the least sum of losses whose costs are within ``budget``; None where none is.

    Of equal losses the cheaper is taken.

    Args:
        losses: of each item, of each of its options; below zero where an option is a gain.
        costs: likewise.

    >>> least_loss([[5, 1, 0], [9, 2, 0]], [[1, 2, 4], [1, 2, 4]], 6)
    (1, 2)
    """
    pairs = zip(losses, costs, strict=True)
    items = [(np.asarray(loss, np.float64), np.asarray(cost, np.float64)) for loss, cost in pairs]
    rests = _relaxations(items)
    slack = SLACK * sum(float(np.abs(loss).max()) for loss, _ in items)
    room = SLACK * sum(float(np.abs(cost).max()) for _, cost in items)
    limit = budget + room
    if not items or rests[0].least_cost > limit:
        return None if items else ()
    known = _greedy(items, budget) + slack
    cost, loss = np.zeros(1), np.zeros(1)
    ways: list[tuple[NDArray[np.intp], NDArray[np.intp]]] = []
    for (item_loss, item_cost), rest in zip(items, rests[1:], strict=True):
        all_costs = (cost[:, None] + item_cost).ravel()
        all_losses = (loss[:, None] + item_loss).ravel()
        left = limit - all_costs
        alive = np.flatnonzero((rest.least_cost <= left) & (all_losses + rest.bound(left) <= known + slack))
        order = alive[np.lexsort((all_losses[alive], all_costs[alive]))]
        best = np.minimum.accumulate(all_losses[order])
        undominated = order[np.concatenate(([True], all_losses[order][1:] < best[:-1]))]
        ways.append((undominated // len(item_cost), undominated % len(item_cost)))
        cost, loss = all_costs[undominated], all_losses[undominated]
    place = int(np.argmin(loss))
    chosen = []
    for before, option in reversed(ways):
        chosen.append(int(option[place]))
        place = int(before[place])
    return tuple(reversed(chosen))


@dataclass(frozen=True)
class _Relaxation:
    """The least loss of some items, of which options may be mixed, by what they may cost: convex, piecewise linear."""

    costs: Numbers
    losses: Numbers

    @property
    def least_cost(self) -> float:
        return float(self.costs[0])

    def bound(self, budgets: Numbers) -> Numbers:
        return np.interp(budgets, self.costs, self.losses)


def _relaxations(items: Sequence[tuple[Numbers, Numbers]]) -> list[_Relaxation]:
    """Of all items, of all but the first, and so on, down to none."""
    relaxations = [_Relaxation(np.zeros(1), np.zeros(1))]
    least_cost = least_loss = 0.0
    steps: list[tuple[float, float]] = []
    for loss, cost in reversed(items):
        hull = _hull(loss, cost)
        least_cost, least_loss = least_cost + cost[hull[0]], least_loss + loss[hull[0]]
        steps += [(cost[b] - cost[a], loss[b] - loss[a]) for a, b in pairwise(hull)]
        steps.sort(key=lambda step: step[1] / step[0])
        costs = np.cumsum([least_cost, *(step[0] for step in steps)])
        losses = np.cumsum([least_loss, *(step[1] for step in steps)])
        relaxations.append(_Relaxation(costs, losses))
    return relaxations[::-1]


def _hull(loss: Numbers, cost: Numbers) -> list[int]:
    """The options on the lower convex hull, the cheapest first; each loses less than the one before."""
    hull: list[int] = []
    for option in np.lexsort((loss, cost)).tolist():
        if hull and (cost[option] == cost[hull[-1]] or loss[option] >= loss[hull[-1]]):
            continue
        while len(hull) > 1:
            a, b = hull[-2:]
            if (loss[b] - loss[a]) * (cost[option] - cost[b]) < (loss[option] - loss[b]) * (cost[b] - cost[a]):
                break
            hull.pop()
        hull.append(option)
    return hull


def _greedy(items: Sequence[tuple[Numbers, Numbers]], budget: float) -> float:
    """The loss of a good choice: from the cheapest of all, the steepest steps that fit."""
    hulls = [_hull(loss, cost) for loss, cost in items]
    left = budget - sum(float(cost[hull[0]]) for (_, cost), hull in zip(items, hulls, strict=True))
    total = sum(float(loss[hull[0]]) for (loss, _), hull in zip(items, hulls, strict=True))
    steps = [
        ((loss[b] - loss[a]) / (cost[b] - cost[a]), number, float(cost[b] - cost[a]), float(loss[b] - loss[a]))
        for number, ((loss, cost), hull) in enumerate(zip(items, hulls, strict=True))
        for a, b in pairwise(hull)
    ]
    stopped: set[int] = set()
    for _, number, more, gained in sorted(steps, key=lambda step: step[0]):  # stable: of one item in order
        if number in stopped or more > left:
            stopped.add(number)
            continue
        left -= more
        total += gained
    return total
