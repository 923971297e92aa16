"""Files that compute in half precision, read as the same network in float32."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from onnx import AttributeProto, GraphProto, ModelProto, TensorProto, TypeProto, numpy_helper

HALVES: Mapping[int, str] = {TensorProto.FLOAT16: "float16", TensorProto.BFLOAT16: "bfloat16"}
_TYPES = frozenset({"to", "dtype", "output_dtype"})
"""Attributes that are element types."""


def to_single(model: ModelProto) -> tuple[str, ...]:
    """Turn every 16-bit float of ``model`` into a float32; returns which there were ("float16", "bfloat16").

    The functions of the model are inlined already.
    """
    types: set[int] = set()
    for graph in _graphs(model.graph):
        for value in (*graph.input, *graph.output, *graph.value_info):
            _convert_type(value.type, types)
        for tensor in graph.initializer:
            _convert(tensor, types)
        for node in graph.node:
            for attribute in node.attribute:
                if attribute.name in _TYPES and attribute.type == AttributeProto.INT and attribute.i in HALVES:
                    types.add(attribute.i)
                    attribute.i = TensorProto.FLOAT
                for tensor in (*([attribute.t] if attribute.HasField("t") else []), *attribute.tensors):
                    _convert(tensor, types)
    return tuple(HALVES[element] for element in sorted(types))


def _graphs(graph: GraphProto) -> Iterator[GraphProto]:
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from _graphs(inner)


def _convert_type(type_: TypeProto, types: set[int]) -> None:
    if type_.HasField("tensor_type") and type_.tensor_type.elem_type in HALVES:
        types.add(type_.tensor_type.elem_type)
        type_.tensor_type.elem_type = TensorProto.FLOAT
    if type_.HasField("sequence_type"):
        _convert_type(type_.sequence_type.elem_type, types)


def _convert(tensor: TensorProto, types: set[int]) -> None:
    if tensor.data_type in HALVES:
        types.add(tensor.data_type)
        wide = numpy_helper.to_array(tensor).astype(np.float32)
        tensor.CopyFrom(numpy_helper.from_array(wide, tensor.name))
