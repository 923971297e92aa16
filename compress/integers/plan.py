"""The plan of a network's integers for one target: decided once, and read by all that rounds, writes, trains or counts.

Encodings say which real values the integers of a tensor span; a target says which integers its engine wants. The plan
is what follows from both for one traced network: the scale, zero point and type of every tensor that becomes integers,
the layers that multiply them, and why the others compute in floats.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor, nn
from torch.fx import Node

from ..core.edit import Skip
from ..graph.trace import Graph, argument, trace
from .encoding import Encoding, Integer, IntegerParameters
from .grids import weight_encoding
from .placement import (
    SUMS,
    IntegerLayer,
    encoded_placement,
    integers_of_levels,
    pools_in_one_scale,
    ranges_in_one_scale,
)
from .target import Target, bias_parameters, require_products, target_named

aten = torch.ops.aten


@dataclass(frozen=True)
class Integers:
    """The integers that one tensor becomes.

    Args:
        parameters: scale, zero point and bounds.
        dtype: the type that holds them.
        axis: of a parameter: its output channels; None of activations, which have one scale.
    """

    parameters: IntegerParameters
    dtype: Integer | Literal["int32"]
    axis: int | None = None

    @property
    def bits(self) -> int:
        """How many bits the type of a value has."""
        return int(self.dtype.lstrip("uint"))

    @property
    def scale(self) -> float:
        """The one scale of an activation."""
        return float(self.parameters.scale)


@dataclass(frozen=True)
class LayerPlan:
    """What one convolution or linear layer with an encoded weight computes with.

    Args:
        layer: where it stands in the graph.
        encoding: of its weight; few levels that are multiplied by integers are integers themselves.
        levels: these levels, as they were given.
        read: the integers that it reads; None where it multiplies floats.
        weight: the integers of its weight; None where that is stored in shorter floats or as codes of levels alone, or
            where the engine computes the layer in floats.
        bias: the integers of its bias, where that is rounded.
        reason: why it multiplies floats, in words; "" where it multiplies integers.
    """

    layer: IntegerLayer
    encoding: Encoding
    levels: Encoding | None = None
    read: Integers | None = None
    weight: Integers | None = None
    bias: Integers | None = None
    reason: str = ""


@dataclass(frozen=True)
class Plan:
    """The integers of one network in one target.

    Args:
        graph: the traced network, in which activation functions whose parts are encoded are decomposed.
        target: whose integers these are.
        encodings: that they follow from, as given: by the names of parameters, and of nodes of the graph.
        values: the integers of every activation that is rounded where it is made, by the name of its node, in the order
            in which they are computed. Empty for engines in which each layer rounds what it reads by itself.
        layers: the layers whose weights are encoded, in the order in which they run.
        ranges: for each activation the name of the node whose range it shares, mostly its own.
        operations: the names of the nodes, other than layers, that compute in integers: sums, products, poolings.
        fused: of ``values`` those that the engine does not round: a sum that reads them is computed before.
        floats: what stays in float and why, in words.
    """

    graph: Graph
    target: Target
    encodings: Mapping[str, Encoding]
    values: Mapping[str, Integers] = field(default_factory=dict)
    layers: tuple[LayerPlan, ...] = ()
    ranges: Mapping[str, str] = field(default_factory=dict)
    operations: frozenset[str] = frozenset()
    fused: frozenset[str] = frozenset()
    floats: tuple[Skip, ...] = ()

    @cached_property
    def of_nodes(self) -> Mapping[str, LayerPlan]:
        """The plan of each layer, by the name of its node."""
        return {each.layer.node.name: each for each in self.layers}

    def shares(self, one: str, other: str) -> bool:
        """Whether two activations become integers of the same scale and zero point."""
        if one not in self.values or other not in self.values:
            return False
        first, second = self.values[one].parameters, self.values[other].parameters
        return bool(first.scale == second.scale and first.zero_point == second.zero_point)

    @cached_property
    def grids(self) -> Mapping[str, IntegerParameters]:
        """The integers and scales of each weight that is rounded to integers, by its name.

        A weight that several layers read gets the largest of their scales, so that all of them round it alike.
        """
        grids_of: dict[str, IntegerParameters] = {}
        for each in self.layers:
            if each.weight is not None and each.levels is None:
                own, known = each.weight.parameters, grids_of.get(each.layer.weight)
                grids_of[each.layer.weight] = own if known is None else own.largest(known)
        return grids_of

    def settled(self) -> dict[str, Encoding]:
        """The encodings, where the range of a weight alone gives the scales that are deployed, be they raised.

        Engines whose bias is an integer raise the scale of a channel so that its bias fits.
        """
        return self.with_weights(self.grids if self.target.per_channel else {})

    def with_weights(self, grids: Mapping[str, IntegerParameters]) -> dict[str, Encoding]:
        """The encodings, with ranges of weights of which the target makes these grids, by the names of the weights."""
        multiplied = {each.layer.weight for each in self.layers if each.read is not None}
        changed = {
            name: weight_encoding(grid, self.encodings[name], self.target, multiplies_integers=name in multiplied)
            for name, grid in grids.items()
        }
        return {**self.encodings, **changed}

    def require_products(self) -> None:
        """Refuse weights that the engine cannot multiply by integer activations.

        Raises:
            InvalidInput: they have 4 bits, and the engine wants 8.
        """
        require_products(self.target, [each.encoding for each in self.layers if each.layer.read in self.encodings])


def plan(
    network: nn.Module, example_inputs: tuple[Tensor, ...], encodings: Mapping[str, Encoding], target: str
) -> Plan:
    """The plan of ``network``, traced on inputs of these shapes.

    Args:
        encodings: of the network, as the stage Quantize finds them; none plans a network in float.
        target: the engine and processor, by name.

    Raises:
        InvalidInput: there is no such target, the network cannot be traced, the encodings are not of this network, or
            the engine has no integers that wide.
    """
    wanted = target_named(target)
    return plan_of(trace(network, example_inputs, dynamic_batch=True), encodings, wanted)


def plan_of(graph: Graph, encodings: Mapping[str, Encoding], target: Target) -> Plan:
    """The plan of a network that is traced already; activation functions are decomposed in ``graph`` where needed.

    Raises:
        InvalidInput: the encodings are not of this network, or the engine has no integers that wide.
    """
    if not encodings:
        return Plan(graph, target, {})
    placement = encoded_placement(graph, encodings)
    integers, ranges = integers_of_levels(encodings, placement.products), placement.measured
    if target.pools_in_one_scale:
        integers = pools_in_one_scale(graph, integers)
        ranges = ranges_in_one_scale(graph, ranges, integers)
    values = {node.name: _rounded(integers[node.name], target) for node in graph.nodes if node.name in encodings}
    layers = tuple(_layer(graph, product, encodings, integers, values, target) for product in placement.products)
    operations = frozenset(name for name, at in placement.operations.items() if at in values)
    return Plan(
        graph,
        target,
        dict(encodings),
        {} if target.products_only else values,
        layers,
        ranges,
        frozenset() if target.products_only else operations,
        _fused_into_sums(graph, layers) if target.fuses_sums else frozenset(),
        tuple(dict.fromkeys((*placement.skipped, *(Skip(e.layer.layer, e.reason) for e in layers if e.reason)))),
    )


def _rounded(encoding: Encoding, target: Target) -> Integers:
    """The integers of an activation."""
    return Integers(target.activation_parameters(encoding), target.activation_type(encoding))


def _layer(
    graph: Graph,
    product: IntegerLayer,
    network_encodings: Mapping[str, Encoding],
    encodings: Mapping[str, Encoding],
    values: Mapping[str, Integers],
    target: Target,
) -> LayerPlan:
    """What ``product`` computes with.

    Args:
        network_encodings: the encodings of the network.
        encodings: the same, of what is really multiplied.
        values: the integers of all activations that are encoded.
    """
    encoding = encodings[product.weight]
    levels = network_encodings[product.weight] if network_encodings[product.weight] is not encoding else None
    reason = _reason(product, encoding, values, target)
    if encoding.kind != "integer" or (reason and target.products_only):
        return LayerPlan(product, encoding, reason=reason)
    read = values.get(product.read)
    bias = graph.tensor(product.bias_node) if target.rounds_bias(encodings.get(product.read)) else None
    weight = target.weight_parameters(
        encoding,
        None if read is None else read.scale,
        None if bias is None else bias.detach().float().cpu().numpy(),
        groups_of(product.node),
    )
    rounded = None
    if bias is not None and read is not None:
        rounded = Integers(bias_parameters(read.scale, weight), "int32", 0)
    stored = Integers(weight, "int4" if encoding.bits <= 4 else "int8", 0)
    return LayerPlan(product, encoding, levels, read, stored, rounded, reason)


def _reason(product: IntegerLayer, encoding: Encoding, values: Mapping[str, Integers], target: Target) -> str:
    """Why ``product`` multiplies floats, in words; "" where it multiplies integers."""
    if encoding.restored:
        return f"kept in float: its weight, stored in {encoding.stored}, is restored where the file is loaded"
    if encoding.kind != "integer":
        return f"kept in float: its weight is stored in {encoding.stored}"
    if product.read not in values:
        return f"kept in float: what it reads is; its weight is stored in {encoding.stored}"
    if target.products_only and not multiplies_integers(product.node):
        return f"kept in float: {target.name} has integers for 2-d convolutions and linear layers of vectors only"
    if target.float_depthwise and is_depthwise(product.node):
        return f"kept in float: depthwise convolutions are faster so in {target.name}"
    return ""


def multiplies_integers(node: Node) -> bool:
    """Whether an engine that has integers for products only has them for ``node``: over planes, or of vectors."""
    rank = node.all_input_nodes[0].meta["val"].ndim
    planes = node.target in (aten.conv2d.default, aten.conv2d.padding)
    return rank == 4 if planes else node.target is aten.linear.default and rank == 2


def is_depthwise(node: Node) -> bool:
    """Whether ``node`` is a convolution of each input channel by itself."""
    return bool(1 < groups_of(node) == node.all_input_nodes[0].meta["val"].shape[1])


def groups_of(node: Node) -> int:
    """The number of groups of a convolution; 1 of a linear layer."""
    return 1 if node.target is aten.linear.default else int(argument(node, "groups"))


def _fused_into_sums(graph: Graph, layers: Iterable[LayerPlan]) -> frozenset[str]:
    """The convolutions whose results are summed up before they are rounded: the first that each sum alone reads."""
    alone = {each.layer.node.name for each in layers if each.read is not None and len(each.layer.node.users) == 1}
    firsts = (next((x.name for x in node.all_input_nodes if x.name in alone), None) for node in graph.calls(*SUMS))
    return frozenset(name for name in firsts if name is not None)
