"""Bit operations: multiply-adds times the bits of both factors, for products as engines really compute them.

A product of integers of m and k bits is m * k operations on bits (Zhou et al., "DoReFa-Net", 2016, equation 1: so many
ANDs and popcounts for each multiply-add); a float32 counts as 32 bits. Weights that are only stored in few bits are
multiplied as what they are restored to: as floats, or by 8-bit activations as 8-bit integers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import nn
from torch.fx import Node

from .graph import Graph, argument
from .integers.placement import PRODUCTS, source_of
from .rounding.inputs import ResidualSigns, Sign, Signs, Steps

if TYPE_CHECKING:
    from .integers.encoding import Encoding

FLOAT_BITS = 32
BYTE_BITS = 8


def operand_bits(graph: Graph, node: Node, encodings: Mapping[str, Encoding]) -> tuple[int, int]:
    """The bits of the weight and of the values that ``node`` multiplies; 32 of floats."""
    if node.target not in PRODUCTS:
        return FLOAT_BITS, FLOAT_BITS
    weight = encodings.get(graph.tensor_name(argument(node, "weight")) or "")
    source = source_of(argument(node, "input"))
    read = encodings.get(source.name) if source is not None else None
    if weight is None or weight.restored:
        return FLOAT_BITS, FLOAT_BITS
    if read is not None:
        return (max(BYTE_BITS, weight.bits), max(BYTE_BITS, read.bits)) if weight.kind != "float16" else (16, 16)
    rounded = _rounded_bits(_rounding(graph, node))
    bases = 0 if weight.levels is None else len(weight.levels[0])
    # Three levels are two planes of bits; a power of two, that of so many binary tensors.
    planes = 2 if bases == 3 else bases.bit_length() - 1 if bases and bases == 1 << (bases.bit_length() - 1) else 0
    if rounded is None or not planes:
        return FLOAT_BITS, FLOAT_BITS
    return planes, rounded


def _rounding(graph: Graph, node: Node) -> nn.Module | None:
    layer = graph.model.get_submodule(graph.layer(node))
    found = getattr(layer, "rounding", None)
    return found if isinstance(found, nn.Module) else None


def _rounded_bits(rounding: nn.Module | None) -> int | None:
    """The bits of each value that is multiplied, or None of floats; of several signs, one each."""
    if isinstance(rounding, Sign):
        return 1
    if isinstance(rounding, Signs | ResidualSigns):
        return len(rounding.factor)
    if isinstance(rounding, Steps) and rounding.low == 0:
        return int(rounding.high + 1).bit_length() - 1
    return None
