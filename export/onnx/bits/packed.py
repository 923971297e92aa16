"""Weights of few levels as codes of 1, 2, 4 or 8 bits, with standard operators that restore them.

A code is looked up by whole bytes: a table has, for each of the 256 bytes, the levels of the codes in it, the lowest
bits first. ``Cast, Gather, Reshape`` on constants is what every engine knows, and computes once, when it loads a file.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, NodeProto, TensorProto, helper, numpy_helper

from ..edits import rewrite

WIDTHS = (1, 2, 4, 8)


def width_of(levels: int) -> int:
    """The bits that a code of so many levels takes in a file: a divisor of a byte's."""
    return next(width for width in WIDTHS if levels <= 2**width)


def numbers(levels: int) -> NDArray[np.int32]:
    """Codes as levels: one table for all weights whose codes are as wide as those of so many levels."""
    return np.arange(2 ** width_of(levels), dtype=np.int32)


def pack(codes: NDArray[np.uint8], width: int) -> NDArray[np.uint8]:
    """The codes in C order as bytes, the lowest bits first; the last byte is filled up with zero bits.

    >>> pack(np.array([1, 0, 3, 2, 1], np.uint8), 2).tolist()
    [177, 1]
    """
    each = 8 // width
    padded = np.zeros(-(-codes.size // each) * each, np.uint8)
    padded[: codes.size] = codes.ravel()
    shifts = np.arange(each, dtype=np.uint8) * np.uint8(width)
    packed: NDArray[np.uint8] = np.bitwise_or.reduce(padded.reshape(-1, each) << shifts, axis=1)
    return packed


def unpack(packed: NDArray[np.uint8], width: int, count: int) -> NDArray[np.uint8]:
    """The first ``count`` codes: what :func:`pack` was given."""
    each = 8 // width
    shifts = np.arange(each, dtype=np.uint8) * np.uint8(width)
    codes: NDArray[np.uint8] = (packed[:, None] >> shifts) & np.uint8(2**width - 1)
    return codes.ravel()[:count]


def restored(
    graph: GraphProto, name: str, target: str, codes: NDArray[np.uint8], levels: NDArray[Any]
) -> list[NodeProto]:
    """The nodes that yield ``levels[codes]`` as the value ``target``, from packed codes stored as ``name``.

    Args:
        codes: in the shape of the weight.
        levels: (levels,), of the type that the weight has.
    """
    width = width_of(len(levels))
    each = 8 // width
    if width < 8 and levels.dtype == np.float32 and not np.array_equal(levels, np.rint(levels)):
        # A table for bytes would be the layer's own: codes are looked up in one that all layers have, then levels.
        own = rewrite.store(graph, f"{target}_own_levels", levels)
        nodes = restored(graph, name, f"{target}_codes", codes, numbers(len(levels)))
        return [*nodes, helper.make_node("Gather", [own, f"{target}_codes"], [target], axis=0)]
    stored = rewrite.store(graph, name, pack(codes, width))
    table = rewrite.store(graph, f"{target}_levels", _by_bytes(levels, width))
    indices, looked_up = f"{target}_bytes", f"{target}_values"
    shape = rewrite.store(graph, f"{target}_shape", np.asarray(codes.shape, np.int64))
    nodes = [
        helper.make_node("Cast", [stored], [indices], to=TensorProto.INT32),
        helper.make_node("Gather", [table, indices], [looked_up], axis=0),
    ]
    if codes.size % each:
        flat, cut = f"{target}_flat", f"{target}_cut"
        ends = [rewrite.store(graph, f"{target}_{what}", np.asarray([at], np.int64)) for what, at in (
            ("one_row", -1), ("first", 0), ("last", codes.size))]  # fmt: skip
        nodes.append(helper.make_node("Reshape", [looked_up, ends[0]], [flat]))
        nodes.append(helper.make_node("Slice", [flat, ends[1], ends[2]], [cut]))
        looked_up = cut
    nodes.append(helper.make_node("Reshape", [looked_up, shape], [target]))
    return nodes


def looked_up(graph: GraphProto) -> dict[str, NDArray[Any]]:
    """What the nodes of :func:`restored` yield, by name."""
    stored = rewrite.constants(graph)
    values: dict[str, NDArray[Any]] = {}

    def read(name: str) -> NDArray[Any] | None:
        return values[name] if name in values else numpy_helper.to_array(stored[name]) if name in stored else None

    for node in graph.node:
        if node.op_type not in ("Cast", "Gather", "Reshape", "Slice"):
            continue
        inputs = [read(name) for name in node.input]
        if node.op_type == "Cast" and node.input[0] in stored and inputs[0] is not None and inputs[0].dtype == np.uint8:
            values[node.output[0]] = inputs[0].astype(np.int32)
        elif node.input[0] in values or (node.op_type == "Gather" and node.input[1] in values):
            first, *rest = (x for x in inputs if x is not None)
            if len(rest) == len(node.input) - 1:
                values[node.output[0]] = _computed(node.op_type, first, rest)
    return values


def _computed(operation: str, first: NDArray[Any], rest: list[NDArray[Any]]) -> NDArray[Any]:
    if operation == "Gather":
        return np.take(first, rest[0], axis=0)
    if operation == "Reshape":
        return first.reshape([int(size) for size in rest[0]])
    return first[int(rest[0][0]) : int(rest[1][0])]


def _by_bytes(levels: NDArray[Any], width: int) -> NDArray[Any]:
    """The levels of the codes in each byte, (256, 8 / width); (levels,) where a code is a byte."""
    if width == 8:
        return levels
    padded = np.zeros(2**width, levels.dtype)
    padded[: len(levels)] = levels
    table: NDArray[Any] = padded[unpack(np.arange(256, dtype=np.uint8), width, 256 * (8 // width))]
    return table.reshape(256, 8 // width)
