"""Many roundings of one network run on the same samples, each only from where it differs from the one before it."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.fx import Interpreter, Node
from torch.fx.node import map_arg

from ..graph import Graph
from ..integers.encoding import Encoding, IntegerParameters
from ..integers.placement import IntegerLayer
from ..integers.target import Target, bias_parameters
from .simulate import round_blocks


@dataclass(frozen=True)
class Variant:
    """What is rounded: values by the names of their nodes, and what products read instead of their weight and bias.

    ``tensors`` has for a product's node what stands for each of its arguments, by the argument's node.
    """

    values: Mapping[str, IntegerParameters]
    tensors: Mapping[str, Mapping[str, Tensor]]

    def differs(self, other: Variant) -> frozenset[str]:
        """The nodes at which this is not the same as ``other``."""
        found = {name for name in {*self.values, *other.values} if self.values.get(name) is not other.values.get(name)}
        for name in {*self.tensors, *other.tensors}:
            here, there = self.tensors.get(name, {}), other.tensors.get(name, {})
            if here.keys() != there.keys() or any(here[key] is not there[key] for key in here):
                found.add(name)
        return frozenset(found)


class Rounder:
    """Makes variants of one graph out of encodings, and the rounded weights once for all of them.

    What is rounded, and how, is what :func:`compress.quantize.simulate` does with the same encodings.
    """

    def __init__(self, graph: Graph, products: Sequence[IntegerLayer], engine: Target) -> None:
        self.graph = graph
        self.products = products
        self.engine = engine
        self._values: dict[tuple[str, Encoding], IntegerParameters] = {}
        self._tensors: dict[tuple[str, str, Encoding, Encoding | None], dict[str, Tensor]] = {}

    def variant(self, encodings: Mapping[str, Encoding]) -> Variant:
        """The network rounded by these encodings, of some of its values and weights."""
        values = {node.name: self._value(node, encodings) for node in self.graph.nodes if node.name in encodings}
        tensors = {p.node.name: self._rounded(p, encodings) for p in self.products if p.weight in encodings}
        return Variant(values, tensors)

    def _value(self, node: Node, encodings: Mapping[str, Encoding]) -> IntegerParameters:
        key = (node.name, encodings[node.name])
        if key not in self._values:
            self._values[key] = self.engine.activation_parameters(encodings[node.name])
        return self._values[key]

    def _rounded(self, product: IntegerLayer, encodings: Mapping[str, Encoding]) -> dict[str, Tensor]:
        encoding, read = encodings[product.weight], encodings.get(product.read)
        key = (product.node.name, product.weight, encoding, read)
        if key not in self._tensors:
            self._tensors[key] = rounded_tensors(self.graph, product, encoding, read, self.engine)
        return self._tensors[key]


def rounded_tensors(
    graph: Graph, product: IntegerLayer, encoding: Encoding, read: Encoding | None, engine: Target
) -> dict[str, Tensor]:
    """What ``product`` computes with in place of its weight and its bias, by the nodes of these arguments.

    Args:
        read: of what the product reads, where that is in integers.
    """
    weight_node = product.node.args[1]
    weight, bias = graph.tensor(weight_node), graph.tensor(product.bias_node)
    assert isinstance(weight_node, Node) and weight is not None, product.weight
    scale = None if read is None else float(engine.activation_parameters(read).scale)
    rounds_bias = bias is not None and engine.rounds_bias(read)
    grid = engine.weight_parameters(
        encoding, scale, bias.detach().float().cpu().numpy() if bias is not None and rounds_bias else None
    )
    found = {weight_node.name: _on_grid(weight.detach(), grid)}
    if bias is not None and product.bias_node is not None and rounds_bias and scale is not None:
        found[product.bias_node.name] = _on_grid(bias.detach(), bias_parameters(scale, grid))
    return found


def _on_grid(tensor: Tensor, grid: IntegerParameters) -> Tensor:
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
        self.given: Mapping[str, object] = {}
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
        self.given = dict(zip(placeholders, self.traced.arguments(inputs), strict=True))
        shared: dict[Node, object] = {}
        for start in range(len(self.order) + 1):
            for number in parting.get(start, ()):
                yield number, self._run(self._own(shared), start, len(self.order), variants[number])
            if start < len(self.order):
                self._run(shared, start, start + 1, base)
        yield None, self._found(shared)

    def _run(self, values: dict[Node, object], start: int, stop: int, variant: Variant) -> tuple[Tensor, ...]:
        self.env, self.variant = values, variant
        for node in self.order[start:stop]:
            values[node] = self.run_node(node)
            for read in self._last_uses.get(node, ()):
                values.pop(read, None)
        return self._found(values) if stop == len(self.order) else ()

    def _found(self, values: Mapping[Node, object]) -> tuple[Tensor, ...]:
        found = {node.name: value for node, value in values.items() if isinstance(value, Tensor)}
        return tuple(found[name] for name in self.results)

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
            value = self.given[n.name]
        elif own is None:
            value = super().run_node(n)
        else:
            args, kwargs = map_arg((n.args, n.kwargs), lambda node: own.get(node.name, self.env[node]))
            value = self.call_function(n.target, args, kwargs)
        rounding = self.variant.values.get(n.name)
        if rounding is None:
            return value
        assert isinstance(value, Tensor), n.name
        return torch.fake_quantize_per_tensor_affine(
            value, float(rounding.scale), int(rounding.zero_point), rounding.low, rounding.high
        )
