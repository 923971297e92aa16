"""Which layer of a network a part of its ONNX file belongs to: nodes as an engine names them, and stored bytes."""

from __future__ import annotations

import re
from collections.abc import Iterable

import onnx

from compress.clock import Part

from .edits.rewrite import rename

FOLLOWERS = frozenset({"Relu", "Clip", "Sigmoid", "HardSigmoid", "HardSwish", "LeakyRelu", "Add", "Mul"})
"""Operations that engines fuse into what comes before, or that have no weights: part of it."""


def name_parts(graph: onnx.GraphProto) -> dict[str, set[str]]:
    """The layers of each part of a file: of an operation with weights and of what follows it, which engines fuse.

    Nodes and values are named ``layer:<part>:<number>``, a name that survives whatever the engine does to them.
    """
    interface = {value.name for value in (*graph.input, *graph.output)}
    order = {node.output[0]: number for number, node in enumerate(graph.node)}
    heads: dict[str, str] = {}
    parts: dict[str, set[str]] = {}
    names: dict[str, str] = {}
    for number, node in enumerate(graph.node):
        layer = re.sub(r"/[A-Z]\w*$", "", node.name)
        read = [name for name in node.input if name in heads]
        follows = node.op_type in FOLLOWERS or not layer
        head = heads[max(read, key=order.__getitem__)] if follows and read else layer
        if not head:
            continue
        heads[node.output[0]] = head
        if not layer:
            continue
        parts.setdefault(head, set()).add(layer)
        node.name = f"layer:{head}:{number}"
        if node.output[0] not in interface:
            names[node.output[0]] = node.name
    rename(graph, names)
    return parts


def parts_of(names: Iterable[tuple[str, bool, float]], layers: dict[str, set[str]]) -> tuple[Part, ...]:
    """What each part of a file takes in ms, in the order in which they run.

    Args:
        names: of each node that ran, as :func:`name_parts` left them; whether it computes; and its ms. What nodes take
            that only convert or move data counts for the part that they lead to.
        layers: of each part.
    """
    taken: dict[str, float] = {}
    waiting = 0.0
    for name, computes, ms in names:
        named = re.match(r"layer:(.*):\d+", name)
        if not computes or named is None:
            waiting += ms
            continue
        taken[named[1]] = taken.get(named[1], 0.0) + ms + waiting
        waiting = 0.0
    return tuple(Part((part, *sorted(layers[part] - {part})), ms) for part, ms in taken.items())


def stored_bytes(graph: onnx.GraphProto) -> int:
    """Of all tensors that are stored."""
    return sum(_size(tensor) for tensor in graph.initializer)


def bytes_by_layer(graph: onnx.GraphProto) -> dict[str, int]:
    """Bytes of the stored tensors that the nodes of one layer alone read, be it through nodes that belong to none."""
    owners: dict[str, set[str]] = {}
    for node in reversed(graph.node):
        layer = re.sub(r"/[A-Z]\w*$", "", node.name)
        own = {layer} if layer else set().union(*(owners.get(name, set()) for name in node.output))
        for name in node.input:
            owners.setdefault(name, set()).update(own)
    sizes: dict[str, int] = {}
    for tensor in graph.initializer:
        readers = owners.get(tensor.name, set())
        if len(readers) == 1:
            layer = next(iter(readers))
            sizes[layer] = sizes.get(layer, 0) + _size(tensor)
    return sizes


def _size(tensor: onnx.TensorProto) -> int:
    return len(tensor.raw_data) or int(onnx.numpy_helper.to_array(tensor).nbytes)
