"""Which channels can go, and with what: groups of units, found by following labels through the traced graph."""

from __future__ import annotations

import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from ...graph.trace import Graph
from ...stage import Edit, Skip
from .labels import Labels, Site
from .walk import walk


@dataclass(frozen=True, eq=False)
class Unit:
    """Channels that go together: ``cuts`` are the indices to cut on each dimension of each parameter and buffer."""

    label: int
    row: int
    sites: Mapping[Site, Tensor]

    @property
    def cuts(self) -> dict[Site, tuple[int, ...]]:
        """The indices that the unit takes on each dimension of each parameter and buffer."""
        return {site: tuple(indices[self.row].tolist()) for site, indices in self.sites.items()}


@dataclass(frozen=True, eq=False)
class Group:
    """Units that are cut on the same dimensions, as the 64 channels of a residual stage: these compete.

    Args:
        labels: (units,) of the units, in the order of their indices.
        sites: for each dimension, (units, k) the k indices that each unit takes there.
        filters: the dimensions whose slices are the filters that produce the units.
        scales: the dimensions of the normalization scales of the units.
        layers: the layers whose output channels the units are.
    """

    labels: Tensor
    sites: Mapping[Site, Tensor]
    filters: tuple[Site, ...]
    scales: tuple[Site, ...]
    layers: tuple[str, ...]

    @cached_property
    def units(self) -> tuple[Unit, ...]:
        """The units of the group, in the order of their labels; the channels of one go or stay together."""
        return tuple(Unit(label, row, self.sites) for row, label in enumerate(self.labels.tolist()))

    @property
    def width(self) -> int:
        """Channels of the layers: the number of units times the channels that one unit takes."""
        return len(self.labels) * self.per_unit

    @property
    def per_unit(self) -> int:
        """Channels that one unit takes: more than 1 in grouped convolutions and shuffles."""
        return min(int(self.sites[site].shape[1]) for site in (self.filters or tuple(self.sites)))


