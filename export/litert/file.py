"""A LiteRT file (a TFLite flatbuffer) as values that can be edited: tensors, constants, operators.

The schema is https://github.com/google-ai-edge/LiteRT/blob/main/tflite/converter/schema/schema.fbs.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

Array = NDArray[Any]
TYPES: dict[str, int] = {
    "float32": schema.TensorType.FLOAT32,
    "float16": schema.TensorType.FLOAT16,
    "int32": schema.TensorType.INT32,
    "int64": schema.TensorType.INT64,
    "int16": schema.TensorType.INT16,
    "int8": schema.TensorType.INT8,
    "uint8": schema.TensorType.UINT8,
    "int4": schema.TensorType.INT4,
    "bool": schema.TensorType.BOOL,
}
NAMES = {code: name for name, code in TYPES.items()}
OPERATORS = {
    code: name for name, code in vars(schema.BuiltinOperator).items() if not name.startswith("_") and type(code) is int
}
VERSIONS = {"QUANTIZE": 3, "DEQUANTIZE": 6, "STRIDED_SLICE": 2, "PAD": 2}
"""The newest that the schema has of the operators that are added here: they are read by any engine of this format."""
ALIGNMENT = 16
BLOCKS = schema.QuantizationDetails.BlockwiseQuantization


class File:
    """The main graph of a file, in memory."""

    def __init__(self, content: bytes) -> None:
        self.model = schema.ModelT.InitFromPackedBuf(content, 0)
        self.graph = self.model.subgraphs[0]
        # What is read is a view of ``content``; lists can grow.
        self.graph.inputs = [int(index) for index in self.graph.inputs]
        self.graph.outputs = [int(index) for index in self.graph.outputs]
        for operator in self.graph.operators:
            operator.inputs = [int(index) for index in _some(operator.inputs)]
            operator.outputs = [int(index) for index in _some(operator.outputs)]

    @property
    def tensors(self) -> list[Any]:
        """All tensors; operators name them by their index."""
        return self.graph.tensors  # type: ignore[no-any-return]

    @property
    def operators(self) -> list[Any]:
        """The operators in the order in which they run."""
        return self.graph.operators  # type: ignore[no-any-return]

    def kind(self, operator: Any) -> str:
        """The name of an operator: "CONV_2D"."""
        code = self.model.operatorCodes[operator.opcodeIndex]
        return str(OPERATORS.get(max(code.builtinCode, code.deprecatedBuiltinCode), "CUSTOM"))

    def dtype(self, index: int) -> str:
        """The type of a tensor's elements, as numpy calls it."""
        code = self.tensors[index].type
        return NAMES.get(int(code), f"type {code}")

    def shape(self, index: int) -> tuple[int, ...]:
        """The shape of a tensor."""
        return tuple(int(size) for size in _some(self.tensors[index].shape))

    def constant(self, index: int) -> Array | None:
        """The values of a tensor that is stored in the file, or None."""
        data = self.model.buffers[self.tensors[index].buffer].data
        if data is None or len(data) == 0 or self.dtype(index) in ("int4",) or self.tensors[index].type not in NAMES:
            return None
        return np.frombuffer(bytes(data), np.dtype(self.dtype(index))).reshape(self.shape(index))

    def producer(self, index: int) -> Any | None:
        """The operator that yields a tensor."""
        return next((operator for operator in self.operators if index in operator.outputs), None)

    def consumers(self, index: int) -> list[Any]:
        """The operators that read a tensor."""
        return [operator for operator in self.operators if index in operator.inputs]

    def parameters(self, index: int) -> tuple[float, int] | None:
        """Scale and zero point of a tensor that has one of each."""
        quantization = self.tensors[index].quantization
        if quantization is None or quantization.scale is None or len(quantization.scale) != 1:
            return None
        return float(quantization.scale[0]), int(quantization.zeroPoint[0])

    def set_constant(self, index: int, values: Array) -> None:
        """Give a tensor values of its own; 4-bit integers are packed, the first of two in the lower half."""
        self.tensors[index].buffer = self._buffer(_packed(values) if self.dtype(index) == "int4" else values)

    def add_tensor(
        self,
        name: str,
        shape: Sequence[int],
        dtype: str,
        *,
        values: Array | None = None,
        scale: Iterable[float] = (),
        zero_point: Iterable[int] = (),
        axis: int = 0,
        signature: Sequence[int] | None = None,
    ) -> int:
        """The index of a new tensor."""
        tensor = schema.TensorT()
        tensor.name = name.encode()
        tensor.shape = np.asarray(shape, np.int32)
        tensor.shapeSignature = None if signature is None else np.asarray(signature, np.int32)
        tensor.type = TYPES[dtype]
        tensor.hasRank = True
        scales = np.asarray(list(scale), np.float32)
        if scales.size:
            tensor.quantization = schema.QuantizationParametersT()
            tensor.quantization.scale = scales
            tensor.quantization.zeroPoint = np.asarray(list(zero_point), np.int64)
            tensor.quantization.quantizedDimension = axis
        self.tensors.append(tensor)
        index = len(self.tensors) - 1
        if values is None:
            tensor.buffer = 0  # the empty one
        else:
            self.set_constant(index, values)
        return index

    def set_blocks(self, index: int, scales: int, block: int) -> None:
        """Let so many neighbouring values of a matrix share one of ``scales``, a tensor (channels, blocks)."""
        blocks = schema.QuantizationParametersT()
        blocks.detailsType = BLOCKS
        blocks.details = schema.BlockwiseQuantizationT()
        blocks.details.scales, blocks.details.zeroPoints, blocks.details.blockSize = scales, -1, block
        self.tensors[index].quantization = blocks

    def add_operator(self, kind: str, inputs: Sequence[int], outputs: Sequence[int], before: Any | None = None) -> None:
        """Put a new operator without options in front of another, or at the end."""
        operator = schema.OperatorT()
        operator.opcodeIndex = self.opcode(kind)
        operator.inputs, operator.outputs = list(inputs), list(outputs)
        place = len(self.operators) if before is None else self.operators.index(before)
        self.operators.insert(place, operator)

    def content(self) -> bytes:
        """The bytes of the file: what is not used left out, stored values aligned to 16 bytes as the schema wants."""
        self._drop_unused()
        for operator in self.operators:
            operator.inputs = np.asarray(operator.inputs, np.int32)
            operator.outputs = np.asarray(operator.outputs, np.int32)
        self.graph.inputs = np.asarray(self.graph.inputs, np.int32)
        self.graph.outputs = np.asarray(self.graph.outputs, np.int32)
        builder = _AlignedBuilder(1 << 20)
        builder.Finish(self.model.Pack(builder), file_identifier=b"TFL3")
        return bytes(builder.Output())

    def add_metadata(self, name: str, content: bytes) -> None:
        """Store bytes under a name."""
        entry = schema.MetadataT()
        entry.name = name.encode()
        entry.buffer = self._buffer(np.frombuffer(content, np.uint8))
        self.model.metadata = [*(self.model.metadata or []), entry]

    def _buffer(self, values: Array) -> int:
        buffer = schema.BufferT()
        buffer.data = np.frombuffer(np.ascontiguousarray(values).tobytes(), np.uint8)
        self.model.buffers.append(buffer)
        return len(self.model.buffers) - 1

    def opcode(self, kind: str) -> int:
        """The place of an operator in the file's list of those that it uses; it is put there."""
        code = getattr(schema.BuiltinOperator, kind)
        for index, known in enumerate(self.model.operatorCodes):
            if known.builtinCode == code:
                known.version = max(known.version, VERSIONS[kind])
                return index
        made = schema.OperatorCodeT()
        made.builtinCode = code
        made.deprecatedBuiltinCode = min(code, 127)
        made.version = VERSIONS[kind]
        self.model.operatorCodes.append(made)
        return len(self.model.operatorCodes) - 1

    def _drop_unused(self) -> None:
        """Take out tensors that no operator names, and buffers that no tensor does; the first buffer stays empty."""
        named = {*self.graph.inputs, *self.graph.outputs}
        for operator in self.operators:
            named |= {*operator.inputs, *operator.outputs}
        blocks = [
            quantization.details
            for index in named - {-1}
            if (quantization := self.tensors[index].quantization) is not None and quantization.detailsType == BLOCKS
        ]
        named |= {int(details.scales) for details in blocks}
        remaining = [index for index in range(len(self.tensors)) if index in named]
        places = {old: new for new, old in enumerate(remaining)} | {-1: -1}
        for details in blocks:
            details.scales = places[int(details.scales)]
        for operator in self.operators:
            operator.inputs = [places[index] for index in operator.inputs]
            operator.outputs = [places[index] for index in operator.outputs]
        self.graph.inputs = [places[index] for index in self.graph.inputs]
        self.graph.outputs = [places[index] for index in self.graph.outputs]
        for signature in self.model.signatureDefs or []:
            for item in (*signature.inputs, *signature.outputs):
                item.tensorIndex = places[int(item.tensorIndex)]
        self.graph.tensors = [self.tensors[index] for index in remaining]
        buffers: list[Any] = [schema.BufferT()]
        stored: dict[bytes, int] = {}
        for holder in (*self.tensors, *(self.model.metadata or [])):
            data = self.model.buffers[holder.buffer].data
            content = b"" if data is None else bytes(data)
            if content and content not in stored:
                stored[content] = len(buffers)
                buffers.append(self.model.buffers[holder.buffer])
            holder.buffer = stored[content] if content else 0
        self.model.buffers = buffers


class _AlignedBuilder(flatbuffers.Builder):  # type: ignore[misc]
    """A builder that puts vectors of bytes where their values can be read in place."""

    def StartVector(self, elemSize: int, numElems: int, alignment: int) -> Any:  # noqa: N802, N803
        wide = elemSize == 1 and numElems >= ALIGNMENT
        return super().StartVector(elemSize, numElems, ALIGNMENT if wide else alignment)


def _some(values: Any) -> Any:
    return () if values is None else values


def _packed(values: Array) -> Array:
    """Two 4-bit integers in each byte, the first in the lower half.

    >>> _packed(np.array([1, -1, 7], np.int8)).tolist()
    [241, 7]
    """
    nibbles = values.astype(np.int8).reshape(-1).view(np.uint8) & 0xF
    if nibbles.size % 2:
        nibbles = np.append(nibbles, np.uint8(0))
    packed: Array = nibbles[0::2] | (nibbles[1::2] << 4)
    return packed
