"""What a network would count with fewer channels: multiply-adds, parameters, bytes and shapes, without surgery."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

from torch import Tensor

from ..channels.groups import Channels, Group, Unit

Widths = Sequence[int]
"""How many units of each group stay, in the order of the groups."""


@dataclass(frozen=True)
class Length:
    """The length of a dimension: ``whole``, less ``lost[g][n]`` once the first ``n`` units of group ``g`` are gone."""

    whole: int
    lost: Mapping[int, Sequence[int]]

    def of(self, widths: Widths) -> int:
        """The length with so many units of each group left."""
        return self.whole - sum(lost[len(lost) - 1 - widths[group]] for group, lost in self.lost.items())


@dataclass(frozen=True)
class SizeModel:
    """The network with so many units of each group kept: those that are first in ``orders`` go first.

    Args:
        channels: all of the network's.
        groups: those that may be cut; all other channels stay.
        orders: for each group the indices of its units, the least important first.
    """

    channels: Channels
    groups: Sequence[Group]
    orders: Sequence[Sequence[int]]

    @property
    def whole(self) -> list[int]:
        """The widths of the network before pruning: every unit of each group."""
        return [len(group.units) for group in self.groups]

    def removed(self, widths: Widths) -> list[Unit]:
        """The units that go, in the order of their indices within each group."""
        return [
            group.units[i]
            for group, order, keep in zip(self.groups, self.orders, widths, strict=True)
            for i in sorted(order[: len(order) - keep])
        ]

    def channel_count(self, widths: Widths) -> int:
        """How many channels the groups have together."""
        return sum(keep * group.per_unit for keep, group in zip(widths, self.groups, strict=True))

    def macs(self, widths: Widths) -> int:
        """Multiply-adds on the example inputs, as :meth:`Channels.macs` counts them."""
        total = 0
        for number, (constant, sides, groups) in enumerate(self._products):
            key = (number, *(widths[group] for group in groups))
            if key not in self._macs:
                self._macs[key] = constant * math.prod(side.of(widths) for side in sides)
            total += self._macs[key]
        return total

    def parameters(self, widths: Widths) -> int:
        """Elements of the parameters, those that layers share once."""
        return sum(self._elements(tensor, widths) for tensor in self.channels.graph.model.parameters())

    def size_bytes(self, widths: Widths) -> int:
        """Bytes of the stored weights: of the parameters and buffers of the state dict, in the types that they have."""
        state = self.channels.graph.model.state_dict(keep_vars=True)
        tensors = {id(tensor): tensor for tensor in state.values()}.values()
        return sum(self._elements(tensor, widths) * tensor.element_size() for tensor in tensors)

    def shape(self, tensor: Tensor, widths: Widths) -> tuple[int, ...]:
        """The shape of a parameter or buffer of the network."""
        axes = self._axes.get(id(tensor), {})
        return tuple(axes[axis].of(widths) if axis in axes else size for axis, size in enumerate(tensor.shape))

    def groups_of(self, tensor: Tensor) -> tuple[int, ...]:
        """The numbers of the groups that the shape of a parameter or buffer depends on."""
        lengths = self._axes.get(id(tensor), {}).values()
        return tuple(sorted({group for length in lengths for group in length.lost}))

    def _elements(self, tensor: Tensor, widths: Widths) -> int:
        return math.prod(self.shape(tensor, widths))

    @cached_property
    def _axes(self) -> dict[int, dict[int, Length]]:
        """For each tensor, by its identity, the dimensions that are cut."""
        model = self.channels.graph.model
        tensors = dict(model.named_parameters(remove_duplicate=False))
        tensors |= dict(model.named_buffers(remove_duplicate=False))  # type: ignore[arg-type]
        lost: dict[tuple[str, int], dict[int, list[int]]] = defaultdict(dict)
        for number, (group, order) in enumerate(zip(self.groups, self.orders, strict=True)):
            for site, indices in group.sites.items():
                lost[site][number] = _running(indices.shape[1] for _ in order)
        axes: dict[int, dict[int, Length]] = defaultdict(dict)
        for (name, axis), by_group in lost.items():
            axes[id(tensors[name])][axis] = Length(tensors[name].shape[axis], by_group)
        return axes

    @cached_property
    def _macs(self) -> dict[tuple[int, ...], int]:
        """What each product was found to cost, by its number and the units of its groups."""
        return {}

    @cached_property
    def _products(self) -> list[tuple[int, list[Length], tuple[int, ...]]]:
        """Each product's constant, the lengths that it is multiplied by, and the groups that these depend on."""
        owner = {
            group.units[i].label: (number, place)
            for number, (group, order) in enumerate(zip(self.groups, self.orders, strict=True))
            for place, i in enumerate(order)
        }

        def length(labels: Tensor) -> Length:
            gone: dict[int, list[int]] = {}
            for root in self.channels.labels.roots(labels).tolist():
                if root in owner:
                    number, place = owner[root]
                    gone.setdefault(number, [0] * len(self.orders[number]))[place] += 1
            return Length(len(labels), {number: _running(counted) for number, counted in gone.items()})

        products = []
        for product in self.channels.labels.products:
            sides = [length(labels) for labels in (product.inputs, product.outputs) if labels is not None]
            products.append((product.constant, sides, tuple(sorted({group for side in sides for group in side.lost}))))
        return products


def _running(counted: Iterable[int]) -> list[int]:
    """The sums of the first 0, 1, 2, ... numbers.

    >>> _running([2, 3])
    [0, 2, 5]
    """
    return list(accumulate(counted, initial=0))
