"""What pruning is held to: the network with the removed channels forced to zero wherever a weight consumes them."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor
from torch.fx import Interpreter, Node

from ..graph import Graph
from .labels import Labels


def masked_outputs(
    graph: Graph, labels: Labels, removed: Collection[int], inputs: tuple[Tensor, ...]
) -> tuple[Tensor, ...]:
    """The outputs of the traced network on ``inputs``, in order, with the channels ``removed`` masked to zero.

    Args:
        removed: representatives (:meth:`Labels.find`) of the labels that are gone.
    """
    arguments: list[Any] = []
    remaining = list(inputs)
    for node in graph.nodes:
        if node.op == "placeholder":
            tensor = graph.tensor(node)
            arguments.append(remaining.pop(0) if tensor is None else tensor)
    with torch.no_grad():
        outputs = _Masked(graph, labels, removed).run(*arguments)
    return tuple(output for output in outputs if isinstance(output, Tensor))


class _Masked(Interpreter):
    """Runs a traced graph; before a node consumes removed channels, they are set to zero."""

    def __init__(self, graph: Graph, labels: Labels, removed: Collection[int]) -> None:
        super().__init__(graph.program.graph_module)
        self.labels = labels
        self.removed = torch.tensor(sorted(removed), dtype=torch.int64)

    def run_node(self, n: Node) -> Any:
        found = self.labels.consumed.get(n)
        source = n.args[found[0]] if found is not None else None
        if found is None or not isinstance(source, Node):
            return super().run_node(n)
        _, dim, labels = found
        gone = torch.isin(self.labels.roots(labels), self.removed)
        whole = self.env[source]
        shape = [-1 if d == dim else 1 for d in range(whole.ndim)]
        self.env[source] = whole.masked_fill(gone.view(shape).to(whole.device), 0)
        try:
            return super().run_node(n)
        finally:
            if source in self.env:
                self.env[source] = whole
