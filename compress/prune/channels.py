"""Which channels can go, and with what: groups of units, found by following labels through the traced graph."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from ..graph import Graph
from ..stage import Edit, Skip
from .labels import Labels, Site
from .walk import walk


@dataclass(frozen=True)
class Unit:
    """Channels that go together: the indices to cut on each dimension of each parameter and buffer."""

    label: int
    cuts: Mapping[Site, tuple[int, ...]]


@dataclass(frozen=True)
class Group:
    """Units that are cut on the same dimensions, as the 64 channels of a residual stage: these compete.

    Args:
        units: in the order of their indices.
        filters: the dimensions whose slices are the filters that produce the units.
        scales: the dimensions of the normalization scales of the units.
        layers: the layers whose output channels the units are.
    """

    units: tuple[Unit, ...]
    filters: tuple[Site, ...]
    scales: tuple[Site, ...]
    layers: tuple[str, ...]

    @property
    def width(self) -> int:
        """Channels of the layers: the number of units times the channels that one unit takes."""
        return len(self.units) * self.per_unit

    @property
    def per_unit(self) -> int:
        """Channels that one unit takes: more than 1 in grouped convolutions and shuffles."""
        cuts = self.units[0].cuts
        return min(len(cuts[site]) for site in (self.filters or tuple(cuts)))


@dataclass(frozen=True)
class Channels:
    """The channels of a network: what can be cut, what cannot and why, and what the multiply-adds would be."""

    graph: Graph
    labels: Labels

    @cached_property
    def _members(self) -> dict[int, dict[Site, tuple[int, ...]]]:
        found: dict[int, dict[Site, list[int]]] = defaultdict(lambda: defaultdict(list))
        for site, labels in self.labels.sites.items():
            for index, root in enumerate(self.labels.roots(labels).tolist()):
                found[root][site].append(index)
        return {root: {site: tuple(i) for site, i in sites.items()} for root, sites in found.items()}

    @cached_property
    def groups(self) -> tuple[Group, ...]:
        """What can be cut, in the order of the layers."""
        by_sites: dict[tuple[tuple[Site, int], ...], list[Unit]] = defaultdict(list)
        for root, cuts in self._members.items():
            whole = any(len(indices) == len(self.labels.sites[site]) for site, indices in cuts.items())
            if self.labels.pinned(root) is None and not whole:
                by_sites[tuple(sorted((site, len(indices)) for site, indices in cuts.items()))].append(Unit(root, cuts))
        groups = []
        for key, units in by_sites.items():
            sites = [site for site, _ in key]
            filters = tuple(site for site in self.labels.outputs_of if site in sites)
            groups.append(
                Group(
                    tuple(units),
                    filters,
                    tuple(sorted(self.labels.scales.intersection(sites))),
                    tuple(dict.fromkeys(self.labels.outputs_of[site] for site in filters)),
                )
            )
        return tuple(group for group in groups if len(group.units) > 1)

    @cached_property
    def skipped(self) -> tuple[Skip, ...]:
        """The layers whose output channels stay, and why."""
        free = {unit.label for group in self.groups for unit in group.units}
        found = []
        for site, layer in self.labels.outputs_of.items():
            stuck = [root for root in self.labels.roots(self.labels.sites[site]).tolist() if root not in free]
            if stuck:
                reasons = (self.labels.pinned(root) for root in stuck)
                reason = next((r for r in reasons if r is not None), "all its channels depend on each other")
                total = len(self.labels.sites[site])
                found.append(
                    Skip(layer, reason if len(stuck) == total else f"{len(stuck)} of {total} channels: {reason}")
                )
        return tuple(dict.fromkeys(found))

    @cached_property
    def _products(self) -> list[tuple[int, Tensor | None, Tensor | None]]:
        roots = self.labels.roots
        return [
            (
                p.constant,
                None if p.inputs is None else roots(p.inputs),
                None if p.outputs is None else roots(p.outputs),
            )
            for p in self.labels.products
        ]

    def macs(self, removed: Collection[int] = ()) -> int:
        """Multiply-adds of the convolutions and products with weights on the example inputs, ``removed`` units gone."""
        gone = torch.tensor(sorted(removed), dtype=torch.int64)
        total = 0
        for constant, *sides in self._products:
            kept = (1 if side is None else len(side) - int(torch.isin(side, gone).sum()) for side in sides)
            total += constant * math.prod(kept)
        return total


def channels(graph: Graph, choices: Mapping[str, int] | None = None) -> Channels:
    """The channels of a traced network; ``choices`` as :func:`compress.prune.walk.walk` takes them."""
    return Channels(graph, walk(graph, choices))


def edits(model: nn.Module, removed: Collection[Unit]) -> tuple[Edit, ...]:
    """The edits that take ``removed`` out of ``model``: its tensors, then attributes of the modules that own them."""
    gone: dict[Site, set[int]] = defaultdict(set)
    for unit in removed:
        for site, indices in unit.cuts.items():
            gone[site].update(indices)
    tensors = dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers(remove_duplicate=False))
    shapes: dict[str, tuple[int, ...]] = {}
    found: list[Edit] = []
    for name, axis in sorted(gone):
        layer, _, what = name.rpartition(".")
        before = shapes.get(name) or tuple(tensors[name].shape)
        kept = tuple(index for index in range(before[axis]) if index not in gone[name, axis])
        shapes[name] = (*before[:axis], len(kept), *before[axis + 1 :])
        found.append(Edit(layer, what, before, shapes[name], "tensor", axis, kept))
    changed = {id(tensors[name]): shape for name, shape in shapes.items()}
    for layer, module in model.named_modules():
        own = {**module._parameters, **module._buffers}
        after = {what: changed[id(tensor)] for what, tensor in own.items() if id(tensor) in changed}
        if after:
            for what, value in attributes(module, after).items():
                if getattr(module, what) != value:
                    found.append(Edit(layer, what, getattr(module, what), value))
    return tuple(found)


def attributes(module: nn.Module, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
    """The attributes of ``module`` that follow from the new ``shapes`` of its tensors."""
    first = next(iter(shapes.values()))
    weight = shapes.get("weight")
    if isinstance(module, nn.modules.conv._ConvNd):
        if weight is None:
            return {}
        groups, transposed = module.groups, module.transposed
        depthwise = groups > 1 and groups == module.in_channels
        if depthwise:
            multiplier = module.out_channels // groups
            groups = weight[0] if transposed else weight[0] // multiplier
            return {"in_channels": groups, "out_channels": groups * multiplier, "groups": groups}
        if transposed:
            return {"in_channels": weight[0], "out_channels": weight[1] * groups}
        return {"in_channels": weight[1] * groups, "out_channels": weight[0]}
    if isinstance(module, nn.Linear):
        return {} if weight is None else {"out_features": weight[0], "in_features": weight[1]}
    if isinstance(module, nn.Embedding):
        return {} if weight is None else {"num_embeddings": weight[0], "embedding_dim": weight[1]}
    if isinstance(module, nn.modules.batchnorm._NormBase):
        return {"num_features": first[0]}
    if isinstance(module, nn.PReLU):
        return {"num_parameters": first[0]}
    return {}
