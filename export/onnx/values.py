"""The values inside an ONNX file, as outputs of a copy of it."""

from __future__ import annotations

import re

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper, shape_inference

from ..format import InnerValue
from .edits.rewrite import attribute, constants, producers, readers

CONVERSIONS = frozenset({"QuantizeLinear", "DequantizeLinear", "Cast"})
"""Operations whose results are what they read, in other numbers."""


def expose(model: ModelProto) -> tuple[InnerValue, ...]:
    """Make what the layers of a file compute outputs of it, in place, and tell which ones these are, in their order.

    A value that is rounded at once is given in its integers, so that an engine computes the file as it did before. What
    the file returns as it is, is not given twice.
    """
    graph = model.graph
    read_by, made_by, stored = readers(graph), producers(graph), constants(graph)
    typed = {value.name: value for value in shape_inference.infer_shapes(model).graph.value_info}
    returned = {value.name for value in graph.output}
    found: dict[str, InnerValue] = {}
    for node in list(graph.node):
        layer = re.sub(r"/[A-Z]\w*$", "", node.name)
        if not layer or node.op_type in CONVERSIONS or not node.output or not node.output[0]:
            continue
        rounding = _rounding(node, read_by, returned)
        name = node.output[0] if rounding is None else rounding.output[0]
        scale, zero_point = (None, None) if rounding is None else _grid(rounding, stored)
        if rounding is not None and scale is None:
            continue
        reads = tuple(dict.fromkeys(source for each in node.input for source in _sources(each, made_by, found)))
        axis = 1 if rounding is None else int(attribute(rounding, "axis", 1))  # type: ignore[call-overload]
        found[node.output[0]] = InnerValue(name, layer, node.op_type, reads, scale, zero_point, axis)
        if name not in returned:
            returned.add(name)
            graph.output.append(_described(name, node, rounding, typed))
    return tuple(found.values())


def _rounding(node: NodeProto, read_by: dict[str, list[NodeProto]], returned: set[str]) -> NodeProto | None:
    """What rounds the result of ``node``, where nothing else reads it."""
    users = read_by.get(node.output[0], [])
    if len(users) == 1 and users[0].op_type == "QuantizeLinear" and node.output[0] not in returned:
        return users[0]
    return None


def _grid(
    rounding: NodeProto, stored: dict[str, TensorProto]
) -> tuple[NDArray[np.float32] | None, NDArray[np.int32] | None]:
    """The scale and the zero point of a rounding; None where the file does not store them."""
    names = rounding.input[1:3]
    if any(name not in stored for name in names):
        return None, None
    scale = numpy_helper.to_array(stored[names[0]]).astype(np.float32)
    if len(names) < 2:
        return scale, np.zeros_like(scale, np.int32)
    return scale, numpy_helper.to_array(stored[names[1]]).astype(np.int32)


def _sources(name: str, made_by: dict[str, NodeProto], found: dict[str, InnerValue]) -> list[str]:
    """The values given that ``name`` follows from, past operations that belong to no layer."""
    if name in found:
        return [found[name].name]
    made = made_by.get(name)
    return [] if made is None else [source for each in made.input for source in _sources(each, made_by, found)]


def _described(
    name: str, node: NodeProto, rounding: NodeProto | None, typed: dict[str, onnx.ValueInfoProto]
) -> onnx.ValueInfoProto:
    """The output of this name; its shape is left open where the file does not tell it."""
    if name in typed:
        return typed[name]
    inner = typed.get(node.output[0])
    kind: int = TensorProto.UINT8 if rounding is not None else TensorProto.FLOAT
    if rounding is None and inner is not None:
        kind = inner.type.tensor_type.elem_type
    return helper.make_tensor_value_info(name, kind, None)
