"""Products of few bits, found in a graph of standard operators and written as those of :mod:`.bitwise`.

What a layer reads is followed back to where it is rounded: a sum of signs times factors, or steps. A weight is taken
apart into binary tensors, or is ternary. One product of bits is written for each pair; their sum is what the
convolution or matrix product was.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from compress.integers.encoding import Encoding

from ..edits import rewrite
from ..edits.qdq import Marked, mark_name
from . import bitwise


@dataclass(frozen=True)
class _Input:
    """What is rounded: ``factor * rounded(value)``, with thresholds, or the inverse of a step."""

    factor: np.float32
    value: str
    activation: bitwise.Activation
    bits: int
    argument: NDArray[np.float32]


@dataclass(frozen=True)
class _Weight:
    """Integers (M, ...) and the scales of channels: (M,), or (2, M) of those that are 1 and of those that are -1."""

    integers: NDArray[np.int8]
    bits: int
    scales: NDArray[np.float32]


def use_bit_operators(model: ModelProto, marked: Mapping[str, Marked]) -> dict[str, Marked]:
    """Write the products of few bits in ``model``, which is changed; returns the marks that are left."""
    finder = _Finder(model.graph, marked)
    layers: list[tuple[bitwise.BitLayer, NodeProto]] = []
    used: set[str] = set()
    for node in list(model.graph.node):
        name = finder.weight_of(node)
        made = None if name is None else finder.products(node, marked[name])
        if made:
            layers += made
            used.add(str(name))
    if layers:
        bitwise.declare(model, layers)
        rewrite.drop_unused(model.graph)
    present = {mark_name(node) for node in model.graph.node if node.op_type == "Site"}
    return {name: what for name, what in marked.items() if name not in used or name in present}


class _Finder:
    def __init__(self, graph: GraphProto, marked: Mapping[str, Marked]) -> None:
        self.graph = graph
        self.marked = marked
        self.producers = rewrite.producers(graph)
        self.stored: dict[str, TensorProto] = rewrite.constants(graph)

    def weight_of(self, node: NodeProto) -> str | None:
        """The mark of the weight of few levels that ``node`` multiplies by, if it is such a product."""
        if node.op_type not in ("Conv", "Gemm", "MatMul") or len(node.input) < 2:
            return None
        before = self.producers.get(node.input[1])
        if before is not None and before.op_type == "Transpose" and node.op_type == "MatMul":
            before = self.producers.get(before.input[0])
        if before is None or before.op_type != "Site":
            return None
        plain = node.op_type != "Gemm" or (
            rewrite.attribute(node, "transB", 0) == 1
            and rewrite.attribute(node, "transA", 0) == 0
            and rewrite.attribute(node, "alpha", 1.0) == rewrite.attribute(node, "beta", 1.0) == 1.0
        )
        name = mark_name(before)
        return name if plain and self.marked[name].form == "levels" else None

    def products(self, node: NodeProto, what: Marked) -> list[tuple[bitwise.BitLayer, NodeProto]]:
        """The layers that ``node`` becomes, in its place; none where it cannot be one."""
        assert what.levels is not None, "a weight of few levels"
        inputs = self._inputs(node.input[0], channels_last=node.op_type != "Conv")
        before = self.producers[node.input[1]]
        site = self.producers[before.input[0]] if before.op_type == "Transpose" else before
        real = numpy_helper.to_array(self.stored[site.input[0]])
        weights = _weights(what.levels, real)
        window = _window(node, real.shape)
        if not inputs or not weights or window is None:
            return []
        pairs = [(one, other) for one in inputs for other in weights]
        names = [node.output[0]] if len(pairs) == 1 else [f"{node.output[0]}_bits_{i}" for i in range(len(pairs))]
        bias = node.input[2] if len(node.input) > 2 else ""
        made = [
            self._product(node, names[number], number, one, other, bias if number == 0 else "", window, real.shape)
            for number, (one, other) in enumerate(pairs)
        ]
        nodes = [each for _, each in made]
        total = names[0]
        for number, name in enumerate(names[1:], 1):
            result = node.output[0] if number == len(names) - 1 else f"{name}_sum"
            nodes.append(helper.make_node("Add", [total, name], [result]))
            total = result
        position = rewrite.place_of(self.graph, node)
        self.graph.node.remove(node)
        for offset, each in enumerate(nodes):
            self.graph.node.insert(position + offset, each)
        return made

    def _product(
        self,
        node: NodeProto,
        output: str,
        number: int,
        one: _Input,
        other: _Weight,
        bias: str,
        window: Mapping[str, Any],
        shape: tuple[int, ...],
    ) -> tuple[bitwise.BitLayer, NodeProto]:
        layer = bitwise.BitLayer(tuple(shape), other.bits, one.activation, one.bits, **window)
        constants: dict[str, NDArray[Any]] = {
            "weight": bitwise.pack_rows(other.integers, other.bits),
            "scale": (other.scales * one.factor).astype(np.float32),
            "threshold" if one.activation == "sign" else "inverse_step": one.argument,
        }
        names = [
            one.value,
            *(rewrite.store(self.graph, f"{output}_{what}", value) for what, value in constants.items()),
        ]
        make = bitwise.bit_conv if node.op_type == "Conv" else bitwise.bit_gemm
        made = make(
            layer,
            [*names, *[bias] * bool(bias)],
            output,
            two_scales=other.scales.ndim == 2,
            name=f"{node.name}_{number}",
        )
        made.metadata_props.extend(node.metadata_props)  # which layer it is
        return layer, made

    def _inputs(self, value: str, *, channels_last: bool) -> list[_Input]:
        """What is rounded to yield ``value``; nothing where it is not."""
        node = self.producers.get(value)
        if node is None:
            return []
        if node.op_type == "Add":
            parts = [self._inputs(name, channels_last=channels_last) for name in node.input]
            return [*parts[0], *parts[1]] if all(parts) else []
        if node.op_type == "Where":
            return self._sign(node, channels_last=channels_last)
        if node.op_type == "Mul":
            inner, factor = self._times(node)
            if inner is None or factor is None:
                return []
            clip = self.producers.get(inner)
            if clip is not None and clip.op_type == "Clip":
                return self._steps(clip, factor)
            inputs = self._inputs(inner, channels_last=channels_last)
            return [_Input(np.float32(factor * x.factor), x.value, x.activation, x.bits, x.argument) for x in inputs]
        return []

    def _sign(self, node: NodeProto, *, channels_last: bool) -> list[_Input]:
        compared = self.producers.get(node.input[0])
        sides = [self._number(name) for name in node.input[1:]]
        if compared is None or compared.op_type != "GreaterOrEqual" or sides != [1.0, -1.0]:
            return []
        threshold = self._array(compared.input[1])
        if threshold is None or (threshold.size > 1 and threshold.size != threshold.shape[-1 if channels_last else 0]):
            along = None if threshold is None else [size for size in threshold.shape if size > 1]
            if threshold is None or channels_last or along != [threshold.size] or threshold.shape[-2:] != (1, 1):
                return []
        return [_Input(np.float32(1), compared.input[0], "sign", 1, threshold.astype(np.float32).ravel())]

    def _steps(self, clip: NodeProto, step: np.float32) -> list[_Input]:
        low, high = (self._number(name) for name in clip.input[1:3])
        rounded = self.producers.get(clip.input[0])
        divided = None if rounded is None or rounded.op_type != "Round" else self.producers.get(rounded.input[0])
        if divided is None or divided.op_type != "Mul" or low != 0 or high is None:
            return []
        value, inverse = self._times(divided)
        bits = int(high + 1).bit_length() - 1
        if value is None or inverse is None or high + 1 != 2**bits or not 1 <= bits <= 8:
            return []
        return [_Input(step, value, "unsigned", bits, np.asarray([inverse], np.float32))]

    def _times(self, node: NodeProto) -> tuple[str | None, np.float32 | None]:
        """The value and the number that ``node`` multiplies."""
        for value, other in ((node.input[0], node.input[1]), (node.input[1], node.input[0])):
            number = self._number(other)
            if number is not None:
                return value, np.float32(number)
        return None, None

    def _array(self, name: str) -> NDArray[Any] | None:
        return numpy_helper.to_array(self.stored[name]) if name in self.stored else None

    def _number(self, name: str) -> float | None:
        array = self._array(name)
        return float(array.ravel()[0]) if array is not None and array.size == 1 else None


def _window(node: NodeProto, shape: tuple[int, ...]) -> dict[str, Any] | None:
    """The window of a convolution over planes; {} of a matrix product, None where there is no operator for it."""
    if node.op_type != "Conv":
        return {}
    if len(shape) != 4 or rewrite.attribute(node, "auto_pad", b"NOTSET") != b"NOTSET":
        return None
    consumers = {
        "strides": rewrite.attribute(node, "strides", [1, 1]),
        "pads": rewrite.attribute(node, "pads", [0, 0, 0, 0]),
        "dilations": rewrite.attribute(node, "dilations", [1, 1]),
    }
    window: dict[str, Any] = {name: tuple(value) for name, value in consumers.items()}  # type: ignore[arg-type]
    return {**window, "group": rewrite.attribute(node, "group", 1)}


def _weights(levels: Encoding, real: NDArray[np.float32]) -> list[_Weight]:
    """Tensors of 1 or 2 bits whose scaled sum is the weight; none where there are no such."""
    assert levels.levels is not None, "a weight of few levels"
    rows = np.asarray(levels.levels, np.float32)
    factors = np.asarray(levels.high, np.float32)
    codes = levels.codes(real)
    if rows.shape[1] == 3 and len(rows) == 1 and rows[0][1] == 0 and rows[0][0] < 0 < rows[0][2]:
        scales = np.stack([rows[0][2] * factors, -rows[0][0] * factors])
        integers = codes.astype(np.int8) - np.int8(1)
        return [_Weight(integers, 2, scales[0] if np.array_equal(*scales) else scales)]
    count = int(rows.shape[1]).bit_length() - 1
    if rows.shape[1] != 2**count or count == 0:
        return []
    # The last code has every sign positive; without bit i it is lower by twice the factor of the basis i.
    bases = np.stack([(rows[:, -1] - rows[:, rows.shape[1] - 1 - 2**i]) / 2 for i in range(count)])
    signs = 2 * ((np.arange(rows.shape[1]) >> np.arange(count)[:, None]) & 1) - 1
    if not np.allclose(np.einsum("ir,ik->rk", bases, signs), rows, rtol=1e-4, atol=1e-5):
        return []
    return [
        _Weight((2 * ((codes >> i) & 1).astype(np.int8) - 1), 1, (bases[i] * factors).astype(np.float32))
        for i in range(count)
    ]
