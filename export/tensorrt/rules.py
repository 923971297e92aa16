"""What TensorRT runs in integers, with the rules of its ONNX parser and builder that no other engine has.

Read from onnx-tensorrt (``onnxOpImporters.cpp``, ``QuantDequantLinearHelper``) and the developer guide, "Explicit
quantization", with its recommendations on where to place Q and DQ. What is refused is held against the parser and the
builder of TensorRT for RTX 1.7 in tests. These take more than TensorRT 10 documents: uint8 activations with zero point
0, 4-bit weights of any size, also times integer activations. Such files stay refused here.
"""

from __future__ import annotations

from collections.abc import Iterator

from onnx import NodeProto

from ..rules.patterns import no_integer_operators, opset_between, sums_are_whole
from ..rules.tensors import (
    Rule,
    activations_have_one_scale,
    bias_is_float,
    scales_are_positive,
    types_are,
    violation,
    zero_points_are_zero,
)
from ..rules.view import CARRIES, Quantized, View
from ..rules.violation import Violation

POOLS = ("AveragePool", "GlobalAveragePool")
CHANNELS = {"Conv": 0, "ConvTranspose": 1}
"""The dimension of the output channels in a weight."""


def scales_fit_the_tensor(view: View) -> Iterator[Violation]:
    """As many zero points as scales, and as many scales as channels, or whole blocks of them."""
    for item in view.distinct:
        if item.scale is None:
            continue
        if item.zero is not None and item.zero.size != item.scale.size:
            yield violation(
                view, item, "zero points", item.zero.size, f"{item.scale.size}, one for each scale", "refused"
            )
        if item.integers is None or item.scale.size == 1:
            continue
        shape, scales = item.integers.shape, item.scale.shape
        if len(scales) == 1:
            channels = shape[item.axis] if item.axis < len(shape) else 0
            if channels != item.scale.size:
                yield violation(view, item, "scales", item.scale.size, f"{channels}, one for each channel", "refused")
        elif len(scales) != len(shape) or any(n % blocks for n, blocks in zip(shape, scales, strict=True)):
            yield violation(view, item, "blocks", f"scales {scales} for {shape}", "blocks of one size", "refused")


def numbers_are_float(view: View) -> Iterator[Violation]:
    """No DequantizeLinear on a stored number without dimensions; NVIDIA's builder refuses the file."""
    for item in view.of("constant"):
        if item.restores and item.integers is not None and item.integers.ndim == 0:
            yield violation(view, item, "number", item.dtype, "float, without DequantizeLinear", "refused")


def channels_are_output_channels(view: View) -> Iterator[Violation]:
    """The scales of a convolution's weight are those of its output channels."""
    for item in view.of("weight"):
        if item.scale is None or item.scale.size == 1 or item.block:
            continue
        for node in view.readers_past_restoring(item):
            expected = CHANNELS.get(node.op_type)
            if expected is not None and item.axis != expected:
                yield violation(view, item, "axis of scales", item.axis, f"{expected}, of output channels", "refused")


def four_bits_are_packed(view: View) -> Iterator[Violation]:
    """Two 4-bit integers are one byte: the last dimension is even, and no activation has 4 bits.

    What is multiplied by 4-bit weights stays in float.
    """
    for item in view.of("weight"):
        if item.dtype != "int4" or item.integers is None:
            continue
        if item.integers.shape[-1] % 2:
            yield violation(view, item, "last dimension of int4", item.integers.shape[-1], "an even number", "refused")
        for node in view.readers_past_restoring(item):
            if any(_is_activation(view, name) for name in node.input):
                yield violation(view, item, "int4 weight", "multiplied by int8", "multiplied by floats", "refused")


def products_are_whole(view: View) -> Iterator[Violation]:
    """An int8 product has both its input and its weight behind DequantizeLinear; else it runs in float."""
    for node in view.graph.node:
        if node.op_type not in ("Conv", "ConvTranspose", "Gemm", "MatMul"):
            continue
        read = [view.restored(name, CARRIES) for name in node.input[:2]]
        if read[0] is not None and read[0].role == "activation" and read[1] is None:
            yield _in_float(view, node, "weight without DequantizeLinear")


def averages_read_integers(view: View) -> Iterator[Violation]:
    """An average does not change places with DequantizeLinear, so that what it reads is quantized if its result is."""
    for node in view.graph.node:
        if node.op_type not in POOLS or view.restored(node.input[0], CARRIES) is not None:
            continue
        if any(reader.op_type == "QuantizeLinear" for reader in view.readers.get(node.output[0], [])):
            yield _in_float(view, node, "input without DequantizeLinear")


def _is_activation(view: View, value: str) -> bool:
    item: Quantized | None = view.restored(value, CARRIES)
    return item is not None and item.role == "activation"


def _in_float(view: View, node: NodeProto, found: str) -> Violation:
    return Violation(node.output[0], view.name(node), "runs in float", found, "Q and DQ on every side", "slow")


RULES: dict[str, tuple[Rule, ...]] = {
    "tensorrt": (
        opset_between(13, 25),
        no_integer_operators,
        scales_are_positive,
        types_are("activation", "int8", effect="refused"),
        types_are("weight", "int8", "int4", effect="refused"),
        zero_points_are_zero("activation", "weight", effect="refused"),
        activations_have_one_scale("slow"),
        scales_fit_the_tensor,
        channels_are_output_channels,
        four_bits_are_packed,
        bias_is_float,
        numbers_are_float,
        products_are_whole,
        sums_are_whole,
        averages_read_integers,
    )
}
