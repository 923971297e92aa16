"""Files of LiteRT, written with nothing but the schema: a linear layer in float and in integers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema


def linear_file(weight: np.ndarray, bias: np.ndarray) -> bytes:
    """y = relu(x w + b), (N, 4) -> (N, 5), from a weight (4, 5); the signature calls them "x" and "y"."""
    taken, given = weight.shape
    return _file(
        [
            _tensor("input", [1, taken], "FLOAT32", 0, open_batch=True),
            _tensor("weight", [given, taken], "FLOAT32", 1),
            _tensor("bias", [given], "FLOAT32", 2),
            _tensor("result", [1, given], "FLOAT32", 0, open_batch=True),
        ],
        [weight.T.astype(np.float32), bias.astype(np.float32)],
    )


def integer_file(weight: np.ndarray, scales: tuple[float, float, float]) -> bytes:
    """y = relu(x w) of int8 values with these scales of x, w and y and zero point 0, -128 for y."""
    taken, given = weight.shape
    x, w, y = scales
    return _file(
        [
            _tensor("input", [1, taken], "INT8", 0, scale=x),
            _tensor("weight", [given, taken], "INT8", 1, scale=w),
            _tensor("bias", [given], "INT32", 2, scale=x * w),
            _tensor("result", [1, given], "INT8", 0, scale=y, zero_point=-128),
        ],
        [weight.T.astype(np.int8), np.zeros(given, np.int32)],
    )


def _tensor(
    name: str,
    shape: Sequence[int],
    dtype: str,
    buffer: int,
    *,
    scale: float | None = None,
    zero_point: int = 0,
    open_batch: bool = False,
) -> Any:
    tensor = schema.TensorT()
    tensor.name, tensor.shape, tensor.buffer = name, list(shape), buffer
    tensor.type = getattr(schema.TensorType, dtype)
    if open_batch:
        tensor.shapeSignature = [-1, *shape[1:]]
    if scale is not None:
        tensor.quantization = schema.QuantizationParametersT()
        tensor.quantization.scale, tensor.quantization.zeroPoint = [scale], [zero_point]
    return tensor


def _file(tensors: list[Any], constants: list[np.ndarray]) -> bytes:
    operator = schema.OperatorT()
    operator.opcodeIndex, operator.inputs, operator.outputs = 0, [0, 1, 2], [3]
    operator.builtinOptionsType = schema.BuiltinOptions.FullyConnectedOptions
    operator.builtinOptions = schema.FullyConnectedOptionsT()
    operator.builtinOptions.fusedActivationFunction = schema.ActivationFunctionType.RELU
    graph = schema.SubGraphT()
    graph.tensors, graph.inputs, graph.outputs, graph.operators = tensors, [0], [3], [operator]
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.FULLY_CONNECTED
    code.version = 4
    model = schema.ModelT()
    model.version, model.operatorCodes, model.subgraphs = 3, [code], [graph]
    model.buffers = [schema.BufferT() for _ in range(len(constants) + 1)]
    for buffer, values in zip(model.buffers[1:], constants, strict=True):
        buffer.data = np.frombuffer(np.ascontiguousarray(values).tobytes(), np.uint8)
    signature = schema.SignatureDefT()
    signature.signatureKey, signature.subgraphIndex = "serving_default", 0
    signature.inputs, signature.outputs = [_named("x", 0)], [_named("y", 3)]
    model.signatureDefs = [signature]
    builder = flatbuffers.Builder(4096)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


def _named(name: str, index: int) -> Any:
    item = schema.TensorMapT()
    item.name, item.tensorIndex = name, index
    return item
