"""Recurrent layers as modules again: pnnx knows ``nn.LSTM`` and its like, and not the operations of their traces."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from compress.errors import InvalidInput
from compress.graph.trace import Graph, argument

aten = torch.ops.aten
RECURRENT: dict[object, tuple[type[nn.RNNBase], dict[str, Any]]] = {
    aten.lstm.input: (nn.LSTM, {}),
    aten.gru.input: (nn.GRU, {}),
    aten.rnn_tanh.input: (nn.RNN, {"nonlinearity": "tanh"}),
    aten.rnn_relu.input: (nn.RNN, {"nonlinearity": "relu"}),
}
ZEROS = frozenset({aten.zeros.default, aten.zeros_like.default, aten.new_zeros.default})


def restore_recurrent(module: GraphModule, graph: Graph, path: Path) -> int:
    """Call modules in the place of the recurrent operations of ``module``, in place; returns how many there are.

    Args:
        graph: that ``module`` was made of, for the lines of the user's code.

    Raises:
        InvalidInput: a layer starts from a state that is not zero, for which these files have no place.
    """
    traced = {node.name: node for node in graph.calls(*RECURRENT)}
    count = 0
    for node in list(module.graph.nodes):
        if node.op != "call_function" or node.target not in RECURRENT:
            continue
        states = argument(node, "hx")
        states = states if isinstance(states, (list, tuple)) else [states]
        if not all(isinstance(state, Node) and state.target in ZEROS for state in states):
            where = graph.source(traced[node.name]) if node.name in traced else node.name
            raise InvalidInput(
                f"export {path}: ncnn: a recurrent layer starts from a state of its own ({where}); let it start from "
                "zeros, or choose another --format"
            )
        name = f"recurrent_{count}"
        module.add_module(name, _layer(module, node))
        with module.graph.inserting_before(node):
            called = module.graph.call_module(name, (argument(node, "input"),))
            output = module.graph.call_function(_getitem, (called, 0))
        _connect(module, node, called, output)
        count += 1
    if count:
        module.graph.eliminate_dead_code()
        module.graph.lint()
        module.recompile()
    return count


def _getitem(values: Any, place: int) -> Any:
    return values[place]


def _connect(module: GraphModule, node: Node, called: Node, output: Node) -> None:
    """Let what reads the operation's results (output, hidden state, cell state) read the module's."""
    for item in list(node.users):
        place = cast(int, item.args[1])
        if place == 0:
            item.replace_all_uses_with(output)
            continue
        with module.graph.inserting_before(item):
            state = module.graph.call_function(_getitem, (called, 1))
            if node.target is aten.lstm.input:
                state = module.graph.call_function(_getitem, (state, place - 1))
        item.replace_all_uses_with(state)


def _layer(module: GraphModule, node: Node) -> nn.RNNBase:
    """The module that computes what ``node`` does, with its weights."""
    kind, settings = RECURRENT[node.target]
    weights = [_tensor(module, cast(Node, each)) for each in cast(list[Any], argument(node, "params"))]
    recurrent = weights[1]
    layer = kind(
        input_size=weights[0].shape[1],
        hidden_size=recurrent.shape[1],
        num_layers=argument(node, "num_layers"),
        bias=argument(node, "has_biases"),
        bidirectional=argument(node, "bidirectional"),
        batch_first=argument(node, "batch_first"),
        **settings,
    )
    for flat, values in zip((name for names in layer._all_weights for name in names), weights, strict=True):
        getattr(layer, flat).data = values.detach().clone()
    return layer.eval()


def _tensor(module: GraphModule, node: Node) -> Tensor:
    owner, _, name = str(node.target).rpartition(".")
    tensor = getattr(module.get_submodule(owner), name)
    assert isinstance(tensor, Tensor), node
    return tensor
