"""What every operation of a traced network yields on given inputs."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.fx import Interpreter, Node

from .trace import Graph


def values_of(graph: Graph, inputs: tuple[Tensor, ...]) -> dict[Node, object]:
    """What every node of ``graph`` yields on ``inputs``; a tensor is as it was before a later call changed it."""
    values: dict[Node, object] = {}

    class Kept(Interpreter):
        def run_node(self, n: Node) -> object:
            value = super().run_node(n)
            values[n] = value.clone() if isinstance(value, Tensor) else value
            return value

    with torch.no_grad():
        Kept(graph.program.graph_module, garbage_collect_values=False).run(*graph.arguments(inputs))
    return values
