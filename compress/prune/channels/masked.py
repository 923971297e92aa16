"""What pruning is held to: the network with the removed channels masked.

A masked channel is zero wherever a product or a sum consumes it, and absent wherever statistics are taken over channels
(layer normalization, a mean, a softmax): these are of the channels that are left.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor
from torch.fx import Interpreter, Node

from ...graph.trace import Graph, argument
from .labels import Labels


def masked_outputs(
    graph: Graph, labels: Labels, removed: Collection[int], inputs: tuple[Tensor, ...]
) -> tuple[Tensor, ...]:
    """The outputs of the traced network on ``inputs``, in order, with the channels ``removed`` masked.

    Args:
        removed: representatives (:meth:`Labels.find`) of the labels that are gone.
    """
    with torch.no_grad():
        outputs = _Masked(graph, labels, removed).run(*graph.arguments(inputs))
    return tuple(output for output in outputs if isinstance(output, Tensor))


class _Masked(Interpreter):
    """Runs a traced graph; what a node consumes of the removed channels is zero, or absent."""

    def __init__(self, graph: Graph, labels: Labels, removed: Collection[int]) -> None:
        super().__init__(graph.program.graph_module)
        self.labels = labels
        self.removed = labels.among(removed)

    def gone(self, labels: Tensor) -> Tensor:
        return self.removed[labels]

    def run_node(self, n: Node) -> Any:
        whole: dict[Node, Tensor] = {}
        for source, dim, labels in self.labels.consumed.get(n, ()):
            gone = self.gone(labels)
            if bool(gone.any()):
                value = self.env[source]
                whole.setdefault(source, value)
                shape = [-1 if d == dim else 1 for d in range(value.ndim)]
                self.env[source] = value.masked_fill(gone.view(shape).to(value.device), 0)
        absent = [(dim, self.gone(labels)) for dim, labels in self.labels.absent.get(n, ())]
        absent = [(dim, gone) for dim, gone in absent if bool(gone.any())]
        try:
            return self._without(n, absent) if absent else super().run_node(n)
        finally:
            for source, value in whole.items():
                if source in self.env:
                    self.env[source] = value

    def _without(self, n: Node, absent: list[tuple[int, Tensor]]) -> Any:
        """The node on the elements that are left; where a dimension remains, its absent elements are zero."""
        fetched, kwargs = self.fetch_args_kwargs_from_env(n)
        args: list[Any] = list(fetched)
        whole: Tensor = args[0]
        before = tuple(whole.shape)
        left = [(dim, torch.nonzero(~gone).flatten().to(whole.device)) for dim, gone in absent]
        for dim, present in left:
            args[0] = args[0].index_select(dim, present)
        name = str(n.target)
        for dim, present in left:
            if "layer_norm" in name or "rms_norm" in name:
                sizes = list(argument(n, "normalized_shape"))
                own = dim - whole.ndim + len(sizes)
                sizes[own] = len(present)
                args[1] = sizes
                for place in range(2, len(args)):
                    if isinstance(args[place], Tensor):
                        args[place] = args[place].index_select(own, present)
            elif "group_norm" in name:
                for place in range(1, len(args)):
                    if isinstance(args[place], Tensor):
                        args[place] = args[place].index_select(0, present)
                if "native" in name:
                    args[4] = len(present)
        result = n.target(*args, **kwargs)  # type: ignore[operator]
        if isinstance(result, (tuple, list)):
            return tuple(_spread(part, before, left) for part in result)
        return _spread(result, before, left)


def _spread(result: Tensor, before: tuple[int, ...], left: list[tuple[int, Tensor]]) -> Tensor:
    """``result`` in the shape that it has with all elements, the absent ones zero."""
    if result.ndim != len(before):
        return result
    for dim, present in left:
        if result.shape[dim] == len(present) != before[dim]:
            shape = (*result.shape[:dim], before[dim], *result.shape[dim + 1 :])
            result = result.new_zeros(shape).index_copy(dim, present, result)
    return result
