"""What is in the bytes of an ONNX file with bit layers: a walk over the wire format of protocol buffers.

Field numbers are those of onnx.proto (https://github.com/onnx/onnx/blob/main/onnx/onnx.proto), the encoding that of
https://protobuf.dev/programming-guides/encoding/.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

DOMAIN = b"edgepress"

# Numbers of fields, by message.
_GRAPH, _FUNCTION = 7, 25
_FUNCTION_DOMAIN = 10
_NODE = 1
_NODE_NAME, _NODE_ATTRIBUTE, _NODE_DOMAIN = 3, 5, 7
_ATTRIBUTE_NAME, _ATTRIBUTE_INT = 1, 3


class _Field(NamedTuple):
    number: int
    begin: int  # of its key
    start: int  # of its value
    end: int
    value: int


def without_functions(content: bytes) -> bytes:
    """Return the file without the functions of bit layers, so that these are left to an operator of that name.

    Raises:
        ValueError: it is not the wire format.
    """
    pieces, position = [], 0
    for field in _fields(content, 0, len(content)):
        if field.number == _FUNCTION and _bytes(content, field, _FUNCTION_DOMAIN) == DOMAIN:
            pieces.append(content[position : field.begin])
            position = field.end
    return b"".join([*pieces, content[position:]])


def bit_layers(content: bytes) -> dict[str, str]:
    """Return what each bit layer multiplies, by the name of its node: "1-bit x 1-bit", weights first.

    Raises:
        ValueError: it is not the wire format.
    """
    entries = {}
    for graph in _fields(content, 0, len(content)):
        if graph.number != _GRAPH:
            continue
        for node in _fields(content, graph.start, graph.end):
            if node.number == _NODE and _bytes(content, node, _NODE_DOMAIN) == DOMAIN:
                numbers = dict(_integers(content, node))
                bits = numbers.get(b"weight_bits"), numbers.get(b"activation_bits")
                entries[_bytes(content, node, _NODE_NAME).decode("utf-8", "replace")] = f"{bits[0]}-bit x {bits[1]}-bit"
    return entries


def _integers(content: bytes, node: _Field) -> Iterator[tuple[bytes, int]]:
    for field in _fields(content, node.start, node.end):
        if field.number == _NODE_ATTRIBUTE:
            values = {each.number: each.value for each in _fields(content, field.start, field.end)}
            yield _bytes(content, field, _ATTRIBUTE_NAME), values.get(_ATTRIBUTE_INT, 0)


def _bytes(content: bytes, message: _Field, number: int) -> bytes:
    matching = [field for field in _fields(content, message.start, message.end) if field.number == number]
    return content[matching[-1].start : matching[-1].end] if matching else b""


def _fields(content: bytes, position: int, end: int) -> Iterator[_Field]:
    while position < end:
        begin = position
        key, position = _varint(content, position, end)
        kind, value = key & 7, 0
        if kind == 0:
            start = position
            value, position = _varint(content, position, end)
        elif kind == 2:
            size, start = _varint(content, position, end)
            position = start + size
        elif kind in (1, 5):
            start = position
            position += 8 if kind == 1 else 4
        else:
            raise ValueError(f"it has a field of the unknown kind {kind}")
        if position > end:
            raise ValueError("it ends within a field")
        yield _Field(key >> 3, begin, start, position, value)


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
