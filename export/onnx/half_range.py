"""Values that float16 does not hold, found before a file in float16 is written."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.fx import Interpreter, Node

from compress.graph.trace import Graph

LARGEST = float(torch.finfo(torch.float16).max)
NAMED = 5


class _Peaks(Interpreter):
    """Runs a traced network in its own precision and keeps the largest magnitude of each node's values."""

    def __init__(self, graph: Graph) -> None:
        super().__init__(graph.program.graph_module)
        self.peaks: dict[Node, float] = {}

    def run_node(self, n: Node) -> object:
        value = super().run_node(n)
        if isinstance(value, Tensor) and value.is_floating_point() and value.numel():
            low, high = torch.aminmax(value)
            self.peaks[n] = max(abs(float(low)), abs(float(high)))
        return value


def beyond_half(graph: Graph, inputs: tuple[Tensor, ...]) -> list[str]:
    """A note where weights, or values on these inputs, are beyond what float16 holds: there they become infinite.

    Args:
        inputs: of the network, as many samples as there are.
    """
    program = _Peaks(graph)
    with torch.no_grad():
        program.run(*graph.arguments(inputs))
    found = [
        f"{graph.tensor_name(node) or graph.layer(node) or node.name} ({peak:.3g})"
        for node, peak in program.peaks.items()
        if not peak <= LARGEST
    ]
    if not found:
        return []
    more = f" and {len(found) - NAMED} more" if len(found) > NAMED else ""
    return [
        f"float16: {len(found)} tensors go beyond {LARGEST:.0f} on the example inputs and become infinite: "
        f"{', '.join(found[:NAMED])}{more}; scale them, or keep their layers in float32"
    ]
