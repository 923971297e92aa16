"""Bit operations: multiply-adds times the bits of both factors, for products as engines really compute them.

A product of integers of m and k bits is m * k operations on bits (Zhou et al., "DoReFa-Net", 2016, equation 1: so many
ANDs and popcounts for each multiply-add); a float32 counts as 32 bits. Weights that are only stored in few bits are
multiplied as what they are restored to: as floats, or by 8-bit activations as 8-bit integers.
"""

from __future__ import annotations

from torch import nn
from torch.fx import Node

from ..graph.trace import Graph
from ..integers.plan import Plan
from ..rounding.inputs import ResidualSigns, Sign, Signs, Steps

FLOAT_BITS = 32
BYTE_BITS = 8


def operand_bits(graph: Graph, node: Node, planned: Plan | None) -> tuple[int, int]:
    """The bits of the weight and of the values that ``node`` multiplies; 32 of floats.

    Args:
        graph: a trace of the network.
        node: one of its calls.
        planned: the integers of the network, of any trace of it; None of a network in float.
    """
    layer = planned.of_nodes.get(node.name) if planned is not None else None
    if layer is None:
        return FLOAT_BITS, FLOAT_BITS
    if layer.read is not None:
        return max(BYTE_BITS, layer.encoding.bits), max(BYTE_BITS, layer.read.bits)
    weight, rounded = layer.encoding, _rounded_bits(_rounding(graph, node))
    bases = 0 if weight.levels is None else len(weight.levels[0])
    # Three levels are two planes of bits; a power of two, that of so many binary tensors.
    planes = 2 if bases == 3 else bases.bit_length() - 1 if bases and bases == 1 << (bases.bit_length() - 1) else 0
    if rounded is None or not planes:
        return FLOAT_BITS, FLOAT_BITS
    return planes, rounded


def _rounding(graph: Graph, node: Node) -> nn.Module | None:
    layer = graph.model.get_submodule(graph.layer(node))
    rounding = getattr(layer, "rounding", None)
    return rounding if isinstance(rounding, nn.Module) else None


def _rounded_bits(rounding: nn.Module | None) -> int | None:
    """The bits of each value that is multiplied, or None of floats; of several signs, one each."""
    if isinstance(rounding, Sign):
        return 1
    if isinstance(rounding, Signs | ResidualSigns):
        return len(rounding.factor)
    if isinstance(rounding, Steps) and rounding.low == 0:
        return int(rounding.high + 1).bit_length() - 1
    return None
