"""Labels: every index of every dimension of every parameter has one, and what belongs together has the same."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.fx import Node

Site = tuple[str, int]
"""A dimension of a parameter or buffer: ("layer1.0.conv1.weight", 0)."""

Axes = dict[int, Tensor]
"""The labels of a value: for each labelled dimension, one int64 label per index. 0 is "no label": it stays."""

Value = Axes | tuple[Axes, ...]
"""What a node yields: the labels of a tensor, or of several."""


@dataclass(frozen=True)
class Product:
    """A convolution or matrix product, for counting: ``constant`` times the kept ``inputs`` times the kept ``outputs``.

    MACs of the whole node with nothing removed: ``constant * len(inputs) * len(outputs)``, where None counts as 1.
    """

    layer: str
    constant: int
    inputs: Tensor | None
    outputs: Tensor | None


@dataclass(frozen=True)
class Assumption:
    """A place whose code has to follow the channel count of its tensors: a split, or a view of C channels as a grid.

    ``options`` counts the ways to read it (the dimension of the grid that shrinks); a choice beyond them keeps all.
    """

    place: str
    labels: Tensor
    options: int


@dataclass
class Labels:
    """What a walk over a graph found.

    Args:
        sites: the labels of every dimension of every parameter and buffer that the graph reads.
        outputs_of: the sites whose slices are filters: they produce the channels of the layer named.
        scales: the sites of normalization scales, one per channel.
        consumed: per node, the input argument, its dimension and the labels there that the node's weight consumes.
        products: what costs multiply-adds.
        assumed: what was assumed of the code, which a trace with fixed sizes does not show.
    """

    sites: dict[Site, Tensor] = field(default_factory=dict)
    outputs_of: dict[Site, str] = field(default_factory=dict)
    scales: set[Site] = field(default_factory=set)
    consumed: dict[Node, tuple[int, int, Tensor]] = field(default_factory=dict)
    products: list[Product] = field(default_factory=list)
    assumed: list[Assumption] = field(default_factory=list)
    _parent: list[int] = field(default_factory=lambda: [0])
    _reason: dict[int, str] = field(default_factory=dict)

    def fresh(self, count: int) -> Tensor:
        """``count`` new labels."""
        start = len(self._parent)
        self._parent.extend(range(start, start + count))
        return torch.arange(start, start + count)

    def find(self, label: int) -> int:
        """The representative of the labels that have become equal to ``label``."""
        parent = self._parent
        while parent[label] != label:
            parent[label] = parent[parent[label]]
            label = parent[label]
        return label

    def pinned(self, label: int) -> str | None:
        """Why ``label`` has to stay, or None if it can go."""
        return self._reason.get(self.find(label))

    def pin(self, labels: Tensor | Axes, reason: str) -> None:
        """Keep these labels, for ``reason``; the first reason is the one that is told."""
        for tensor in labels.values() if isinstance(labels, dict) else (labels,):
            for label in set(tensor.flatten().tolist()) - {0}:
                self._reason.setdefault(self.find(label), reason)

    def unite(self, first: Tensor, second: Tensor, reason: str) -> Tensor:
        """The labels of both, element by element one and the same; where one has none the other is pinned."""
        for a, b in set(zip(first.flatten().tolist(), second.flatten().tolist(), strict=True)):
            if a and b:
                self._join(a, b)
            elif a or b:
                self._reason.setdefault(self.find(a or b), reason)
        return torch.where(second == 0, second, first)

    def _join(self, a: int, b: int) -> None:
        a, b = self.find(a), self.find(b)
        if a == b:
            return
        keep, drop = min(a, b), max(a, b)
        self._parent[drop] = keep
        reason = self._reason.pop(drop, None)
        if reason is not None:
            self._reason.setdefault(keep, reason)

    def unite_rows(self, rows: Tensor, reason: str) -> Tensor:
        """(n, m) labels to (m,): the n labels of each column become one."""
        together = rows[0]
        for row in rows[1:]:
            if torch.equal(row, together):
                continue
            together = self.unite(together, row, reason)
        return together

    def roots(self, labels: Tensor) -> Tensor:
        """The representatives of ``labels``."""
        return torch.tensor([self.find(label) for label in labels.tolist()], dtype=torch.int64)
