"""One layer as an ONNX file of its own, in float or in integers: what its latency is measured on."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from compress.clock import LayerShape, Precision
from compress.integers.target import Target, target_named

OPSET, IR_VERSION = 18, 10
SCALE = 6 / 255
"""Of activations; no latency depends on it."""

Array = NDArray[np.float32]


def layer_file(layer: LayerShape, precision: Precision, target: str) -> ModelProto:
    """The layer with random weights and a ReLU behind it, from float to float, in the integers of ``target``.

    In int8 it stands between QuantizeLinear and DequantizeLinear, as :mod:`export.onnx.edits.qdq` places them, and the
    ReLU is what rounding does. What a file has besides its layer is nearly the same at all widths.
    """
    rng = np.random.default_rng(0)
    conv = layer.kind == "conv"
    shape = (layer.outputs, layer.inputs // layer.groups, *layer.kernel) if conv else (layer.outputs, layer.inputs)
    input_shape = (1, layer.inputs, *layer.size) if conv else (layer.size[1], layer.inputs)
    weight = (rng.standard_normal(shape) * np.sqrt(2 / np.prod(shape[1:]))).astype(np.float32)
    bias = np.zeros(layer.outputs, np.float32)
    made = _File(target_named(target))
    x, w, b = "x", "", ""
    if precision == "int8":
        scale = np.full(layer.outputs, float(np.abs(weight).max()) / 127, np.float32)
        x = made.rounded("x")
        w, b = made.integers("weight", weight, scale, np.int8), made.integers("bias", bias, scale * SCALE, np.int32)
    else:
        w, b = made.stored("weight", weight), made.stored("bias", bias)
    if conv:
        y = made.node(
            "Conv", (x, w, b), kernel_shape=layer.kernel, strides=layer.stride, group=layer.groups,
            pads=(*layer.padding, *layer.padding), dilations=layer.dilation,
        )  # fmt: skip
    else:
        y = made.node("Gemm", (x, w, b), transB=1)
    y = made.rounded(y) if precision == "int8" else made.node("Relu", (y,))
    return made.model(input_shape, y)


class _File:
    """Nodes and stored tensors as they come."""

    def __init__(self, dialect: Target) -> None:
        self.dialect = dialect
        self.nodes: list[NodeProto] = []
        self.tensors: list[TensorProto] = []

    def stored(self, name: str, value: NDArray[np.generic]) -> str:
        self.tensors.append(numpy_helper.from_array(value, name))
        return name

    def node(self, operation: str, inputs: tuple[str, ...], **attributes: Any) -> str:
        name = f"{operation}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operation, inputs, [name], name=name, **attributes))
        return name

    def rounded(self, x: str) -> str:
        """An activation, rounded to integers whose least stands for 0."""
        dtype = np.dtype(self.dialect.activation)
        scale = self.stored(f"{x}_scale", np.full((), SCALE, np.float32))
        zero = self.stored(f"{x}_zero", np.full((), np.iinfo(dtype).min, dtype))
        return self.node("DequantizeLinear", (self.node("QuantizeLinear", (x, scale, zero)), scale, zero))

    def integers(self, name: str, value: Array, scale: Array, dtype: type[np.signedinteger[Any]]) -> str:
        """A weight or bias, per output channel, behind its DequantizeLinear."""
        integers = np.rint(value / scale.reshape(-1, *(1,) * (value.ndim - 1))).astype(dtype)
        names = (
            self.stored(name, integers),
            self.stored(f"{name}_scale", scale),
            self.stored(f"{name}_zero", np.zeros(len(value), dtype)),
        )
        return self.node("DequantizeLinear", names, axis=0)

    def model(self, given: tuple[int, ...], output: str) -> ModelProto:
        graph = helper.make_graph(
            self.nodes, "layer",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, given)],
            [helper.make_tensor_value_info(output, TensorProto.FLOAT, [None] * len(given))],
            self.tensors,
        )  # fmt: skip
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
