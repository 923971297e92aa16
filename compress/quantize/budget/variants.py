"""Many roundings of one network run on the same samples, each only from where it differs from the one before it."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor
from torch.fx import Interpreter, Node
from torch.fx.node import map_arg

from ...graph.trace import Graph
from ...integers.encoding import Encoding, IntegerParameters
from ...integers.plan import Integers, LayerPlan, plan_of
from ...integers.simulate import round_blocks
from ...integers.target import Target


@dataclass(frozen=True)
class Variant:
    """What is rounded: values by the names of their nodes, and what layers read instead of their weight and bias.

    ``tensors`` has for a layer's node what stands for each of its parameters, by the parameter's node; ``reads`` how a
    layer rounds by itself what it reads.
    """

    values: Mapping[str, IntegerParameters]
    tensors: Mapping[str, Mapping[str, Tensor]]
    reads: Mapping[str, IntegerParameters] = field(default_factory=dict)

    def differs(self, other: Variant) -> frozenset[str]:
        """The nodes at which this is not the same as ``other``."""
        names = set[str]()
        for mine, others in ((self.values, other.values), (self.reads, other.reads)):
            names |= {name for name in {*mine, *others} if mine.get(name) is not others.get(name)}
        for name in {*self.tensors, *other.tensors}:
            here, there = self.tensors.get(name, {}), other.tensors.get(name, {})
            if here.keys() != there.keys() or any(here[key] is not there[key] for key in here):
                names.add(name)
        return frozenset(names)


class Rounder:
    """Makes variants of one graph out of encodings, and the rounded weights once for all of them.

    What is rounded, and how, is what :func:`compress.integers.simulate.simulate` does with the same encodings.
    """

    def __init__(self, graph: Graph, target: Target) -> None:
        self.graph = graph
        self.target = target
        self._values: dict[tuple[object, ...], IntegerParameters] = {}
        self._tensors: dict[tuple[object, ...], dict[str, Tensor]] = {}

    def variant(self, encodings: Mapping[str, Encoding]) -> Variant:
        """The network rounded by these encodings, of some of its values and weights."""
        planned = plan_of(self.graph, encodings, self.target)
        values = {
            name: self._same(name, integers) for name, integers in planned.values.items() if name not in planned.fused
        }
        tensors, reads = dict[str, Mapping[str, Tensor]](), dict[str, IntegerParameters]()
        for each in planned.layers:
            name = each.layer.node.name
            if each.weight is None:
                continue
            key = (name, _key(each.weight), each.bias and _key(each.bias))
            if key not in self._tensors:
                self._tensors[key] = rounded_tensors(self.graph, each)
            tensors[name] = self._tensors[key]
            if self.target.products_only and each.read is not None:
                reads[name] = self._same(name, each.read)
        return Variant(values, tensors, reads)

    def _same(self, name: str, integers: Integers) -> IntegerParameters:
        """The one object that stands for such integers at a node, in all variants."""
        return self._values.setdefault((name, _key(integers)), integers.parameters)


def _key(integers: Integers) -> tuple[object, ...]:
    grid = integers.parameters
    return grid.scale.tobytes(), grid.zero_point.tobytes(), grid.low, grid.high


def rounded_tensors(graph: Graph, planned: LayerPlan) -> dict[str, Tensor]:
    """What a layer computes with in place of its weight and its bias, by the nodes of these arguments."""
    node, bias_node = planned.layer.node.args[1], planned.layer.bias_node
    weight, bias = graph.tensor(node), graph.tensor(bias_node)
    assert isinstance(node, Node) and weight is not None and planned.weight is not None, planned.layer.weight
    tensors = {node.name: on_grid(weight.detach(), planned.weight.parameters)}
    if bias is not None and bias_node is not None and planned.bias is not None:
        tensors[bias_node.name] = on_grid(bias.detach(), planned.bias.parameters)
    return tensors


def on_grid(tensor: Tensor, grid: IntegerParameters) -> Tensor:
    """``tensor`` (channels, ...) rounded to the nearest points of ``grid``, channel by channel or block by block."""
    scale = torch.from_numpy(grid.scale).to(tensor.device)
    zero = torch.zeros(len(scale), dtype=torch.int32, device=tensor.device)
    if grid.block is not None:
        return round_blocks(tensor, scale, zero, grid.block, grid.low, grid.high)
    return torch.fake_quantize_per_channel_affine(tensor, scale, zero, 0, grid.low, grid.high)


class Program(Interpreter):
    """Runs a graph as a variant of it."""

    def __init__(self, graph: Graph) -> None:
        super().__init__(graph.program.graph_module)
        self.traced = graph
        self.variant = Variant({}, {})
        self.arguments: Mapping[str, object] = {}
        self.order = [node for node in self.module.graph.nodes if node.op != "output"]  # type: ignore[union-attr]
        self.place = {node.name: place for place, node in enumerate(self.order)}
        self.results = [node.name for node in graph.outputs]
        self._last_uses: Mapping[Node, list[Node]] = self.user_to_last_uses

    @cached_property
    def _changes_in_place(self) -> bool:
        schemas = (getattr(node.target, "_schema", None) for node in self.order)
        return any(schema is not None and schema.is_mutable for schema in schemas)

    def outputs(
        self, inputs: tuple[Tensor, ...], base: Variant, variants: Sequence[Variant]
    ) -> Iterator[tuple[int | None, tuple[Tensor, ...]]]:
        """The network's results for each of ``variants``, by their places, and those for ``base``, at None.

        What a variant has in common with ``base``, up to where they part, is computed once.
        """
        parting: dict[int, list[int]] = {}
        for number, variant in enumerate(variants):
            places = [self.place[name] for name in variant.differs(base)]
            parting.setdefault(min(places, default=len(self.order)), []).append(number)
        placeholders = [node.name for node in self.order if node.op == "placeholder"]
        self.arguments = dict(zip(placeholders, self.traced.arguments(inputs), strict=True))
        shared: dict[Node, object] = {}
        for start in range(len(self.order) + 1):
            for number in parting.get(start, ()):
                yield number, self._run(self._own(shared), start, len(self.order), variants[number])
            if start < len(self.order):
                self._run(shared, start, start + 1, base)
        yield None, self._results(shared)

    def _run(self, values: dict[Node, object], start: int, stop: int, variant: Variant) -> tuple[Tensor, ...]:
        self.env, self.variant = values, variant
        for node in self.order[start:stop]:
            values[node] = self.run_node(node)
            for read in self._last_uses.get(node, ()):
                values.pop(read, None)
        return self._results(values) if stop == len(self.order) else ()

    def _results(self, values: Mapping[Node, object]) -> tuple[Tensor, ...]:
        by_name = {node.name: value for node, value in values.items() if isinstance(value, Tensor)}
        return tuple(by_name[name] for name in self.results)

    def _own(self, shared: Mapping[Node, object]) -> dict[Node, object]:
        """A copy that running on from leaves ``shared`` as it is: views of one tensor stay views of one."""
        values = dict(shared)
        if self._changes_in_place:
            computed = [node for node in values if node.op != "placeholder" or node in self.traced.inputs]
            copies = copy.deepcopy([values[node] for node in computed])
            values.update(zip(computed, copies, strict=True))
        return values

    def run_node(self, n: Node) -> object:
        own = self.variant.tensors.get(n.name)
        value: object
        if n.op == "placeholder":
            value = self.arguments[n.name]
        elif own is None:
            value = super().run_node(n)
        else:
            read = self.variant.reads.get(n.name)
            args, kwargs = map_arg((n.args, n.kwargs), lambda node: own.get(node.name, self.env[node]))
            if read is not None:
                value = args[0]
                assert isinstance(value, Tensor), n.name
                args = (_rounded(value, read), *args[1:])
            value = self.call_function(n.target, args, kwargs)
        rounding = self.variant.values.get(n.name)
        if rounding is None:
            return value
        assert isinstance(value, Tensor), n.name
        return _rounded(value, rounding)


def _rounded(value: Tensor, grid: IntegerParameters) -> Tensor:
    """``value`` rounded with the one scale of ``grid``."""
    return torch.fake_quantize_per_tensor_affine(value, float(grid.scale), int(grid.zero_point), grid.low, grid.high)