@dataclass(frozen=True)
class Channels:
    """The channels of a network: what can be cut, what cannot and why, and what the multiply-adds would be."""

    graph: Graph
    labels: Labels
    repaired: Mapping[str, frozenset[str]]

    @cached_property
    def groups(self) -> tuple[Group, ...]:
        """What can be cut, in the order of the layers."""
        sites = list(self.labels.sites)
        sizes = torch.tensor([len(self.labels.sites[site]) for site in sites], dtype=torch.int64)
        if not sites:
            return ()
        roots = torch.cat([self.labels.roots(self.labels.sites[site]) for site in sites])
        site_of = torch.repeat_interleave(torch.arange(len(sites)), sizes)
        index = torch.arange(len(roots)) - torch.repeat_interleave(sizes.cumsum(0) - sizes, sizes)
        free = self.labels.free
        pairs, counts = torch.unique(roots * len(sites) + site_of, return_counts=True)
        free[pairs[counts == sizes[pairs % len(sites)]] // len(sites)] = False  # a layer does not lose all that it has
        # Units of one group have the same number of indices on the same dimensions: equal sums of random numbers.
        mark = torch.randint(2**62, (len(sites),), generator=torch.Generator().manual_seed(0))
        marks = torch.zeros(len(free), dtype=torch.int64).index_add_(0, roots, mark[site_of])
        movable = free[roots]
        roots, site_of, index = roots[movable], site_of[movable], index[movable]
        _, member = torch.unique(marks[roots], return_inverse=True)
        order = _lexicographic(member, site_of, roots)  # the indices are in order
        member, site_of, roots, index = member[order], site_of[order], roots[order], index[order]
        groups = []
        for block in _runs(member):
            labels = torch.unique(roots[block])
            if len(labels) > 1:
                parts = {
                    sites[int(site_of[block][run][0])]: index[block][run].view(len(labels), -1)
                    for run in _runs(site_of[block])
                }
                groups.append(self._group(labels, parts))
        place = {site: position for position, site in enumerate(sites)}
        return tuple(sorted(groups, key=lambda group: min(place[site] for site in group.sites)))

    def _group(self, labels: Tensor, sites: Mapping[Site, Tensor]) -> Group:
        filters = tuple(site for site in self.labels.outputs_of if site in sites)
        scales = tuple(sorted(self.labels.scales.intersection(sites)))
        layers = tuple(dict.fromkeys(self.labels.outputs_of[site] for site in filters))
        return Group(labels, sites, filters, scales, layers)

    @cached_property
    def skipped(self) -> tuple[Skip, ...]:
        """The layers whose output channels stay, and why."""
        free = torch.cat([torch.zeros(0, dtype=torch.int64), *(group.labels for group in self.groups)])
        skips = []
        for site, layer in self.labels.outputs_of.items():
            roots = self.labels.roots(self.labels.sites[site])
            stuck = roots[~torch.isin(roots, free)].tolist()
            if stuck:
                reasons = (self.labels.pinned(root) for root in stuck)
                reason = next((r for r in reasons if r is not None), "all its channels depend on each other")
                total = len(self.labels.sites[site])
                skips.append(
                    Skip(layer, reason if len(stuck) == total else f"{len(stuck)} of {total} channels: {reason}")
                )
        return tuple(dict.fromkeys(skips))

    def macs(self, removed: Collection[int] = ()) -> int:
        """Multiply-adds of the convolutions and products with weights on the example inputs, ``removed`` units gone."""
        stays = ~self.labels.among(removed)
        total = 0
        for product in self.labels.products:
            sides = (product.inputs, product.outputs)
            total += product.constant * math.prod(1 if side is None else int(stays[side].sum()) for side in sides)
        return total

    def edits(self, removed: Collection[Unit]) -> tuple[Edit, ...]:
        """The edits that take ``removed`` out of the network: its tensors, then attributes of modules that follow."""
        model = self.graph.model
        indices_left = {}
        for (name, axis), indices in _indices(removed).items():
            left = torch.ones(len(self.labels.sites[name, axis]), dtype=torch.bool)
            left[indices] = False
            indices_left[name, axis] = tuple(torch.nonzero(left).flatten().tolist())
        sizes = self._sizes({unit.label for unit in removed})
        repairs = {
            layer: self._repairs(layer, module, sizes[layer])
            for layer, module in model.named_modules()
            if layer in sizes
        }
        return tensor_edits(model, indices_left, repairs)

    def _sizes(self, removed: Collection[int]) -> dict[str, dict[int, int]]:
        """By layer: the sizes that its code names, and what they are with ``removed`` gone."""
        gone = self.labels.among(removed)
        changed: dict[str, dict[int, int]] = defaultdict(dict)
        for sized in self.labels.sized:
            after = sized.size - int(gone[sized.labels].sum())
            if after != sized.size:
                changed[sized.layer].setdefault(sized.size, after)
        return changed

    def _repairs(self, layer: str, module: nn.Module, sizes: Mapping[int, int]) -> dict[str, object]:
        """The attributes of ``module`` that hold one of ``sizes``, and what they have to hold."""
        names = self.repaired.get(type(module).__name__)
        repairs: dict[str, object] = {}
        for name, value in vars(module).items() if sizes else ():
            if name.startswith("_") or (names is not None and name not in names):
                continue
            if isinstance(value, int) and not isinstance(value, bool) and value in sizes:
                repairs[name] = sizes[value]
            elif isinstance(value, (list, tuple)) and any(type(v) is int and v in sizes for v in value):
                repairs[name] = type(value)(sizes.get(v, v) if type(v) is int else v for v in value)
        return repairs

    def doubtful(self, removed: Collection[Unit]) -> dict[str, frozenset[str]]:
        """Of :meth:`repairable`, the attributes of which a module has several with one value: some may mean others."""
        sizes = self._sizes({unit.label for unit in removed})
        attributes_of: dict[str, frozenset[str]] = {}
        for layer, module in self.graph.model.named_modules():
            repairs = self._repairs(layer, module, sizes.get(layer, {}))
            values = Counter(str(getattr(module, name)) for name in repairs)
            names = frozenset(name for name in repairs if values[str(getattr(module, name))] > 1)
            if names:
                kind = type(module).__name__
                attributes_of[kind] = attributes_of.get(kind, frozenset()) | names
        return attributes_of

    def repairable(self, removed: Collection[Unit]) -> dict[str, frozenset[str]]:
        """By class of module, the attributes that :meth:`edits` would set because a size in the code has changed."""
        sizes = self._sizes({unit.label for unit in removed})
        attributes_of: dict[str, frozenset[str]] = {}
        for layer, module in self.graph.model.named_modules():
            names = frozenset(self._repairs(layer, module, sizes.get(layer, {})))
            if names:
                kind = type(module).__name__
                attributes_of[kind] = attributes_of.get(kind, frozenset()) | names
        return attributes_of


def tensor_edits(
    model: nn.Module,
    indices_left: Mapping[Site, tuple[int, ...]],
    repairs: Mapping[str, Mapping[str, object]] | None = None,
) -> tuple[Edit, ...]:
    """The edits that leave ``indices_left`` of each dimension, in that order; then the attributes that follow.

    Args:
        repairs: by layer, attributes besides those of torch's own layers.
    """
    tensors = dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers(remove_duplicate=False))
    shapes: dict[str, tuple[int, ...]] = {}
    edits: list[Edit] = []
    for name, axis in sorted(indices_left):
        layer, _, what = name.rpartition(".")
        before = shapes.get(name) or tuple(tensors[name].shape)
        shapes[name] = (*before[:axis], len(indices_left[name, axis]), *before[axis + 1 :])
        edits.append(Edit(layer, what, before, shapes[name], "tensor", axis, indices_left[name, axis]))
    changed = {id(tensors[name]): shape for name, shape in shapes.items()}
    for layer, module in model.named_modules():
        own = {**module._parameters, **module._buffers}
        here = {what: changed[id(tensor)] for what, tensor in own.items() if id(tensor) in changed}
        after = {**(repairs or {}).get(layer, {}), **(attributes(module, here) if here else {})}
        for what, value in after.items():
            if getattr(module, what) != value:
                edits.append(Edit(layer, what, getattr(module, what), value))
    return tuple(edits)


