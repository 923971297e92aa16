"""Criteria of activations: the traced network run on a few batches, with running means where channels come out.

Functions count as modules do, because what is watched are nodes of the graph.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Interpreter, Node

from ...errors import InvalidInput
from ...graph.trace import Graph, argument, shape_of, trace
from ...stage import Context
from ..channels.labels import Site
from .samples import BATCH, sample_batches

Statistic = Callable[[Tensor, int], Tensor]
"""Of a value and the dimension of its channels: (channels,)."""

_KEEPING = (
    *("batch_norm", "instance_norm", "dropout", "feature_dropout", "alpha_dropout", "pad", "constant_pad_nd"),
    *("clone", "contiguous", "to", "_to_copy", "alias", "detach"),
)
"""Operations whose channels are those of their input, besides the pointwise ones, pooling and resizing."""


@dataclass(frozen=True)
class Place:
    """Where the slices of a site come out: ``indices[s]`` of dimension ``dim`` of a node's value are those of slice s.

    Args:
        indices: (slices, channels of a slice); more than one where a transposed convolution has groups.
    """

    node: Node
    dim: int
    indices: Tensor


def outputs(
    graph: Graph, tensors: Mapping[str, Tensor], sites: Collection[Site], *, rectifiers: bool = False
) -> dict[Site, list[Place]]:
    """Where to look for each site, none where there is nothing to see: the outputs of its layer, or of the rectifier
    that follows each (``rectifiers``). A layer that is called several times has as many places.
    """
    readers = readers_of(graph, {id(tensors[name]): name for name, _ in sites})
    places: dict[Site, list[Place]] = {}
    for site in sites:
        of_layer = [_output(node, tensors[site[0]], site[1]) for node in readers.get(site[0], ())]
        made = [place for place in of_layer if place is not None]
        if rectifiers:
            made = [after for after in (rectified(graph, place) for place in made) if after is not None]
        places[site] = made
    return places


def activation_means(
    model: nn.Module,
    tensors: Mapping[str, Tensor],
    sites: Collection[Site],
    context: Context,
    batches: int,
    *,
    criterion: str,
    statistic: Statistic,
    rectifiers: bool = False,
) -> dict[Site, Tensor]:
    """The mean ``statistic`` of the slices at each site that has a place to look at, float64 on the CPU, averaged over
    samples.

    Args:
        tensors: the parameters and buffers of ``model`` that ``sites`` name.
        batches: of 32 samples.
        criterion: what messages call it.
        rectifiers: look after the rectifier that follows a layer, and not at its outputs.

    Raises:
        InvalidInput: no data, or a network that cannot be traced on it.
    """
    next(sample_batches(context, criterion, 1, 1))  # samples that do not fit are refused before the trace
    graph = trace(model, context.example_inputs, dynamic_batch=True)
    fixed = fixed_batch(graph)  # before the shapes are read as numbers, which fixes them
    where = outputs(graph, tensors, sites, rectifiers=rectifiers)
    watched = {(place.node, place.dim) for places in where.values() for place in places}
    means = _means(graph, watched, criterion, statistic, context, batches, fixed)
    return {
        site: torch.stack([means[place.node, place.dim][place.indices].mean(1) for place in places]).mean(0)
        for site, places in where.items()
        if places
    }


def rectified(graph: Graph, place: Place) -> Place | None:
    """The nearest rectifier (an activation that yields zeros) downstream of a place, or None. Normalization, pooling,
    sums and concatenation may lie between; a layer with weights may not.
    """
    reached = {place.node: place}
    for node in graph.nodes:
        sources = [source for source in node.all_input_nodes if source in reached]
        if node.op != "call_function" or node in reached or not sources:
            continue
        before = reached[sources[0]]
        if node.target is not operator.getitem and _is_rectifier(node):
            return Place(node, before.dim, before.indices)
        after = _passed(node, sources[0], before)
        if after is not None:
            reached[node] = after
    return None


def _passed(node: Node, source: Node, before: Place) -> Place | None:
    """``before``, where ``node`` hands its channels on."""
    value = node.meta.get("val")
    if not isinstance(value, Tensor) or value.ndim != len(shape_of(source)):
        return None
    name = _operation(node)
    if name in ("cat", "concat", "concatenate"):
        if argument(node, "dim") % value.ndim != before.dim:
            return Place(node, before.dim, before.indices)
        operands = list(node.args[0])  # type: ignore[arg-type]
        offset = sum(shape_of(operand)[before.dim] for operand in operands[: operands.index(source)])
        return Place(node, before.dim, before.indices + offset)
    pointwise = torch.Tag.pointwise in getattr(node.target, "tags", ())
    keeping = pointwise or name in _KEEPING or "pool" in name or "upsample" in name
    if keeping and shape_of(node)[before.dim] == shape_of(source)[before.dim]:
        return Place(node, before.dim, before.indices)
    return None


def _is_rectifier(node: Node) -> bool:
    name = _operation(node)
    if name in ("hardtanh", "clamp", "clamp_min"):
        return bool(argument(node, "min_val" if name == "hardtanh" else "min") == 0)
    return name in ("relu", "relu6", "hardswish", "threshold")


def _operation(node: Node) -> str:
    """ "relu" for aten.relu_.default."""
    return str(node.target).removeprefix("aten.").split(".")[0].removesuffix("_")


def readers_of(graph: Graph, names: Mapping[int, str]) -> dict[str, list[Node]]:
    """For each parameter (by its identity), the nodes in which it meets values that depend on the inputs."""
    origins: dict[Node, frozenset[str]] = {}
    readers: dict[str, list[Node]] = {}
    for node in graph.nodes:
        if node.op == "placeholder":
            tensor = graph.tensor(node)
            if tensor is not None:
                origins[node] = frozenset({names[id(tensor)]} if id(tensor) in names else ())
        elif node.op == "call_function" and node.all_input_nodes:
            known = frozenset[str]().union(*(origins.get(source, ()) for source in node.all_input_nodes))
            if all(source in origins for source in node.all_input_nodes):
                origins[node] = known  # computed from parameters alone, as a transposed weight
                continue
            for name in known:
                readers.setdefault(name, []).append(node)
    return readers


def _output(node: Node, weight: Tensor, axis: int) -> Place | None:
    """Where the slices of ``weight`` along ``axis`` come out of ``node``; None where no dimension has such channels."""
    if not isinstance(node.meta.get("val"), Tensor):
        return None
    shape, count = shape_of(node), weight.shape[axis]
    dim = len(shape) - (weight.ndim - 1) if "conv" in _operation(node) else len(shape) - 1
    if dim < 0 or shape[dim] % count:
        return None
    channels = torch.arange(shape[dim])
    # Transposed convolutions: with groups, filter i makes channel i of each; depthwise, input i makes neighbours.
    return Place(node, dim, channels.view(count, -1) if axis == 0 else channels.view(-1, count).T)


class _Watching(Interpreter):
    """Runs a traced graph and adds up the means of the watched nodes, by channel and weighted by samples."""

    def __init__(self, graph: Graph, watched: Collection[tuple[Node, int]], statistic: Statistic) -> None:
        super().__init__(graph.program.graph_module)
        self.dims: dict[Node, list[int]] = {}
        for node, dim in watched:
            self.dims.setdefault(node, []).append(dim)
        self.statistic = statistic
        self.totals: dict[tuple[Node, int], Tensor] = {}
        self.samples = 1

    def run_node(self, n: Node) -> Any:
        value = super().run_node(n)
        for dim in self.dims.get(n, ()):
            seen = self.samples * self.statistic(value, dim).cpu()
            if not bool(torch.isfinite(seen).all()):
                raise InvalidInput(f"prune: activations are not finite (NaN or infinity) at {n.name}")
            self.totals[n, dim] = self.totals[n, dim] + seen if (n, dim) in self.totals else seen
        return value


def _means(
    graph: Graph,
    watched: Collection[tuple[Node, int]],
    criterion: str,
    statistic: Statistic,
    context: Context,
    batches: int,
    fixed: int | None,
) -> dict[tuple[Node, int], Tensor]:
    running = _Watching(graph, watched, statistic)
    seen = 0
    with torch.no_grad():
        for inputs in _inputs(context, criterion, batches, fixed):
            values_of_inputs = dict(zip(graph.inputs, inputs, strict=True))
            running.samples = len(inputs[0])
            running.run(
                *(values_of_inputs.get(node, graph.tensor(node)) for node in graph.nodes if node.op == "placeholder")
            )
            seen += running.samples
    return {key: total / seen for key, total in running.totals.items()}


def _inputs(context: Context, criterion: str, batches: int, fixed: int | None) -> Iterator[tuple[Tensor, ...]]:
    """Batches of inputs; of ``fixed`` size, where the network runs on that one only, the last filled up with the first
    of its samples.
    """
    total = batches if fixed is None else max(1, batches * BATCH // fixed)
    for inputs, _ in sample_batches(context, criterion, total, fixed or BATCH):
        if fixed is None or len(inputs[0]) == fixed:
            yield inputs
        else:
            times = -(-fixed // len(inputs[0]))
            yield tuple(x.repeat(times, *(1 for _ in x.shape[1:]))[:fixed] for x in inputs)


def fixed_batch(graph: Graph) -> int | None:
    """The batch size, where the trace holds for that one only."""
    size = graph.inputs[0].meta["val"].shape[0]
    number: int | None = size.node.maybe_as_int() if isinstance(size, torch.SymInt) else int(size)
    return number
