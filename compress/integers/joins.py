"""Concatenations near the end of a network, as of boxes and scores: what they join, and whether one scale suits it."""

from __future__ import annotations

import torch
from torch.fx import Node

from ..graph.trace import Graph
from .decompose import is_scaling
from .placement import CLIPS, MOVES, NOTHING, PRODUCTS, Placement, source_of

CAT = torch.ops.aten.cat.default


def joins(graph: Graph, placement: Placement) -> dict[str, tuple[str, ...]]:
    """The concatenations in integers that no convolution or linear layer reads: the names of their nodes, and of the
    values that each joins.

    What a layer multiplies has one scale anyway; what is only returned, or computed with in floats, needs none.
    """
    found = {}
    for node in graph.calls(CAT):
        items = node.args[0]
        if node.name in placement.operations and not _feeds_products(node):
            assert isinstance(items, (tuple, list)), "a concatenation is of several"
            sources = (source_of(item) for item in items)
            found[node.name] = tuple(source.name for source in sources if source is not None)
    return found


def _feeds_products(node: Node) -> bool:
    """Whether a layer multiplies the values of ``node``, perhaps moved, clipped, scaled or joined with others."""
    return any(
        user.target in PRODUCTS
        or ((user.target in MOVES | NOTHING | CLIPS | {CAT} or is_scaling(user)) and _feeds_products(user))
        for user in node.users
    )
