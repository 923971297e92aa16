"""The tensors of a quantized network that can be given more bits, and the encodings that follow."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, field, replace

from torch.fx import Node

from ...graph.trace import Graph
from ...integers.decompose import gate, is_scaling, is_shift
from ...integers.encoding import Encoding
from ...integers.keys import keys_of
from ...integers.placement import CLIPS, MOVES, NOTHING, PRODUCTS, IntegerLayer, without_layers
from ...integers.plan import Plan
from ...integers.target import Target
from ..scheme import SCHEMES


@dataclass(frozen=True)
class Rounded:
    """A weight, or values that share a range: what gets its bits back as one.

    Args:
        name: for people: of the parameter, or of the value where the range was measured.
        names: of the encodings.
        layers: with weights, that make or read it: they compute in float once it is in float.
        operations: others that do, by the names of their nodes.
        is_weight: whether it is a parameter.
    """

    name: str
    names: frozenset[str]
    layers: frozenset[str]
    operations: frozenset[str] = frozenset()
    is_weight: bool = False


@dataclass(frozen=True)
class Roundings:
    """All that is rounded in a network.

    Args:
        plan: of the network in the integers of the target, everything in those of the scheme.
        tensors: in the order in which they are computed, weights last.
        stored: the weights as they were before roundings were learnt, in 8 bits, by name, of those that have fewer.
        widens: whether values may have 16 bits.
    """

    plan: Plan
    tensors: tuple[Rounded, ...]
    stored: Mapping[str, Encoding] = field(default_factory=dict)
    widens: bool = False

    @property
    def graph(self) -> Graph:
        """What is computed."""
        return self.plan.graph

    def widened(self, tensor: Rounded) -> dict[str, Encoding] | None:
        """The encodings of ``tensor`` in twice the bits; None where there are none but floats."""
        encodings = {name: self.plan.encodings[name] for name in tensor.names}
        if tensor.is_weight:
            wider = {name: self.stored[name] for name in tensor.names if name in self.stored}
            return wider or None
        if not self.widens or any(encoding.bits > 8 for encoding in encodings.values()):
            return None
        return {name: replace(encoding, bits=16) for name, encoding in encodings.items()}

    def floats_of(self, tensors: Iterable[Rounded]) -> tuple[frozenset[str], frozenset[str]]:
        """The layers and the operations that compute in float where ``tensors`` are in float."""
        layers, operations = set[str](), set[str]()
        for tensor in tensors:
            layers |= tensor.layers
            operations |= tensor.operations
        return frozenset(layers), frozenset(operations)

    def encodings(self, floats: Iterable[Rounded], wider: Iterable[Rounded] = ()) -> dict[str, Encoding]:
        """The encodings with some tensors in float, and others in more bits.

        Weights of layers that compute in float because of a value stay stored in as few bits, and are restored at load.
        """
        floats = tuple(floats)
        encodings = dict(self.plan.encodings)
        for tensor in wider:
            encodings |= self.widened(tensor) or {}
        layers, operations = self.floats_of(floats)
        gone = frozenset[str]().union(*(tensor.names for tensor in floats))
        left = without_layers(self.graph, encodings, layers, operations)
        for product in (each.layer for each in self.plan.layers):
            if product.layer in layers and encodings[product.weight].kind == "integer":
                left[product.weight] = replace(encodings[product.weight], restored=True)
        return {name: encoding for name, encoding in left.items() if name not in gone}

    def in_integers(self, encodings: Mapping[str, Encoding]) -> bool:
        """Whether anything of what the scheme is for is left: a layer that multiplies integers, or a stored weight."""
        layers = [each.layer for each in self.plan.layers]
        if any(product.read in self.plan.encodings for product in layers):
            return any(
                product.read in encodings and product.weight in encodings and not encodings[product.weight].restored
                for product in layers
            )
        return any(product.weight in encodings for product in layers)


def roundings_of(plan: Plan, unrounded: Mapping[str, Encoding], target: Target, *, widens: bool) -> Roundings:
    """What ``plan`` rounds.

    Args:
        unrounded: encodings in 8 bits of weights that have fewer.
        target: whose integers they are.
        widens: whether values may have 16 bits, if the target's engine has them.
    """
    values = tuple(_values(plan))
    weights: dict[str, list[IntegerLayer]] = {}
    for each in plan.layers:
        weights.setdefault(each.layer.weight, []).append(each.layer)
    stored = tuple(
        Rounded(name, frozenset({name}), frozenset(product.layer for product in products), is_weight=True)
        for name, products in weights.items()
    )
    return Roundings(plan, (*values, *stored), unrounded, widens and target.wide_products)


def wider_weights(plan: Plan, per_channel: bool) -> dict[str, Encoding]:
    """Encodings in 8 bits of the weights of ``plan`` that have fewer, by name."""
    scheme = SCHEMES["int8"]
    wider = {}
    for each in plan.layers:
        encoding, weight = plan.encodings[each.layer.weight], plan.graph.tensor(each.layer.node.args[1])
        if encoding.kind == "integer" and encoding.bits < 8 and weight is not None:
            wider[each.layer.weight] = scheme.weight_encoding(each.layer.weight, weight, per_channel=per_channel)
    return wider


def _values(plan: Plan) -> Iterator[Rounded]:
    """The values that are encoded, those of one range together."""
    graph, nodes = plan.graph, {node.name: node for node in plan.graph.nodes}
    keys = keys_of(graph)
    families = _families(nodes)
    layers = {each.layer.node.name: each.layer.layer for each in plan.layers}
    at_of = {name: plan.ranges.get(name, name) for name in nodes if name in plan.encodings}
    together: dict[str, set[str]] = {}
    for name, at in at_of.items():
        together.setdefault(at, set()).update(families.get(name, {name}) & at_of.keys())
    for at, names in _joined(together):
        around = {node for name in names for node in (*_makers(nodes[name]), *_readers(nodes[name]))}
        own = frozenset(layers[node.name] for node in around if node.name in layers)
        others = frozenset(node.name for node in around if node.target not in PRODUCTS)
        others |= frozenset(name for each in others for name in families.get(each, ()))
        yield Rounded(keys.get(at, at), frozenset(names), own, others)


def _joined(together: Mapping[str, Set[str]]) -> Iterator[tuple[str, set[str]]]:
    """Groups that have a name in common, as one, under the name of the first."""
    groups: list[tuple[str, set[str]]] = []
    for at, names in together.items():
        common = [group for group in groups if group[1] & names]
        groups = [group for group in groups if group not in common]
        groups.append((common[0][0] if common else at, set(names).union(*(group[1] for group in common))))
    yield from groups


def _families(nodes: Mapping[str, Node]) -> dict[str, frozenset[str]]:
    """For each part of an activation function that was decomposed, all of its parts."""
    families: dict[str, frozenset[str]] = {}
    for node in nodes.values():
        if gate(node) in nodes:
            parts = (f"{node.name}_shifted", gate(node), f"{node.name}_scaled", node.name)
            family = frozenset(part for part in parts if part in nodes)
            families |= dict.fromkeys(family, family)
    return families


def _makers(node: Node) -> Iterator[Node]:
    """What computes the values of ``node``, past clipping and moving."""
    while node.op == "call_function" and (node.target in CLIPS | MOVES | NOTHING or is_shift(node)):
        source = node.args[0] if node.args else None
        if not isinstance(source, Node):
            return
        node = source
    if node.op == "call_function":
        yield node


def _readers(node: Node) -> Iterator[Node]:
    """What computes with the values of ``node``, past what does nothing and past numbers that they are multiplied by.

    What moves them has encodings of its own.
    """
    for user in node.users:
        if user.target in NOTHING or is_scaling(user):
            yield from _readers(user)
        elif user.op == "call_function" and user.target not in MOVES:
            yield user
