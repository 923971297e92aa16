"""Which rounded tensor of a network costs its outputs most, each tried alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Interpreter, Node

from compress.integers.encoding import Encoding
from compress.integers.simulate import simulate

aten = torch.ops.aten
ROUNDINGS = (aten.fake_quantize_per_tensor_affine.default, aten.fake_quantize_per_channel_affine.default)


def worst_tensor(
    model: nn.Module, encodings: Mapping[str, Encoding], calls: Sequence[tuple[Tensor, ...]], wanted: list[list[Any]]
) -> str:
    """The tensor whose rounding alone leaves the least of the worst output, and what that is, in words."""
    module = simulate(model, encodings, calls[0])
    left: dict[Node, float] = {}
    for node in [node for node in module.graph.nodes if node.target in ROUNDINGS]:
        alone = _Alone(module, node)
        with torch.no_grad():
            given = [outputs_of(alone.run(*call)) for call in calls]
        left[node] = worst_output(wanted, given)
    worst = min(left, key=left.__getitem__)
    rounded = worst.args[0]
    assert isinstance(rounded, Node), "what is rounded is the value of a node"
    of_weight = worst.target is ROUNDINGS[1]
    what = f"the weight of {_place(next(iter(worst.users)))}" if of_weight else f"the values of {_place(rounded)}"
    return f"{left[worst]:.1f} dB with nothing in integers but {what}"


class _Alone(Interpreter):
    """Runs a simulated network with a single one of its roundings."""

    def __init__(self, module: GraphModule, rounding: Node) -> None:
        super().__init__(module)
        self.extra_traceback = False
        self.rounding = rounding

    def run_node(self, n: Node) -> Any:
        if n.target in ROUNDINGS and n is not self.rounding:
            return self.fetch_args_kwargs_from_env(n)[0][0]
        return super().run_node(n)


def _place(node: Node) -> str:
    """The module and the operation of a node: "conv1 (conv2d)"."""
    stack = node.meta.get("nn_module_stack") or {}
    layer = [name for name, _ in stack.values()][-1:] or [""]
    operation = str(getattr(node.target, "_opname", node.name))
    return f"{layer[0]} ({operation})" if layer[0] else node.name


def outputs_of(result: Any) -> list[Any]:
    """What a network returns, as arrays in a list."""
    return [x.numpy() for x in (result if isinstance(result, (tuple, list)) else (result,))]


def worst_output(wanted: list[list[Any]], given: list[list[Any]]) -> float:
    """The signal of the worst output over its noise in dB, over all calls together.

    Args:
        wanted, given: the outputs of each call.
    """
    worst = np.inf
    for place in range(len(wanted[0])):
        signal = np.concatenate([np.ravel(each[place]).astype(np.float64) for each in wanted])
        error = signal - np.concatenate([np.ravel(each[place]).astype(np.float64) for each in given])
        worst = min(worst, 10 * np.log10(max((signal**2).sum(), 1e-30) / max((error**2).sum(), 1e-30)))
    return round(float(worst), 2)