def _indices(removed: Collection[Unit]) -> dict[Site, Tensor]:
    """The indices that ``removed`` take on each dimension."""
    rows: dict[int, tuple[Mapping[Site, Tensor], list[int]]] = {}
    for unit in removed:
        rows.setdefault(id(unit.sites), (unit.sites, []))[1].append(unit.row)
    indices_of: dict[Site, list[Tensor]] = defaultdict(list)
    for sites, units in rows.values():
        for site, indices in sites.items():
            indices_of[site].append(indices[units].flatten())
    return {site: torch.cat(parts) for site, parts in indices_of.items()}


def _lexicographic(*keys: Tensor) -> Tensor:
    """The order by the first key, then the second, ..."""
    order = torch.arange(len(keys[0]))
    for key in reversed(keys):
        order = order[torch.argsort(key[order], stable=True)]
    return order


def _runs(values: Tensor) -> list[slice]:
    """Where equal neighbours begin and end."""
    if not len(values):
        return []
    ends = [0, *(torch.nonzero(values[1:] != values[:-1]).flatten() + 1).tolist(), len(values)]
    return [slice(a, b) for a, b in itertools.pairwise(ends)]


def channels(
    graph: Graph,
    choices: Mapping[str, int] | None = None,
    repaired: Mapping[str, frozenset[str]] | None = None,
    training: Graph | None = None,
) -> Channels:
    """The channels of a traced network; ``choices`` as :func:`compress.prune.channels.walk.walk` takes them.

    Args:
        repaired: by class of module, the attributes that follow the sizes in its code (all that have such a value).
        training: the graph of the network in training mode, where that uses more of it.
    """
    labels = walk(graph, choices)
    if training is not None:
        products = list(labels.products)
        walk(training, choices, labels)
        labels.products[:] = products
    for name in (graph if training is None else training).unused:
        for (parameter, axis), site_labels in labels.sites.items():
            if parameter == name:
                labels.pin(site_labels, "no operation uses it")
                labels.outputs_of.setdefault((name, axis), name.rpartition(".")[0])
    return Channels(graph, labels, repaired or {})


def attributes(module: nn.Module, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, object]:
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
    if isinstance(module, (nn.LayerNorm, nn.RMSNorm)):
        return {"normalized_shape": first}
    if isinstance(module, nn.GroupNorm):
        return {"num_channels": first[0]}
    if isinstance(module, nn.MultiheadAttention):
        wide = shapes.get("in_proj_weight", shapes.get("q_proj_weight"))
        values: dict[str, object] = {} if wide is None else {"embed_dim": wide[1]}
        for name, projection in (("kdim", "k_proj_weight"), ("vdim", "v_proj_weight")):
            shape = shapes.get("in_proj_weight", shapes.get(projection))
            values |= {} if shape is None else {name: shape[1]}
        return values
    return {}
