"""Layers of 1- and 2-bit weights in ONNX: nodes of the domain ``edgepress`` that are functions of the same file.

The function of a node unpacks the weights and computes in floats with standard operators only, so that every engine
that knows the functions of a model runs the file; the engine ``bitwise`` leaves them out and has kernels of its own for
the nodes. What differs in the body (taps, padding bits, how activations are rounded) is told by the function's
``overload``; all else are attributes. OpenVINO reads no functions: ``onnx.inliner.inline_local_functions`` makes a file
for it. ONNX: https://onnx.ai/onnx/repo-docs/IR.html (Functions). XNOR and popcount
instead of products: Rastegari et al., "XNOR-Net", 2016, equation 11; two scales: Zhu et al., "Trained Ternary
Quantization", 2017, equation 6.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from onnx import AttributeProto, FunctionProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from compress.errors import InvalidInput

DOMAIN, VERSION = "edgepress", 1
OLDEST_OPSET, NEWEST_OPSET = 18, 21
OLDEST_IR = 10
"""The first version of the format in which functions have overloads."""

Activation = Literal["sign", "unsigned"]
_LIMITS = {1: (-1, 1), 2: (-2, 1)}
_BITS = "channels", "weight_bits", "activation", "activation_bits"
_WINDOW = "kernel_shape", "strides", "pads", "dilations", "group"


@dataclass(frozen=True)
class BitLayer:
    """What decides how a layer computes, beside its tensors.

    Args:
        weight_shape: (M, C / group, kh, kw) of a convolution, (M, K) of a linear layer.
        weight_bits: 1 for -1 and +1; 2 for two's complement, -2 to 1: ternary weights are -1, 0 and 1.
        activation: "sign" takes +1 where the input reaches its threshold, else -1; "unsigned" takes
            clip(round_half_even(x / step), 0, 2**activation_bits - 1).
        activation_bits: 1 with "sign", 1 to 8 with "unsigned".
        strides: of height and width; likewise dilations. Of convolutions only, as are pads and group.
        pads: zeros before and behind: top, left, bottom, right. They are zeros behind the rounding of the activation.

    Raises:
        InvalidInput: a shape or a number is out of range.
    """

    weight_shape: tuple[int, ...]
    weight_bits: int
    activation: Activation
    activation_bits: int = 1
    strides: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilations: tuple[int, int] = (1, 1)
    group: int = 1

    def __post_init__(self) -> None:
        most = {"sign": 1, "unsigned": 8}.get(self.activation, 0)
        if len(self.weight_shape) not in (2, 4) or min(self.weight_shape) < 1:
            raise InvalidInput(f"bit layer: expected weights (M, C/group, kh, kw) or (M, K), got {self.weight_shape}")
        if self.weight_bits not in _LIMITS:
            raise InvalidInput(f"bit layer: expected weights of 1 or 2 bits, got {self.weight_bits}")
        if not 1 <= self.activation_bits <= most:
            raise InvalidInput(
                f"bit layer: expected the activation 'sign' with 1 bit or 'unsigned' with 1 to 8, got "
                f"{self.activation!r} with {self.activation_bits}"
            )
        if self.group < 1 or self.weight_shape[0] % self.group or min(self.pads) < 0:
            raise InvalidInput(f"bit layer: {self.weight_shape[0]} outputs, group {self.group} and pads {self.pads}")
        if min(*self.strides, *self.dilations) < 1:
            raise InvalidInput(f"bit layer: strides {self.strides} and dilations {self.dilations} are 1 or more")

    @property
    def operation(self) -> str:
        """The name of the node's operation."""
        return "BitConv" if len(self.weight_shape) == 4 else "BitGemm"

    @property
    def row(self) -> int:
        """The number of weights of an output channel."""
        return math.prod(self.weight_shape[1:])

    @property
    def row_bytes(self) -> int:
        """The bytes that these take in the file."""
        return -(-self.row * self.weight_bits // 8)


def pack_rows(integers: NDArray[np.integer], bits: int) -> NDArray[np.uint8]:
    """The weights (M, ...) as uint8 (M, ceil(n * bits / 8)), n integers per row in C order, the lowest bits first.

    One bit holds 1 for +1 and 0 for -1; two bits hold two's complement. Rows end in zero bits.

    Raises:
        InvalidInput: ``bits`` is neither 1 nor 2, or an integer has no such code.
    """
    if bits not in _LIMITS:
        raise InvalidInput(f"packed weights: expected 1 or 2 bits, got {bits}")
    low, high = _LIMITS[bits]
    rows = np.asarray(integers).reshape(len(integers), -1)
    outside = (rows < low) | (rows > high) | (rows == 0 if bits == 1 else False)
    if outside.any():
        range_of_values = "-1 or 1" if bits == 1 else "-2 to 1"
        raise InvalidInput(f"packed weights of {bits} bits: expected {range_of_values}, got {rows[outside].flat[0]}")
    codes = (rows > 0)[..., None] if bits == 1 else np.stack([rows & 1, (rows >> 1) & 1], axis=-1)
    return np.packbits(codes.reshape(len(rows), -1).astype(np.uint8), axis=1, bitorder="little")


def unpack_rows(packed: NDArray[np.uint8], bits: int, count: int) -> NDArray[np.int8]:
    """The first ``count`` weights of each row, int8 (M, count): what `pack_rows` was given.

    Raises:
        InvalidInput: ``bits`` is neither 1 nor 2, or rows are not of the size that ``count`` weights take.
    """
    if bits not in _LIMITS:
        raise InvalidInput(f"packed weights: expected 1 or 2 bits, got {bits}")
    if packed.ndim != 2 or packed.shape[1] != -(-count * bits // 8):
        raise InvalidInput(f"packed weights: expected {-(-count * bits // 8)} bytes per row, got {packed.shape}")
    codes = np.unpackbits(packed, axis=1, count=count * bits, bitorder="little").astype(np.int8)
    if bits == 1:
        return 2 * codes - 1
    return codes[:, 0::2] - 2 * codes[:, 1::2]


def bit_conv(
    layer: BitLayer, inputs: Sequence[str], output: str, *, two_scales: bool = False, name: str = ""
) -> NodeProto:
    """The node Y = S * conv(a(X), w) + B of ``layer``, float32 (N, C, H, W) -> (N, M, H', W').

    Args:
        inputs: the names of X; W, uint8 (M, `BitLayer.row_bytes`) of `pack_rows`; S, float32 (M,), or (2, M) with
            ``two_scales``: the scales of the weights +1 and -1; A, float32: the thresholds (1,) or (C,) of "sign", or
            (1,), the inverse of the step of "unsigned"; and B, float32 (M,), which may be left out.
        two_scales: of ternary weights only: Y = S[0] * (sum over w = 1) - S[1] * (sum over w = -1) + B.

    Raises:
        InvalidInput: the layer is not a convolution, or the inputs are not four or five.
    """
    if layer.operation != "BitConv":
        raise InvalidInput(f"bit_conv: expected weights (M, C/group, kh, kw), got {layer.weight_shape}; use bit_gemm")
    window = {
        "kernel_shape": layer.weight_shape[2:],
        "strides": layer.strides,
        "pads": layer.pads,
        "dilations": layer.dilations,
        "group": layer.group,
    }
    return _node(layer, inputs, output, two_scales, name, window)


def bit_gemm(
    layer: BitLayer, inputs: Sequence[str], output: str, *, two_scales: bool = False, name: str = ""
) -> NodeProto:
    """The node Y = S * (a(X) w^T) + B of ``layer``, float32 (..., K) -> (..., M); inputs as those of `bit_conv`.

    Raises:
        InvalidInput: the layer is a convolution, or the inputs are not four or five.
    """
    if layer.operation != "BitGemm":
        raise InvalidInput(f"bit_gemm: expected weights (M, K), got {layer.weight_shape}; use bit_conv")
    return _node(layer, inputs, output, two_scales, name, {})


def declare(model: ModelProto, layers: Iterable[tuple[BitLayer, NodeProto]]) -> int:
    """Add the functions of the nodes to ``model``, each once, and what they need to be valid; returns how many.

    Raises:
        InvalidInput: the standard operators of the model are older or newer than those that the functions are of.
    """
    opset = next((each.version for each in model.opset_import if each.domain in ("", "ai.onnx")), 0)
    known = {(each.domain, each.name, each.overload) for each in model.functions}
    count = 0
    for layer, node in layers:
        key = (node.domain, node.op_type, node.overload)
        if key not in known:
            two_scales, biased = "_two" in node.overload, len(node.input) == 5
            model.functions.append(function(layer, two_scales=two_scales, biased=biased, opset=opset))
            known.add(key)
            count += 1
    if known and all(each.domain != DOMAIN for each in model.opset_import):
        model.opset_import.append(helper.make_opsetid(DOMAIN, VERSION))
    model.ir_version = max(model.ir_version, OLDEST_IR)
    return count


def overload(layer: BitLayer, *, two_scales: bool = False, biased: bool = True) -> str:
    """What tells the function of ``layer`` from others of its operation."""
    taps = "x".join(map(str, layer.weight_shape[2:]))
    parts = [f"w{layer.weight_bits}", layer.activation if layer.activation == "sign" else f"u{layer.activation_bits}"]
    parts += [taps] * bool(taps)
    # Rows that end in padding bits are cut to their length, which the body then has to know.
    parts += [f"n{layer.row}"] * bool(layer.row * layer.weight_bits % 8)
    return "_".join([*parts, *(["two"] * two_scales), *(["bias"] * biased)])


def function(layer: BitLayer, *, two_scales: bool = False, biased: bool = True, opset: int = 18) -> FunctionProto:
    """What a node of ``layer`` computes, in standard operators of version ``opset`` on floats.

    Scales are multiplied into the unpacked weights: engines fold all of that when they load a file.

    Raises:
        InvalidInput: ``opset`` is not 18 to 21, or two scales are asked for weights of 1 bit.
    """
    if not OLDEST_OPSET <= opset <= NEWEST_OPSET:
        raise InvalidInput(f"opset {opset}: layers of 1 and 2 bits are written in {OLDEST_OPSET} to {NEWEST_OPSET}")
    if two_scales and layer.weight_bits == 1:
        raise InvalidInput("two scales: expected ternary weights (weight_bits 2), got 1 bit")
    nodes = [*_unpacked(layer), *_scaled(layer, two_scales), *_rounded(layer), *_product(layer, biased)]
    return helper.make_function(
        DOMAIN,
        layer.operation,
        ["X", "W", "S", "A", *["B"] * biased],
        ["Y"],
        nodes,
        [helper.make_opsetid("", opset)],
        attributes=[*(_WINDOW if layer.operation == "BitConv" else ()), *_BITS],
        overload=overload(layer, two_scales=two_scales, biased=biased),
    )


def _node(
    layer: BitLayer, inputs: Sequence[str], output: str, two_scales: bool, name: str, window: dict[str, Any]
) -> NodeProto:
    if len(inputs) not in (4, 5) or not all(inputs):
        raise InvalidInput(f"{layer.operation} {name}: expected the inputs X, W, S, A and maybe B, got {list(inputs)}")
    if two_scales and layer.weight_bits == 1:
        raise InvalidInput(f"{layer.operation} {name}: two scales need ternary weights (weight_bits 2), got 1 bit")
    return helper.make_node(
        layer.operation,
        list(inputs),
        [output],
        name=name,
        domain=DOMAIN,
        overload=overload(layer, two_scales=two_scales, biased=len(inputs) == 5),
        channels=layer.weight_shape[1],
        weight_bits=layer.weight_bits,
        activation=layer.activation,
        activation_bits=layer.activation_bits,
        **window,
    )


def _unpacked(layer: BitLayer) -> list[NodeProto]:
    """W (M, bytes) -> integers in floats, (M, C / group, kh, kw) or (M, K)."""
    bits = layer.weight_bits
    nodes, read = [], "W"
    if bits == 2:  # two's complement with its sign bit flipped is the value plus 2
        nodes = [
            _constant("flip", np.array(0xAA, np.uint8)),
            helper.make_node("BitwiseXor", ["W", "flip"], ["flipped"]),
        ]
        read = "flipped"
    nodes += [
        _constant("shifts", np.arange(8 // bits, dtype=np.uint8) * np.uint8(bits)),
        _constant("mask", np.array((1 << bits) - 1, np.uint8)),
        _constant("behind", np.array([2], np.int64)),
        helper.make_node("Unsqueeze", [read, "behind"], ["bytes"]),
        helper.make_node("BitShift", ["bytes", "shifts"], ["shifted"], direction="RIGHT"),
        helper.make_node("BitwiseAnd", ["shifted", "mask"], ["codes"]),
        helper.make_node("Cast", ["codes"], ["numbers"], to=TensorProto.FLOAT),
    ]
    rows = "numbers"
    if layer.row * bits % 8:
        nodes += [
            _constant("row_shape", np.array([0, -1], np.int64)),
            helper.make_node("Reshape", ["numbers", "row_shape"], ["rows"]),
            _constant("first", np.array([0], np.int64)),
            _constant("end", np.array([layer.row], np.int64)),
            _constant("along", np.array([1], np.int64)),
            helper.make_node("Slice", ["rows", "first", "end", "along"], ["cut_rows"]),
        ]
        rows = "cut_rows"
    nodes += [
        _constant("weight_shape", np.array([0, -1, *layer.weight_shape[2:]], np.int64)),
        helper.make_node("Reshape", [rows, "weight_shape"], ["shaped"]),
        _constant("shift", np.array(bits, np.float32)),
    ]
    shifted = "shaped"  # 0 to 3 for -2 to 1
    if bits == 1:  # 0 and 1 become 0 and 2, for -1 and 1
        nodes.append(helper.make_node("Add", ["shaped", "shaped"], ["doubled"]))
        shifted = "doubled"
    return [*nodes, helper.make_node("Sub", [shifted, "shift"], ["weights"])]


def _scaled(layer: BitLayer, two_scales: bool) -> list[NodeProto]:
    per_channel = np.array([-1, *[1] * (len(layer.weight_shape) - 1)], np.int64)
    nodes = [_constant("scale_shape", per_channel)]
    if not two_scales:
        return [
            *nodes,
            helper.make_node("Reshape", ["S", "scale_shape"], ["scale"]),
            helper.make_node("Mul", ["weights", "scale"], ["scaled_weights"]),
        ]
    nodes += [_constant("zero", np.array(0, np.float32))]
    for number, (sign, limit) in enumerate((("positive", "Max"), ("negative", "Min"))):
        nodes += [
            _constant(f"{sign}_row", np.array(number, np.int64)),
            helper.make_node("Gather", ["S", f"{sign}_row"], [f"{sign}_scales"], axis=0),
            helper.make_node("Reshape", [f"{sign}_scales", "scale_shape"], [f"{sign}_scale"]),
            helper.make_node(limit, ["weights", "zero"], [f"{sign}_weights"]),
            helper.make_node("Mul", [f"{sign}_weights", f"{sign}_scale"], [f"{sign}_part"]),
        ]
    return [*nodes, helper.make_node("Add", ["positive_part", "negative_part"], ["scaled_weights"])]


def _rounded(layer: BitLayer) -> list[NodeProto]:
    """X -> the integers that are multiplied, in floats."""
    if layer.activation == "unsigned":
        return [
            _constant("lowest", np.array(0, np.float32)),
            _constant("highest", np.array((1 << layer.activation_bits) - 1, np.float32)),
            helper.make_node("Mul", ["X", "A"], ["steps"]),
            helper.make_node("Round", ["steps"], ["whole_steps"]),
            helper.make_node("Clip", ["whole_steps", "lowest", "highest"], ["activations"]),
        ]
    nodes = []
    threshold = "A"
    if layer.operation == "BitConv":
        threshold = "thresholds"
        nodes = [
            _constant("threshold_shape", np.array([-1, 1, 1], np.int64)),
            helper.make_node("Reshape", ["A", "threshold_shape"], [threshold]),
        ]
    return [
        *nodes,
        _constant("plus", np.array(1, np.float32)),
        _constant("minus", np.array(-1, np.float32)),
        helper.make_node("GreaterOrEqual", ["X", threshold], ["reached"]),
        helper.make_node("Where", ["reached", "plus", "minus"], ["activations"]),
    ]


def _product(layer: BitLayer, biased: bool) -> list[NodeProto]:
    if layer.operation == "BitConv":
        node = helper.make_node("Conv", ["activations", "scaled_weights", *["B"] * biased], ["Y"])
        for name in _WINDOW:
            kind = AttributeProto.INT if name == "group" else AttributeProto.INTS
            node.attribute.append(helper.make_attribute_ref(name, kind))
        return [node]
    nodes = [
        helper.make_node("Transpose", ["scaled_weights"], ["columns"], perm=[1, 0]),
        helper.make_node("MatMul", ["activations", "columns"], ["products" if biased else "Y"]),
    ]
    return [*nodes, *[helper.make_node("Add", ["products", "B"], ["Y"])] * biased]


def _constant(name: str, value: NDArray[np.generic]) -> NodeProto:
    return helper.make_node("Constant", [], [name], value=numpy_helper.from_array(value))
