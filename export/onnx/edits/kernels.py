"""The forms in which integer operations find an engine's fast kernels: one function per form, all of them exact.

Each edits a graph with QuantizeLinear and DequantizeLinear in place and returns how often it did. What ONNX Runtime's
kernels want is read from its source (``mlas/lib/convsym.cpp``, ``providers/cpu/quantization/qlinearconv.cc``): on x86 a
convolution runs without a copy of its windows where its input channels are a multiple of 4, and a depthwise one where
they are a multiple of 16; elsewhere it is up to three times slower.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import GraphProto, NodeProto, TensorProto, numpy_helper

from .rewrite import attribute, constants, drop_unused, place_of, producers, readers, rename, store


@dataclass(frozen=True)
class _Index:
    """What yields and what reads each value, and what is stored, as the graph was when it was looked at."""

    yielding: dict[str, NodeProto]
    reading: dict[str, list[NodeProto]]
    stored: dict[str, TensorProto]

    @staticmethod
    def of(graph: GraphProto) -> _Index:
        return _Index(producers(graph), readers(graph), constants(graph))

    def dequantizer(self, name: str) -> NodeProto | None:
        """The DequantizeLinear that yields a value, if one does."""
        node = self.yielding.get(name)
        return node if node is not None and node.op_type == "DequantizeLinear" else None

    def once(self, name: str) -> bool:
        """Whether one node reads a value."""
        return len(self.reading.get(name, ())) == 1

    def integers(self, name: str) -> TensorProto | None:
        """The stored integers behind a value, if no other node reads either of them."""
        node = self.dequantizer(name)
        if node is None or not self.once(name) or not self.once(node.input[0]):
            return None
        return self.stored.get(node.input[0])


INPUT_CHANNELS, DEPTHWISE_CHANNELS = 4, 16
"""The multiples that kernels of convolutions want."""

MOST_PADDING = 1.5
"""Depthwise channels are padded to at most so many times as many."""


def use_integer_kernels(
    graph: GraphProto, *, x86: bool, rounds_biases: bool = False, rounds_numbers: bool = True
) -> int:
    """All of the forms below that suit the engine.

    Args:
        x86: it has ONNX Runtime's kernels for x86.
        rounds_biases: it makes integers of biases by itself.
        rounds_numbers: it wants integers for numbers as well.
    """
    count = fold_shifts(graph) + fold_scalings(graph)
    if rounds_numbers:
        count += quantize_numbers(graph)
    if x86:
        count += average_by_convolution(graph) + pad_depthwise(graph) + pad_inputs(graph)
    if rounds_biases:
        count += store_rounded_biases(graph)
    drop_unused(graph)
    return count


def fold_shifts(graph: GraphProto) -> int:
    """Let the bias of a convolution take in the number that is added to all of its output, and to nothing else."""
    index, count = _Index.of(graph), 0
    for add in [node for node in graph.node if node.op_type == "Add"]:
        conv, number = _operands(add, index)
        if conv is None or conv.op_type != "Conv" or number is None or not index.once(conv.output[0]):
            continue
        bias = index.integers(conv.input[2]) if len(conv.input) > 2 else None
        if bias is None:
            continue
        scale = numpy_helper.to_array(index.stored[index.yielding[conv.input[2]].input[1]]).astype(np.float64)
        shifted = numpy_helper.to_array(bias) + np.rint(number / scale)
        limits = np.iinfo(np.int32)
        if shifted.min() < limits.min or shifted.max() > limits.max:
            continue
        _store_again(bias, shifted.astype(np.int32))
        graph.node.remove(add)
        rename(graph, {add.output[0]: conv.output[0]})
        count += 1
    return count


def fold_scalings(graph: GraphProto) -> int:
    """Give dequantized values another scale where they are only multiplied by a number."""
    index, count = _Index.of(graph), 0
    for multiply in [node for node in graph.node if node.op_type == "Mul"]:
        dequantize, number = _operands(multiply, index)
        if dequantize is None or dequantize.op_type != "DequantizeLinear" or number is None or number <= 0:
            continue
        scale = numpy_helper.to_array(index.stored[dequantize.input[1]])
        name = store(graph, f"{multiply.output[0]}_scale", (scale * np.float32(number)).astype(np.float32))
        inputs = [dequantize.input[0], name, *dequantize.input[2:]]
        scaled = onnx.helper.make_node("DequantizeLinear", inputs, [multiply.output[0]], name=multiply.name)
        _replace(graph, multiply, [scaled])
        count += 1
    return count


def quantize_numbers(graph: GraphProto) -> int:
    """Write a number that is added to, or multiplied with, dequantized values as the integer 1 with that scale."""
    index, count = _Index.of(graph), 0
    for node in [node for node in graph.node if node.op_type in ("Add", "Mul")]:
        dequantize, number = _operands(node, index)
        if dequantize is None or dequantize.op_type != "DequantizeLinear" or number is None or number <= 0:
            continue
        place = next(i for i, name in enumerate(node.input) if name in index.stored)
        zero = numpy_helper.to_array(index.stored[dequantize.input[2]])
        prefix = f"{node.output[0]}_number"
        inputs = [
            store(graph, prefix, np.asarray(int(zero) + 1, zero.dtype)),
            store(graph, f"{prefix}_scale", np.asarray(number, np.float32)),
            store(graph, f"{prefix}_zero", zero),
        ]
        made = onnx.helper.make_node("DequantizeLinear", inputs, [f"{prefix}_real"])
        graph.node.insert(place_of(graph, node), made)
        node.input[place] = made.output[0]
        count += 1
    return count


def average_by_convolution(graph: GraphProto) -> int:
    """Write the average of windows without padding as a depthwise convolution with the weight 1, scaled: exact."""
    index, channels, count = _Index.of(graph), _channels(graph), 0
    for pool in [node for node in graph.node if node.op_type == "AveragePool"]:
        width = channels.get(pool.input[0]) or channels.get(pool.output[0])
        kernel, padded = _ints(pool, "kernel_shape"), any(_ints(pool, "pads")) or attribute(pool, "ceil_mode", 0)
        padded = padded or attribute(pool, "auto_pad", b"NOTSET") != b"NOTSET"
        if index.dequantizer(pool.input[0]) is None or width is None or padded or len(kernel) != 2:
            continue
        prefix = pool.output[0]
        weight = [
            store(graph, f"{prefix}_ones", np.ones((width, 1, *kernel), np.int8)),
            store(graph, f"{prefix}_ones_scale", np.full(width, 1 / math.prod(kernel), np.float32)),
            store(graph, f"{prefix}_ones_zero", np.zeros(width, np.int8)),
        ]
        real = onnx.helper.make_node("DequantizeLinear", weight, [f"{prefix}_ones_real"], axis=0)
        conv = onnx.helper.make_node(
            "Conv",
            [pool.input[0], real.output[0]],
            [prefix],
            name=pool.name,
            kernel_shape=kernel,
            strides=_ints(pool, "strides") or [1, 1],
            dilations=_ints(pool, "dilations") or [1, 1],
            group=width,
        )
        conv.metadata_props.extend(pool.metadata_props)
        _replace(graph, pool, [real, conv])
        count += 1
    return count


def pad_inputs(graph: GraphProto) -> int:
    """Give windows of few channels (3 of an image) channels of zeros, up to a multiple of 4, by a Pad of integers."""
    index, count = _Index.of(graph), 0
    for conv, weight in _integer_convolutions(graph, index):
        outputs, inputs, *kernel = weight.dims
        extra = -inputs % INPUT_CHANNELS
        if attribute(conv, "group", 1) != 1 or not extra or math.prod(kernel) == 1 or outputs < 16:
            continue
        dequantize = index.yielding[conv.input[0]]
        _store_again(weight, _padded(weight, 1, extra))
        prefix = f"{conv.output[0]}_padded"
        amounts = np.zeros((2, 2 + len(kernel)), np.int64)
        amounts[1, 1] = extra
        pads = store(graph, f"{prefix}_by", amounts.reshape(-1))
        pad = onnx.helper.make_node("Pad", [dequantize.input[0], pads, dequantize.input[2]], [f"{prefix}_integers"])
        real = onnx.helper.make_node("DequantizeLinear", [pad.output[0], *dequantize.input[1:]], [prefix])
        for made in (pad, real):
            graph.node.insert(place_of(graph, conv), made)
        conv.input[0] = prefix
        count += 1
    return count


def pad_depthwise(graph: GraphProto) -> int:
    """Widen depthwise convolutions between two others to a multiple of 16 channels, with weights of zero."""
    index, count = _Index.of(graph), 0
    for conv, weight in list(_integer_convolutions(graph, index)):
        width = weight.dims[0]
        extra = -width % DEPTHWISE_CHANNELS
        if weight.dims[1] != 1 or attribute(conv, "group", 1) != width or not extra:
            continue
        before, after = _only_source(conv, index), _only_reader(conv, index)
        if width + extra > MOST_PADDING * width or before is None or after is None:
            continue
        dense = all(attribute(node, "group", 1) == 1 for node in (before, after))
        if not dense or not all(_owns_integers(node, index) for node in (before, conv, after)):
            continue
        for node in (before, conv):
            _widen_outputs(node, extra, index)
        for item in conv.attribute:
            if item.name == "group":
                item.i = width + extra
        read = index.integers(after.input[1])
        assert read is not None
        _store_again(read, _padded(read, 1, extra))
        count += 1
    if count:  # the widths that were inferred are no longer right
        graph.ClearField("value_info")
    return count


def store_rounded_biases(graph: GraphProto) -> int:
    """Store the bias of a convolution as the floats that its integers stand for, without their scales: fewer bytes.

    ONNX Runtime makes the same integers of them when it loads the file (its ``WeightBiasQuantization``).
    """
    index, count = _Index.of(graph), 0
    for conv, _ in list(_integer_convolutions(graph, index)):
        bias = index.integers(conv.input[2]) if len(conv.input) > 2 else None
        if bias is None or bias.data_type != TensorProto.INT32:
            continue
        dequantize = index.yielding[conv.input[2]]
        scale = numpy_helper.to_array(index.stored[dequantize.input[1]])
        real = (numpy_helper.to_array(bias) * scale.astype(np.float64)).astype(np.float32)
        graph.node.remove(dequantize)
        conv.input[2] = store(graph, f"{conv.output[0]}_bias", real)
        count += 1
    return count


def _integer_convolutions(graph: GraphProto, index: _Index) -> Iterator[tuple[NodeProto, TensorProto]]:
    """Convolutions of dequantized 8-bit values by int8 weights of their own, with those."""
    for node in [node for node in graph.node if node.op_type == "Conv"]:
        weight, read = index.integers(node.input[1]), index.dequantizer(node.input[0])
        zero = None if read is None or len(read.input) < 3 else index.stored.get(read.input[2])
        if zero is None or zero.data_type not in (TensorProto.UINT8, TensorProto.INT8):
            continue  # 16-bit activations have no kernels
        if weight is not None and weight.data_type == TensorProto.INT8:
            yield node, weight


def _only_source(conv: NodeProto, index: _Index) -> NodeProto | None:
    """The convolution whose rounded output ``conv`` alone reads."""
    node = conv
    for operation in ("DequantizeLinear", "QuantizeLinear", "Conv"):
        before = index.yielding.get(node.input[0])
        if before is None or before.op_type != operation or not index.once(node.input[0]):
            return None
        node = before
    return node


def _only_reader(conv: NodeProto, index: _Index) -> NodeProto | None:
    """The convolution that alone reads the rounded output of ``conv``."""
    node = conv
    for operation in ("QuantizeLinear", "DequantizeLinear", "Conv"):
        after = index.reading.get(node.output[0], [])
        if len(after) != 1 or after[0].op_type != operation or after[0].input[0] != node.output[0]:
            return None
        node = after[0]
    return node


def _owns_integers(conv: NodeProto, index: _Index) -> bool:
    """Whether the weight and the bias of ``conv`` are integers of 8 and 32 bits that nothing else has."""
    for name in conv.input[1:]:
        tensor, node = index.integers(name), index.yielding.get(name)
        if tensor is None or node is None or tensor.data_type not in (TensorProto.INT8, TensorProto.INT32):
            return False
        if any(each not in index.stored or not index.once(each) for each in node.input):
            return False
    return True


def _widen_outputs(conv: NodeProto, extra: int, index: _Index) -> None:
    """Add channels of zeros, with the scale of the last one: the bias keeps the product of the others'."""
    for name in conv.input[1:]:
        values, scale, zero = (index.stored[each] for each in index.yielding[name].input)
        _store_again(values, _padded(values, 0, extra))
        _store_again(scale, np.pad(numpy_helper.to_array(scale), (0, extra), mode="edge"))
        _store_again(zero, _padded(zero, 0, extra))


