"""Kinds of operations that engines run by pattern, to be tried in integers or in float as a whole.

Whether a sum, a concatenation or a gate gains by integers depends on what the engine fuses: the integers around it cost
conversions where nothing is fused, and floats between integers cost them where it would be. Which is faster only the
clock tells, and it tells it of the kind rather than of one: engines treat those of one kind alike.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch.fx import Node

from ..graph.trace import Graph
from ..integers.decompose import gate, is_scaling, is_shift
from ..integers.placement import CURVES, POOLS, SUMS, Placement
from ..integers.plan import is_depthwise

aten = torch.ops.aten

PRODUCTS_OF_VALUES = frozenset({aten.mul.Tensor, aten.mul_.Tensor})


@dataclass(frozen=True)
class Group:
    """All operations of one kind.

    Args:
        name: of the kind, in the plural.
        layers: with weights, by name.
        operations: others, by the names of their nodes.
        places: the layers that they are of, for people.
    """

    name: str
    layers: frozenset[str]
    operations: frozenset[str]
    places: tuple[str, ...]


def groups_of(graph: Graph, placement: Placement) -> tuple[Group, ...]:
    """The kinds that a network has in integers, the operations first.

    Args:
        graph: whose activation functions are decomposed where their parts are encoded.
        placement: what is in integers.
    """
    nodes = {node.name: node for node in graph.nodes}
    inside = {name: nodes[name] for name in placement.operations}
    gates = _gates(nodes)
    plain = [node for name, node in inside.items() if name not in gates]
    kinds = {
        "sums": [node for node in plain if node.target in SUMS and not is_shift(node)],
        "concatenations": [node for node in plain if node.target is aten.cat.default],
        "poolings": [node for node in plain if node.target in POOLS],
        "products of activations": [n for n in plain if n.target in PRODUCTS_OF_VALUES and not is_scaling(n)],
        "activation functions": [*(nodes[name] for name in gates), *(n for n in plain if n.target in CURVES)],
    }
    groups = [_of_operations(graph, name, members) for name, members in kinds.items()]
    layers = [product for product in placement.products if product.read]
    depthwise = [product.layer for product in layers if is_depthwise(product.node)]
    ends = [product.layer for product in (*layers[:1], *layers[-1:])]
    groups += [_of_layers("depthwise convolutions", depthwise), _of_layers("first and last layers", ends)]
    return tuple(group for group in groups if group.layers or group.operations)


def _gates(nodes: dict[str, Node]) -> dict[str, None]:
    """The names of the parts of activation functions that were decomposed, and of what they yield."""
    names: dict[str, None] = {}
    for node in nodes.values():
        if gate(node) in nodes:
            parts = (f"{node.name}_shifted", gate(node), f"{node.name}_scaled", node.name)
            names |= dict.fromkeys(part for part in parts if part in nodes)
    return names


def _of_operations(graph: Graph, name: str, nodes: Iterable[Node]) -> Group:
    members = tuple(nodes)
    places = dict.fromkeys(graph.layer(node) for node in members)
    return Group(name, frozenset(), frozenset(node.name for node in members), tuple(places))


def _of_layers(name: str, layers: Iterable[str]) -> Group:
    places = tuple(dict.fromkeys(layers))
    return Group(name, frozenset(places), frozenset(), places)
