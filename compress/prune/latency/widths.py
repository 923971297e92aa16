"""Widths by measured latency: which widths are worth having on this engine, and how fast a network of them would be.

Latency is a staircase of the width: engines work in blocks of channels, and a layer between two steps is as slow as the
wider one, or slower. So widths are chosen among measured ones instead of rounded to a fixed multiple. The trade of
importance for latency under a budget is the knapsack of Shen et al., "Structural Pruning via Latency-Saliency Knapsack"
(HALP, 2022), equation 4, with the latency of a layer depending on its inputs and its outputs; here it is solved by
Lagrangian relaxation: for a given price of the budget each group in turn takes its best width until none changes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, product

import torch
from torch import Tensor
from torch.fx import Node

from ...clock import LayerShape
from ...graph.trace import Graph, argument, shape_of
from ...stage import Skip
from ..surgery.choose import Range, Selection
from ..surgery.size_model import SizeModel, Widths
from .table import LatencyTable

Cost = Callable[[Widths], float]

STEPS = 16
"""Widths that are tried for a layer, about: 16 channels by ones, 64 by fours."""

NEAR = 2.0
"""Widths between this part and this multiple of the wanted one are tried."""


CLOSE = 0.95
"""Of the budget: nearer than this, nothing is made wider to use it up."""

SPEED = 4.0
"""Where another goal than latency decides how much goes, a share of the latency is worth so many times that share of
importance: how far a width may be from the wanted one is limited already.
"""

STARTS, MOVES, PAIRS = 3, 60, 4000
"""Limits of the local search: starts to improve, moves from each, and pairs of groups tried in a move."""


@dataclass(frozen=True)
class TimedLayer:
    """A layer of the traced network that the table can time, and the parameter that its widths are read from."""

    weight: Tensor
    shape: LayerShape

    def at(self, weight: tuple[int, ...]) -> LayerShape:
        """The layer with a weight of this shape."""
        full = self.shape
        groups = full.groups
        if full.kind == "linear":
            return replace(full, inputs=weight[1], outputs=weight[0])
        if groups > 1 and groups == full.inputs:
            groups = weight[0] // (full.outputs // groups)
        return replace(full, inputs=weight[1] * groups, outputs=weight[0], groups=groups)


def timed_layers(graph: Graph) -> tuple[list[TimedLayer], list[Skip]]:
    """The convolutions and linear layers of a graph, and the layers with weights that are not in latency tables."""
    layers, skipped = [], []
    for node in graph.calls():
        name = str(node.target)
        weight = graph.tensor(node.args[1]) if len(node.args) > 1 and "Tensor" not in name else None
        if weight is None or weight.ndim < 2:
            continue
        if name.startswith("aten.conv2d."):
            layers.append(TimedLayer(weight, _convolution(node)))
        elif name.startswith("aten.linear."):
            read = shape_of(node.args[0])  # type: ignore[arg-type]
            rows = math.prod(read[:-1]) // (read[0] if len(read) > 1 else 1)
            layers.append(TimedLayer(weight, LayerShape("linear", read[-1], weight.shape[0], (1, rows))))
        else:
            skipped.append(Skip(graph.layer(node), f"its latency is taken as fixed: {name} is not in the table"))
    return layers, skipped


def _convolution(node: Node) -> LayerShape:
    read, weight = shape_of(argument(node, "input")), shape_of(argument(node, "weight"))
    kernel, stride, dilation = weight[2:], argument(node, "stride"), argument(node, "dilation")
    padding = argument(node, "padding")
    if isinstance(padding, str):
        same = padding == "same"
        padding = [d * (k - 1) // 2 if same else 0 for k, d in zip(kernel, dilation, strict=True)]
    return LayerShape(
        "conv", read[-3], weight[0], (read[-2], read[-1]), _pair(kernel), _pair(stride), _pair(padding),
        _pair(dilation), int(argument(node, "groups")),
    )  # fmt: skip


def _pair(values: Sequence[int]) -> tuple[int, int]:
    """(vertical, horizontal), of one value or two."""
    return int(values[0]), int(values[-1])


class Latencies:
    """The sum of the measured latencies of a network's layers, at any widths."""

    def __init__(self, size_model: SizeModel, table: LatencyTable) -> None:
        self.size_model = size_model
        self.table = table
        self.layers, self.skipped = timed_layers(size_model.channels.graph)
        self._groups = [size_model.groups_of(layer.weight) for layer in self.layers]
        self._known: dict[tuple[int, ...], float] = {}

    def measure(self, options: Iterable[Widths]) -> None:
        """Measure what is not known of several choices, together."""
        missing: dict[tuple[int, ...], LayerShape] = {}
        for widths in options:
            for number, key in enumerate(self._keys(widths)):
                if key not in self._known and key not in missing:
                    missing[key] = self._shape(number, widths)
        self.table.measure(missing.values())
        self._known |= {key: self.table.ms(shape) for key, shape in missing.items()}

    def measure_all(self, candidates: Sequence[Sequence[int]]) -> None:
        """Measure every layer at all the units that its groups may have."""
        narrow = [options[0] for options in candidates]
        choices = []
        for groups in dict.fromkeys(self._groups):
            for units in product(*(candidates[group] for group in groups)):
                changed = dict(zip(groups, units, strict=True))
                choices.append([changed.get(group, keep) for group, keep in enumerate(narrow)])
        self.measure(choices)

    def ms(self, widths: Widths) -> float:
        """The sum of the latencies of the layers."""
        try:
            return sum([self._known[key] for key in self._keys(widths)])
        except KeyError:
            self.measure([widths])
        return sum([self._known[key] for key in self._keys(widths)])

    def _keys(self, widths: Widths) -> Iterator[tuple[int, ...]]:
        """Each layer's number and the units of the groups that it depends on."""
        for number, groups in enumerate(self._groups):
            yield (number, *(widths[group] for group in groups))

    def _shape(self, number: int, widths: Widths) -> LayerShape:
        layer = self.layers[number]
        return layer.at(self.size_model.shape(layer.weight, widths))


