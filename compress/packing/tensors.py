"""Where the tensors of an ONNX file stand in its bytes: a walk over the wire format of protocol buffers.

Field numbers are those of onnx.proto (https://github.com/onnx/onnx/blob/main/onnx/onnx.proto), the encoding that of
https://protobuf.dev/programming-guides/encoding/.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

_MESSAGES = {
    "model": {7: "graph", 25: "function"},
    "graph": {1: "node", 5: "tensor"},
    "function": {7: "node"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph"},
}
_DATA_TYPE, _NAME, _RAW_DATA, _DATA_LOCATION = 2, 8, 9, 14
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
# Bytes of an element by TensorProto.DataType; those that share a byte (int4) or have no fixed size count as bytes;
# complex numbers (14, 15) as two.
ITEMSIZES = {1: 4, 4: 2, 5: 2, 6: 4, 7: 8, 10: 2, 11: 8, 12: 4, 13: 8, 14: 4, 15: 8, 16: 2}
_DEEPEST = 100  # messages in one another; protocol buffers read no more either


@dataclass(frozen=True)
class Place:
    """The stored bytes of a tensor: ``size`` of them from ``offset`` on, elements of ``itemsize`` bytes.

    ``name`` is what an initializer is called; tensors of attributes have none.
    """

    offset: int
    size: int
    itemsize: int
    name: str = ""


@dataclass(frozen=True)
class _Field:
    number: int
    start: int
    end: int
    value: int = 0


def places(content: bytes) -> tuple[Place, ...]:
    """The tensors that ``content`` holds as raw bytes, in the order of the file.

    Raises:
        ValueError: it is not the wire format of a model, or a tensor is stored in another file.
    """
    if not any(field.number == 7 for field in _fields(content, 0, len(content))):
        raise ValueError("it has no graph")
    return tuple(_walk(content, "model", 0, len(content)))


def _walk(content: bytes, message: str, start: int, end: int, depth: int = _DEEPEST) -> Iterator[Place]:
    if message == "tensor":
        fields = {field.number: field for field in _fields(content, start, end)}
        if _DATA_LOCATION in fields and fields[_DATA_LOCATION].value:
            raise ValueError("its weights are stored in another file; export it as one file")
        if _RAW_DATA in fields:
            data = fields[_RAW_DATA]
            size = data.end - data.start
            itemsize = ITEMSIZES.get(fields[_DATA_TYPE].value if _DATA_TYPE in fields else 0, 1)
            name = content[fields[_NAME].start : fields[_NAME].end].decode(errors="replace") if _NAME in fields else ""
            yield Place(data.start, size, itemsize if size % itemsize == 0 else 1, name)
        return
    if not depth:
        raise ValueError(f"it has more than {_DEEPEST} messages in one another")
    for field in _fields(content, start, end):
        inner = _MESSAGES[message].get(field.number)
        if inner is not None:
            yield from _walk(content, inner, field.start, field.end, depth - 1)


def _fields(content: bytes, position: int, end: int) -> Iterator[_Field]:
    while position < end:
        key, position = _varint(content, position, end)
        number, kind = key >> 3, key & 7
        if kind == _VARINT:
            value, after = _varint(content, position, end)
            yield _Field(number, position, after, value)
        elif kind == _BYTES:
            size, position = _varint(content, position, end)
            after = position + size
            yield _Field(number, position, min(after, end))
        elif kind in (_FIXED32, _FIXED64):
            after = position + (4 if kind == _FIXED32 else 8)
        else:
            raise ValueError(f"it has a field of the unknown kind {kind}")
        if after > end:
            raise ValueError("it ends within a field")
        position = after


def _varint(content: bytes, position: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while position < end and shift < 70:
        byte = content[position]
        value |= (byte & 0x7F) << shift
        position += 1
        if byte < 0x80:
            return value, position
        shift += 7
    raise ValueError("it ends within a number")
