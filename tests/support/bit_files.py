"""Networks of bit layers, and what they compute by loops over windows."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper

from export.onnx.bits.bitwise import BitLayer, bit_conv, bit_gemm, declare, pack_rows

Tensors = dict[str, NDArray[Any]]
"""The weights W as integers, scales S, thresholds A, and bias B where there is one, of a layer."""


def model_of(layers: list[tuple[BitLayer, Tensors]], shape: list[int | str], opset: int = 18) -> ModelProto:
    """The layers one behind the other; W holds integers, a linear layer behind a convolution reads (N, C * H * W)."""
    nodes, stored, declared, value = [], [], [], "x"
    for number, (layer, tensors) in enumerate(layers):
        packed = {**tensors, "W": pack_rows(tensors["W"], layer.weight_bits)}
        stored += [numpy_helper.from_array(array, f"{name}{number}") for name, array in packed.items()]
        make = bit_conv if layer.operation == "BitConv" else bit_gemm
        if number and layers[number - 1][0].operation != layer.operation:
            nodes.append(helper.make_node("Flatten", [value], [f"flat{number}"]))
            value = f"flat{number}"
        output = "y" if number == len(layers) - 1 else f"value{number}"
        inputs = [value, *(f"{name}{number}" for name in "WSAB" if name in tensors)]
        nodes.append(make(layer, inputs, output, two_scales=tensors["S"].ndim == 2, name=f"layer{number}"))
        declared.append((layer, nodes[-1]))
        value = output
    rank = len(shape) if len(layers) == 1 else 2
    graph = helper.make_graph(
        nodes,
        "bits",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [f"y{i}" for i in range(rank)])],
        stored,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
    declare(model, declared)
    onnx.checker.check_model(model, full_check=True)
    return model


def known_model() -> ModelProto:
    """What ``runtimes/bitwise/known.onnx`` holds."""
    rng = np.random.default_rng(5)
    first: Tensors = {
        "W": 2 * rng.integers(0, 2, (19, 5, 3, 3)) - 1,
        "S": np.full(19, 0.125, np.float32),
        "A": (np.arange(5, dtype=np.float32) - 2) / 4,
        "B": (np.arange(19, dtype=np.float32) - 9) / 8,
    }
    second: Tensors = {
        "W": rng.integers(-1, 2, (9, 19, 3, 2)),
        "S": np.stack([np.full(9, 0.5), np.full(9, 0.25)]).astype(np.float32),
        "A": np.array([0.5], np.float32),
    }
    third: Tensors = {"W": rng.integers(-2, 2, (4, 81)), "S": np.ones(4, np.float32), "A": np.zeros(1, np.float32)}
    layers = [
        (BitLayer((19, 5, 3, 3), 1, "sign", strides=(1, 2), pads=(1, 1, 1, 1)), first),
        (BitLayer((9, 19, 3, 2), 2, "unsigned", 2, strides=(2, 1), pads=(0, 0, 1, 0)), second),
        (BitLayer((4, 81), 2, "sign"), third),
    ]
    return model_of(layers, ["N", 5, 6, 7], 18)


def activations(layer: BitLayer, x: NDArray[np.float32], a: NDArray[np.float32]) -> NDArray[np.int64]:
    """The integers that are multiplied."""
    if layer.activation == "sign":
        threshold = a.reshape(-1, 1, 1) if layer.operation == "BitConv" else a
        return np.where(x >= threshold, 1, -1)
    return np.clip(np.rint(x * a), 0, 2**layer.activation_bits - 1).astype(np.int64)


def naive(layer: BitLayer, tensors: Tensors, x: NDArray[np.float32]) -> NDArray[np.float64]:
    """The layer by loops over windows, in integers and then in float64."""
    w, s = tensors["W"].astype(np.int64), tensors["S"].astype(np.float64)
    scales = s if s.ndim == 2 else np.stack([s, s])
    bias = tensors.get("B", np.zeros(1)).astype(np.float64)
    a = activations(layer, x, tensors["A"])
    parts = [np.maximum(w, 0), np.minimum(w, 0)]
    if layer.operation == "BitGemm":
        return sum(scales[i] * (a @ part.T) for i, part in enumerate(parts)) + bias
    (top, left, bottom, right), (sy, sx), (dy, dx) = layer.pads, layer.strides, layer.dilations
    outputs, channels, kh, kw = layer.weight_shape
    a = np.pad(a, ((0, 0), (0, 0), (top, bottom), (left, right)))
    height = (a.shape[2] - dy * (kh - 1) - 1) // sy + 1
    width = (a.shape[3] - dx * (kw - 1) - 1) // sx + 1
    y = np.zeros((len(x), outputs, height, width))
    for m in range(outputs):
        first = m // (outputs // layer.group) * channels
        for i in range(height):
            for j in range(width):
                rows, columns = slice(i * sy, i * sy + dy * kh, dy), slice(j * sx, j * sx + dx * kw, dx)
                window = a[:, first : first + channels, rows, columns][:, :, :kh, :kw]
                for k, part in enumerate(parts):
                    y[:, m, i, j] += scales[k, m] * (window * part[m]).sum((1, 2, 3))
    return y + bias.reshape(-1, 1, 1)


def tensors_of(layer: BitLayer, two: bool = False, bias: bool = True, seed: int = 0) -> Tensors:
    rng = np.random.default_rng(seed)
    outputs, inputs = layer.weight_shape[0], layer.weight_shape[1] * layer.group
    weights = rng.integers(-1, 2, layer.weight_shape)
    made: Tensors = {
        "W": np.where(weights > 0, 1, -1) if layer.weight_bits == 1 else weights,
        "S": rng.uniform(0.1, 1, (2, outputs) if two else outputs).astype(np.float32),
        "A": rng.standard_normal(inputs).astype(np.float32)
        if layer.activation == "sign"
        else np.array([1.7], np.float32),
    }
    return {**made, **({"B": rng.standard_normal(outputs).astype(np.float32)} if bias else {})}
