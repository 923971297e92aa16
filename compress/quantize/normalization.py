"""Batch norms that could not be folded, as depthwise convolutions, which engines have in integers.

In evaluation mode a batch norm is ``scale * x + shift`` per channel (Ioffe and Szegedy, 2015, algorithm 2): a depthwise
convolution of 1x1 with a bias. Its weights have one value per channel, so rounding them per channel is exact. Networks
that normalize what they concatenate or add (DenseNet, pre-activation ResNets) run in integers throughout only so.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.fx import Node

from ..edits import replay
from ..fold import affine
from ..graph.trace import argument, trace
from ..integers.placement import CLIPS, JOINS, MOVES, POOLS, PRODUCTS, source_of
from ..stage import Edit

aten = torch.ops.aten


def use_depthwise(network: nn.Module, example_inputs: tuple[Tensor, ...], exclude: Iterable[str] = ()) -> list[Edit]:
    """Replace batch norms of (N, C, H, W) behind values that run in integers, in place; returns the edits.

    Those that are called more than once, have no fixed statistics, or match a pattern in ``exclude`` stay.
    """
    if not any(isinstance(module, nn.BatchNorm2d) for module in network.modules()):
        return []
    graph = trace(network, example_inputs)
    calls: dict[str, list[Node]] = {}
    for node in graph.calls(aten.batch_norm.default):
        calls.setdefault(graph.layer(node), []).append(node)
    edits = []
    for layer, nodes in calls.items():
        module = network.get_submodule(layer)
        if len(nodes) != 1 or not isinstance(module, nn.BatchNorm2d):
            continue
        if not _follows_integers(nodes[0]) or any(fnmatch.fnmatchcase(layer, pattern) for pattern in exclude):
            continue
        edit = Edit(layer, "module", type(module).__name__, "Conv2d", "module")
        scale_and_shift = affine(graph, nodes[0])
        if isinstance(scale_and_shift, str):
            continue
        scale, shift = scale_and_shift
        replay(network, [edit])
        convolution = network.get_submodule(layer)
        assert isinstance(convolution, nn.Conv2d) and convolution.bias is not None
        with torch.no_grad():
            convolution.weight.copy_(scale.view(-1, 1, 1, 1))
            convolution.bias.copy_(shift)
        convolution.eval()
        edits.append(edit)
    return edits


def _follows_integers(node: Node) -> bool:
    source = source_of(argument(node, "input"))
    return source is not None and source.target in JOINS | POOLS | PRODUCTS | CLIPS | MOVES