@dataclass(frozen=True)
class Search:
    """A choice of widths among ``candidates``, the units that each group may keep, ascending.

    Args:
        worth: importance that is left with so many units of each group: its share, from 0 to 1.
    """

    latencies: Latencies
    candidates: Sequence[Sequence[int]]
    worth: Callable[[Widths], float]

    def within(self, cost: Cost, budget: float, start: Widths, *, speed: float) -> list[int] | None:
        """The widths with ``cost`` close within ``budget`` and a low ``speed * log(latency) - log(importance)``; None
        where no widths are within.

        The price of the cost is bisected; from what that finds and from ``start``, widths are changed alone and in
        pairs as long as it helps.
        """
        self.measure()
        choices = [self._snapped(start), [options[0] for options in self.candidates]]
        widths = [options[-1] for options in self.candidates]
        low, high = 0.0, 1.0
        for _ in range(12):
            middle = (low + high) / 2
            widths = self._settled(widths, cost, price=middle / (1 - middle) - 3 * speed, speed=speed)
            if cost(widths) > budget:
                low = middle
            else:
                high = middle
                choices.append(widths)
        fitting = {tuple(widths): cost(widths) for widths in choices if cost(widths) <= budget}
        if not fitting:
            return None
        starts = sorted(fitting, key=lambda widths: fitting[widths])[-STARTS:]
        improved = [self._improved(widths, cost, budget, speed) for widths in starts]
        close = [widths for widths in improved if not speed or cost(widths) >= CLOSE * budget]
        return min(close or improved, key=lambda widths: self._loss(widths, speed))

    def measure(self) -> None:
        """Measure every layer at every pair of widths that it may have."""
        self.latencies.measure_all(self.candidates)

    def _snapped(self, widths: Widths) -> list[int]:
        """The candidates next to ``widths``, the wider ones last to be taken."""
        return [
            max((units for units in options if units <= keep), default=options[0])
            for options, keep in zip(self.candidates, widths, strict=True)
        ]

    def _loss(self, widths: Widths, speed: float) -> float:
        return (speed * math.log(self.latencies.ms(widths)) if speed else 0.0) - math.log(
            max(self.worth(widths), 1e-12)
        )

    def _settled(self, start: Widths, cost: Cost, *, price: float, speed: float) -> list[int]:
        """From ``start``, each group in turn at its best width, until none changes."""
        widths = list(start)

        def loss(option: Widths) -> float:
            return self._loss(option, speed) + price * math.log(max(cost(option), 1e-12))

        for _ in range(8):
            before = list(widths)
            for group in range(len(widths)):
                widths = min((self._with(widths, {group: units}) for units in self.candidates[group]), key=loss)
            if widths == before:
                break
        return widths

    def _improved(self, start: Widths, cost: Cost, budget: float, speed: float) -> list[int]:
        """From ``start``, the change within the budget that helps most, again and again: of one width, and of two
        where no one does. Where speed counts it comes close to the budget first: less would always be faster.
        """
        widths, enough = list(start), CLOSE * budget if speed else 0.0
        for _ in range(MOVES):
            now = cost(widths)
            least, loss = (enough, self._loss(widths, speed)) if now >= enough else (now + 1e-9, math.inf)
            for options in (self._singles(widths), self._pairs(widths)):
                allowed = [option for option in options if least <= cost(option) <= budget]
                best = min(allowed, key=lambda option: self._loss(option, speed), default=None)
                if best is not None and self._loss(best, speed) < loss - 1e-9:
                    break
            else:
                return widths
            assert best is not None
            widths = best
        return widths

    def _singles(self, widths: Widths) -> Iterator[list[int]]:
        """``widths`` with one group at any other width."""
        for group, options in enumerate(self.candidates):
            yield from (self._with(widths, {group: units}) for units in options if units != widths[group])

    def _pairs(self, widths: Widths) -> Iterator[list[int]]:
        """``widths`` with two groups at widths near to theirs: as far as keeps it to some :data:`PAIRS` of them."""
        steps = max(1, math.isqrt(PAIRS // max(1, 2 * len(widths) * (len(widths) - 1))))
        nearby = []
        for options, keep in zip(self.candidates, widths, strict=True):
            place = options.index(keep)
            nearby.append([units for units in options[max(0, place - steps) : place + steps + 1] if units != keep])
        for first, second in combinations(range(len(widths)), 2):
            for a in nearby[first]:
                yield from (self._with(widths, {first: a, second: b}) for b in nearby[second])

    @staticmethod
    def _with(widths: Widths, changed: Mapping[int, int]) -> list[int]:
        return [changed.get(group, units) for group, units in enumerate(widths)]


def candidates(selection: Selection, wanted: Sequence[float], *, all_wider: bool = False) -> list[list[int]]:
    """The units that each group may keep: about 16 steps, from half to twice of what is wanted.

    Args:
        all_wider: up to what there is.
    """
    options_of_groups = []
    for group, bounds, want in zip(selection.groups, selection.ranges, wanted, strict=True):
        now, step = len(group.units), _grid(bounds)
        least = min(bounds.least, now)
        options = {least, now, *range(step * math.ceil(least / step), now + 1, step)}
        near = {units for units in options if want / NEAR <= units and (all_wider or units <= want * NEAR)}
        options_of_groups.append(sorted(near or {min(options, key=lambda units: abs(units - want))}))
    return options_of_groups


def _grid(bounds: Range) -> int:
    """Units between the widths to try: a multiple of the range's step, doubled until there are about 16."""
    step = bounds.step
    while bounds.first / step >= 2 * STEPS:
        step *= 2
    return step


def importance(selection: Selection, size_model: SizeModel) -> Callable[[Widths], float]:
    """The share of the importance that is left, from 0 to 1: of the sum of all scores where these are compared, and
    else the geometric mean of the groups' shares.
    """
    left = []
    for score, order in zip(selection.scores, size_model.orders, strict=True):
        # Scores may be below zero: only differences count, and the least of a group is worth a little.
        raised = score - min(0.0, float(score.min())) + 1e-6 * float(score.abs().max()) + 1e-12
        left.append([0.0, *torch.cumsum(raised[order].flip(0), 0).tolist()])
    whole = sum(shares[-1] for shares in left)

    def together(widths: Widths) -> float:
        return float(sum(shares[units] for shares, units in zip(left, widths, strict=True)) / whole)

    logs = [[math.log(share / shares[-1]) if share else -math.inf for share in shares] for shares in left]

    def each(widths: Widths) -> float:
        return math.exp(sum(of_group[units] for of_group, units in zip(logs, widths, strict=True)) / len(logs))

    return together if selection.select.comparable else each
