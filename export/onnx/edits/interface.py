"""Inputs and outputs of an ONNX file: the order of their dimensions, and the type of their elements."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import onnx
from onnx import GraphProto, NodeProto, ValueInfoProto, numpy_helper

from compress.errors import InvalidInput

from . import rewrite

TYPES = {"int8": int(onnx.TensorProto.INT8), "uint8": int(onnx.TensorProto.UINT8)}


def take_channels_last(graph: GraphProto) -> int:
    """Let every input of four dimensions be (N, H, W, C), transposed inside of the file; returns how many there are."""
    images = [value for value in graph.input if len(value.type.tensor_type.shape.dim) == 4]
    for value in images:
        inside = f"{value.name}_nchw"
        for node in graph.node:
            for position, name in enumerate(node.input):
                if name == value.name:
                    node.input[position] = inside
        graph.node.insert(0, onnx.helper.make_node("Transpose", [value.name], [inside], perm=[0, 3, 1, 2]))
        sizes = [onnx.TensorShapeProto.Dimension.FromString(d.SerializeToString()) for d in _sizes(value)]
        del value.type.tensor_type.shape.dim[:]
        value.type.tensor_type.shape.dim.extend([sizes[0], sizes[2], sizes[3], sizes[1]])
    return len(images)


def exchange_integers(
    graph: GraphProto, dtype: Literal["int8", "uint8"], path: Path
) -> tuple[dict[str, str], list[str]]:
    """Let the file take and give the integers that its first and last operations have, instead of floats.

    Returns what the integers stand for, for the file's metadata: scale and zero point of every input and output, as
    ``scale:<name>`` and ``zero_point:<name>``; and notes on outputs that stay floats, as what a last layer sums up is.

    Raises:
        InvalidInput: an input is read by something else than QuantizeLinear, or the integers are others than ``dtype``.
    """
    readers, makers = rewrite.readers(graph), rewrite.producers(graph)
    ends: list[tuple[ValueInfoProto, NodeProto]] = []
    left: list[str] = []
    for value in graph.input:
        following = readers.get(value.name, [])
        if len(following) != 1 or following[0].op_type != "QuantizeLinear":
            raise InvalidInput(f"export {path}: input {value.name} is not quantized first; leave --interface out")
        ends.append((value, following[0]))
    for value in graph.output:
        last = makers.get(value.name)
        if last is None or last.op_type != "DequantizeLinear":
            left.append(f"output {value.name} stays float32: its last operation yields floats")
        else:
            ends.append((value, last))
    stored = rewrite.constants(graph)
    metadata: dict[str, str] = {}
    for value, node in ends:
        zero = stored[node.input[2]]
        if zero.data_type != TYPES[dtype]:
            stored_dtype = onnx.TensorProto.DataType.Name(zero.data_type).lower()
            raise InvalidInput(
                f"export {path}: {value.name} is in {stored_dtype}, not {dtype}; choose another --interface"
            )
        metadata[f"scale:{value.name}"] = repr(float(numpy_helper.to_array(stored[node.input[1]])))
        metadata[f"zero_point:{value.name}"] = str(int(numpy_helper.to_array(zero)))
        rewrite.bypass(graph, [node])
        value.type.tensor_type.elem_type = TYPES[dtype]
    rewrite.drop_unused(graph)
    return metadata, left


def _sizes(value: ValueInfoProto) -> list[onnx.TensorShapeProto.Dimension]:
    return list(value.type.tensor_type.shape.dim)
