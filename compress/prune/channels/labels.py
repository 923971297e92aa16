"""Labels: every index of every dimension of every parameter has one, and what belongs together has the same."""

from __future__ import annotations

from collections.abc import Collection
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

    ``place`` names it (all calls of the same line of the same kind of module are one place), ``kind`` is the class of
    the module. ``options`` counts the ways to read it (the dimension of the grid that shrinks; or, where it ``ties``,
    whether a width follows that of the module's input); a choice beyond them keeps all.
    """

    place: str
    kind: str
    labels: Tensor
    options: int
    ties: bool = False


@dataclass(frozen=True)
class Sized:
    """The code of the module ``layer`` names a ``size``, which is the count of ``labels``."""

    layer: str
    size: int
    labels: Tensor


@dataclass
class Labels:
    """What a walk over a graph found.

    Args:
        sites: the labels of every dimension of every parameter and buffer that the graph reads.
        outputs_of: the sites whose slices are filters: they produce the channels of the layer named.
        scales: the sites of normalization scales, one per channel.
        consumed: per node, the operands, their dimensions and the labels there over which the node sums: masked
            elements are zero there.
        absent: per node, the dimensions of its first argument and the labels there over which it takes statistics:
            masked elements do not count.
        products: what costs multiply-adds.
        assumed: what was assumed of the code, which a trace with fixed sizes does not show.
        sized: the sizes in the code that follow a count of labels, and so may an attribute of the module.
    """

    sites: dict[Site, Tensor] = field(default_factory=dict)
    outputs_of: dict[Site, str] = field(default_factory=dict)
    scales: set[Site] = field(default_factory=set)
    consumed: dict[Node, list[tuple[Node, int, Tensor]]] = field(default_factory=dict)
    absent: dict[Node, list[tuple[int, Tensor]]] = field(default_factory=dict)
    products: list[Product] = field(default_factory=list)
    assumed: list[Assumption] = field(default_factory=list)
    sized: list[Sized] = field(default_factory=list)
    _count: int = 1
    _pairs: list[Tensor] = field(default_factory=list)
    _pins: list[tuple[Tensor, str]] = field(default_factory=list)
    _resolved: tuple[Tensor, Tensor] | None = None

    def fresh(self, count: int) -> Tensor:
        """``count`` new labels."""
        start, self._count = self._count, self._count + count
        self._resolved = None
        return torch.arange(start, start + count)

    def pin(self, labels: Tensor | Axes, reason: str) -> None:
        """Keep these labels, for ``reason``; the first reason is the one that is told."""
        for tensor in labels.values() if isinstance(labels, dict) else (labels,):
            self._pins.append((tensor.flatten(), reason))
            self._resolved = None

    def unite(self, first: Tensor, second: Tensor, reason: str = "meets values that cannot be cut") -> Tensor:
        """The labels of both, element by element one and the same; where one has none the other is pinned."""
        return self.unite_rows(torch.stack([first, second]), reason)

    def unite_rows(self, rows: Tensor, reason: str) -> Tensor:
        """(n, m) labels to (m,): the n labels of each column become one."""
        together = rows[0]
        if bool((rows == together).all()):
            return together
        bare = (rows == 0).any(0)
        if bool(bare.any()):
            self.pin(rows[:, bare], reason)
            rows, whole = rows[:, ~bare], together.masked_fill(bare, 0)
        else:
            whole = together
        pairs = torch.stack([rows[0].expand(len(rows) - 1, -1).flatten(), rows[1:].flatten()])
        self._pairs.append(pairs[:, pairs[0] != pairs[1]])
        self._resolved = None
        return whole

    def find(self, label: int) -> int:
        """The representative of the labels that have become equal to ``label``: the lowest."""
        return int(self._resolve()[0][label])

    def roots(self, labels: Tensor) -> Tensor:
        """The representatives of ``labels``."""
        return self._resolve()[0][labels]

    def among(self, representatives: Collection[int]) -> Tensor:
        """(labels,) True at the labels whose representatives these are."""
        roots = self._resolve()[0]
        chosen = torch.zeros(len(roots), dtype=torch.bool)
        chosen[torch.tensor(sorted(representatives), dtype=torch.int64)] = True
        return chosen[roots]

    def pinned(self, label: int) -> str | None:
        """Why ``label`` has to stay, or None if it can go."""
        roots, reasons = self._resolve()
        index = int(reasons[roots[label]])
        return None if index == len(self._pins) else self._pins[index][1]

    @property
    def free(self) -> Tensor:
        """(labels,) True at the representatives that can go."""
        roots, reasons = self._resolve()
        free = (reasons == len(self._pins)) & (roots == torch.arange(len(roots)))
        free[0] = False
        return free

    def _resolve(self) -> tuple[Tensor, Tensor]:
        """The representative of every label, and the number of the first reason of every representative."""
        if self._resolved is None:
            roots = torch.arange(self._count)
            pairs = torch.cat(self._pairs, 1) if self._pairs else torch.empty(2, 0, dtype=torch.int64)
            while pairs.shape[1]:
                roots = _jumped(roots)
                ends = roots[pairs]
                ends = ends[:, ends[0] != ends[1]]
                if not ends.shape[1]:
                    break
                low, high = ends.min(0).values, ends.max(0).values
                roots = roots.scatter_reduce(0, high, low, "amin")
                pairs = ends
            roots = _jumped(roots)
            reasons = torch.full((self._count,), len(self._pins))
            for index, (labels, _) in reversed(list(enumerate(self._pins))):
                reasons[roots[labels]] = index
            self._resolved = roots, reasons
        return self._resolved


def _jumped(roots: Tensor) -> Tensor:
    """Every label pointing at the end of its chain."""
    while True:
        further = roots[roots]
        if torch.equal(further, roots):
            return roots
        roots = further
