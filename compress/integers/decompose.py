"""Activation functions written as operations that engines have in integers.

- hard sigmoid (Howard et al., "Searching for MobileNetV3" (2019), section 5.2): ``clip(x + 3, 0, 6) / 6``. Rounding
  clips by itself, the division only gives the integers another scale, and behind a convolution the 3 joins its bias.
- hard swish: ``x`` times its hard sigmoid.
- SiLU: ``x`` times its sigmoid, which engines take from a table of 256 entries.

The nodes that are added are named after the one that was there: ``<name>_gate`` is what is encoded.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.fx import Node

from ..graph.trace import Graph

aten = torch.ops.aten

HARD_SIGMOID = frozenset({aten.hardsigmoid.default, aten.hardsigmoid_.default})
HARD_SWISH = frozenset({aten.hardswish.default, aten.hardswish_.default})
SILU = frozenset({aten.silu.default, aten.silu_.default})


def gate(node: Node) -> str:
    """The name of the value that opens and closes, once ``node`` is decomposed."""
    return f"{node.name}_gate"


def decompose(graph: Graph, wanted: Callable[[Node], bool]) -> int:
    """Write the activation functions that are ``wanted`` as sums, clips and products, in place; returns how many."""
    activations = [node for node in graph.calls(*HARD_SIGMOID, *HARD_SWISH, *SILU) if wanted(node)]
    for node in activations:
        x = node.args[0]
        if node.target in SILU:
            opened = _before(graph, node, gate(node), aten.sigmoid.default, x)
        else:
            shifted = _before(graph, node, f"{node.name}_shifted", aten.add.Tensor, x, 3.0)
            opened = _before(graph, node, gate(node), aten.clamp.default, shifted, 0.0, 6.0)
        if node.target in HARD_SWISH:
            opened = _before(graph, node, f"{node.name}_scaled", aten.mul.Tensor, opened, 1 / 6)
        node.args = (opened, 1 / 6) if node.target in HARD_SIGMOID else (x, opened)
        node.target = aten.mul.Tensor
        node.kwargs = {}
    if activations:
        graph.program.graph.lint()
        graph.program.graph_module.recompile()
    return len(activations)


def is_shift(node: Node) -> bool:
    """Whether ``node`` adds a number."""
    if node.target not in (aten.add.Tensor, aten.add_.Tensor) or isinstance(node.args[1], Node):
        return False
    return bool(node.kwargs.get("alpha", 1) == 1)


def is_scaling(node: Node) -> bool:
    """Whether ``node`` multiplies by a positive number: its integers are those of what it reads, in another scale."""
    if node.target not in (aten.mul.Tensor, aten.mul_.Tensor):
        return False
    factor = node.args[1]
    return isinstance(factor, (int, float)) and factor > 0


def _before(graph: Graph, node: Node, name: str, target: Callable[..., object], *args: object) -> Node:
    """A call of an elementwise ``target`` in front of ``node``, with its shape, its layer and its line of source."""
    with graph.program.graph.inserting_before(node):
        made: Node = graph.program.graph.create_node("call_function", target, args, {}, name)
    made.meta = dict(node.meta)
    return made