def _padded(tensor: TensorProto, axis: int, extra: int) -> NDArray[np.generic]:
    array = numpy_helper.to_array(tensor)
    return np.pad(array, [(0, extra if axis == i else 0) for i in range(array.ndim)])


def _store_again(tensor: TensorProto, array: NDArray[np.generic]) -> None:
    tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(array), tensor.name))


def _operands(node: NodeProto, index: _Index) -> tuple[NodeProto | None, float | None]:
    """What yields the values that ``node`` reads, and the stored number that it reads beside them."""
    numbers = [name for name in node.input if name in index.stored and math.prod(index.stored[name].dims) == 1]
    others = [name for name in node.input if name not in index.stored]
    if len(numbers) != 1 or len(others) != 1:
        return None, None
    return index.yielding.get(others[0]), float(numpy_helper.to_array(index.stored[numbers[0]]).reshape(-1)[0])


def _channels(graph: GraphProto) -> dict[str, int]:
    """The second dimension of the values that have a known one."""
    by_name = {}
    for value in (*graph.input, *graph.value_info, *graph.output):
        dims = value.type.tensor_type.shape.dim
        if len(dims) == 4 and dims[1].HasField("dim_value"):
            by_name[value.name] = dims[1].dim_value
    return by_name


def _ints(node: NodeProto, name: str) -> list[int]:
    value = attribute(node, name, [])
    return [int(each) for each in value] if isinstance(value, (list, tuple)) else []


def _replace(graph: GraphProto, node: NodeProto, made: list[NodeProto]) -> None:
    position = place_of(graph, node)
    graph.node.remove(node)
    for offset, each in enumerate(made):
        graph.node.insert(position + offset, each)
