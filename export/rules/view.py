"""An ONNX graph as rules see it: which tensors are quantized, as what, and who reads them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, numpy_helper

from ..onnx.bits import packed
from ..onnx.edits import rewrite

Role = Literal["activation", "weight", "bias", "constant"]
PRODUCTS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
PASSES = ("Cast", "Identity", "Transpose", "Reshape", "Squeeze", "Unsqueeze")
CARRIES = (*PASSES[1:], "Flatten", "Slice", "Split", "MaxPool")
"""What OpenVINO and TensorRT carry scales through by themselves: nothing has to be quantized behind it."""


@dataclass(frozen=True)
class Quantized:
    """A QuantizeLinear or DequantizeLinear.

    Args:
        node: itself.
        role: of the tensor that it quantizes or restores; a stored one that no product reads is a constant.
        tensor: its name: of the stored tensor, of a value in float otherwise.
        dtype: of the integers ("uint8"), as the node takes or yields them.
        scale: None where it is computed.
        zero: the zero points; None where they are computed.
        axis: of the channels, where there is more than one scale.
        block: how many neighbours along ``axis`` share a scale, or 0.
        integers: the stored integers, if they are.
    """

    node: NodeProto
    role: Role
    tensor: str
    dtype: str
    scale: NDArray[Any] | None
    zero: NDArray[Any] | None
    axis: int
    block: int
    integers: NDArray[np.int64] | None

    @property
    def restores(self) -> bool:
        """Whether it is a DequantizeLinear."""
        return bool(self.node.op_type == "DequantizeLinear")


class View:
    """A model whose quantized tensors are found by name."""

    def __init__(self, model: ModelProto) -> None:
        self.graph = model.graph
        self.opset = next(item.version for item in model.opset_import if item.domain in ("", "ai.onnx"))
        self.producers = rewrite.producers(self.graph)
        self.readers = rewrite.readers(self.graph)
        self.returned = frozenset(value.name for value in self.graph.output)
        self._tensors = rewrite.constants(self.graph)
        for node in self.graph.node:
            if node.op_type == "Constant":
                value = rewrite.attribute(node, "value")
                if isinstance(value, onnx.TensorProto):
                    self._tensors[node.output[0]] = value
        for name, values in packed.looked_up(self.graph).items():
            self._tensors[name] = numpy_helper.from_array(values, name)

    @cached_property
    def quantized(self) -> tuple[Quantized, ...]:
        """Every QuantizeLinear and DequantizeLinear, in the file's order."""
        return tuple(
            self._read(node) for node in self.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")
        )

    @cached_property
    def _restored(self) -> dict[str, Quantized]:
        return {item.node.output[0]: item for item in self.quantized if item.restores}

    @cached_property
    def distinct(self) -> tuple[Quantized, ...]:
        """Those without each DequantizeLinear that restores what a QuantizeLinear made with the same numbers."""
        return tuple(item for item in self.quantized if not self._repeats(item))

    def of(self, role: Role) -> tuple[Quantized, ...]:
        """The distinct ones of one role."""
        return tuple(item for item in self.distinct if item.role == role)

    def _repeats(self, item: Quantized) -> bool:
        before = self.producers.get(item.node.input[0])
        return (
            item.restores
            and before is not None
            and before.op_type == "QuantizeLinear"
            and list(before.input[1:]) == list(item.node.input[1:])
        )

    def restored(self, value: str, past: tuple[str, ...] = PASSES[1:]) -> Quantized | None:
        """The DequantizeLinear that yields ``value``, perhaps reshaped, or ``past`` other operations."""
        while value not in self._restored and (before := self.producers.get(value)) is not None:
            if before.op_type not in past:
                return None
            value = before.input[0]
        return self._restored.get(value)

    def readers_past_restoring(self, item: Quantized) -> list[NodeProto]:
        """The nodes that read the real values of ``item``."""
        nodes: list[NodeProto] = []
        for node in self.readers.get(item.node.output[0], []):
            if node.op_type in (*PASSES, "DequantizeLinear"):
                nodes += self.readers.get(node.output[0], [])
            else:
                nodes.append(node)
        return nodes

    def stored(self, value: str) -> bool:
        """Whether ``value`` is a constant of the file."""
        return value in self._tensors

    def array(self, value: str) -> NDArray[Any] | None:
        """The constant called ``value``, if it is one."""
        return numpy_helper.to_array(self._tensors[value]) if value in self._tensors else None

    def name(self, node: NodeProto) -> str:
        """How a node is called in a message; one without a name by what it belongs to."""
        if node.name:
            return f"{node.name}, {node.op_type}"
        before = self.producers.get(node.input[0]) if node.input else None
        if node.op_type == "DequantizeLinear" and before is not None and before.op_type == "QuantizeLinear":
            before = self.producers.get(before.input[0])
        after = next(iter(self.readers.get(node.output[0], [])), None)
        near = next((f", {word} {n.name}" for word, n in (("after", before), ("before", after)) if n and n.name), "")
        return f"{node.op_type}{near}"

    def _origin(self, value: str) -> str:
        """The constant that ``value`` is, past casts and reshapes; or ``value`` itself."""
        start = value
        while value not in self._tensors and (before := self.producers.get(value)) is not None:
            if before.op_type not in (*PASSES, "QuantizeLinear"):
                return start
            value = before.input[0]
        return value if value in self._tensors else start

    def _read(self, node: NodeProto) -> Quantized:
        origin = self._origin(node.input[0])
        scale = self.array(node.input[1])
        has_zero = len(node.input) > 2 and node.input[2]
        zero = self.array(node.input[2]) if has_zero else np.zeros_like(scale, np.int64) if scale is not None else None
        dtype = self._dtype(node, origin)
        constant = origin in self._tensors
        role: Role = "activation"
        if constant:
            role = "bias" if dtype == "int32" else "weight" if self._multiplied(node) else "constant"
        axis, block = rewrite.attribute(node, "axis", 1), rewrite.attribute(node, "block_size", 0)
        assert isinstance(axis, int) and isinstance(block, int)
        integers = self.array(origin) if constant else None
        if integers is not None and integers.dtype.kind == "f" and scale is not None and zero is not None and not block:
            integers = _quantize(integers, scale, zero, axis, dtype)
        tensor = origin if constant or node.op_type == "QuantizeLinear" else node.output[0]
        whole = None if integers is None or integers.dtype.kind == "f" else integers.astype(np.int64)
        return Quantized(node, role, tensor, dtype, scale, zero, axis, block, whole)

    def _multiplied(self, node: NodeProto) -> bool:
        """Whether a product reads what ``node`` yields."""
        return any(
            reader.op_type in PRODUCTS or (reader.op_type in (*PASSES, "DequantizeLinear") and self._multiplied(reader))
            for reader in self.readers.get(node.output[0], [])
        )

    def _dtype(self, node: NodeProto, origin: str) -> str:
        """The type of the integers: of the zero point, of what was cast, or of the stored tensor."""
        if len(node.input) > 2 and node.input[2] in self._tensors:
            return _type_name(self._tensors[node.input[2]].data_type)
        output_type = rewrite.attribute(node, "output_dtype", 0)
        before = self.producers.get(node.input[0])
        if node.op_type == "QuantizeLinear":
            return _type_name(output_type) if isinstance(output_type, int) and output_type else "uint8"
        if before is not None and before.op_type == "Cast":
            to = rewrite.attribute(before, "to")
            assert isinstance(to, int)
            return _type_name(to)
        if before is not None and before.op_type == "QuantizeLinear":
            return self._dtype(before, before.input[0])
        return _type_name(self._tensors[origin].data_type) if origin in self._tensors else "uint8"


def limits(dtype: str) -> tuple[int, int]:
    """The least and the largest integer of a type.

    >>> limits("uint8"), limits("int4")
    ((0, 255), (-8, 7))
    """
    bits = int(dtype.lstrip("uint"))
    return (0, 2**bits - 1) if dtype.startswith("u") else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)


def _type_name(data_type: int) -> str:
    return str(onnx.TensorProto.DataType.Name(data_type)).lower()


def _quantize(
    real: NDArray[Any], scale: NDArray[Any], zero: NDArray[Any], axis: int, dtype: str
) -> NDArray[np.integer[Any]]:
    """What QuantizeLinear makes of a stored float tensor."""
    if scale.size > 1:
        shape = [1] * real.ndim
        shape[axis] = -1
        scale, zero = scale.reshape(shape), zero.reshape(shape)
    low, high = limits(dtype)
    integers: NDArray[np.int64] = np.clip(np.rint(real / scale) + zero.astype(np.int64), low, high).astype(np.int64)
    return integers
