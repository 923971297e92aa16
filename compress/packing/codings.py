"""How the bytes of a tensor are stored: codings in a row, undone in reverse order. All are lossless.

A coding takes values of ``itemsize`` bytes and yields side streams and the main stream, which the next coding takes.
Its record, kept in the file's header, is all that undoing it needs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Coded:
    """What a coding made: its record, its side streams, and the main stream of values of ``itemsize`` bytes."""

    record: Mapping[str, Any]
    sides: tuple[bytes, ...]
    main: bytes
    itemsize: int


class Coding(Protocol):
    """A lossless coding of values that are given as bytes."""

    def encode(self, data: bytes, itemsize: int) -> Coded:
        """The values in this coding."""
        ...

    def sides(self, record: Mapping[str, Any]) -> int:
        """How many side streams it has."""
        ...

    def decode(self, record: Mapping[str, Any], sides: Sequence[bytes], main: bytes) -> bytes:
        """The values back again.

        Raises:
            ValueError: streams and record do not fit together.
        """
        ...


class Bitmask:
    """A bit for each value, set where any of its bits is, and the values with a bit set.

    >>> coded = Bitmask().encode(bytes([0, 7, 0, 0, 9]), 1)
    >>> coded.sides, coded.main, Bitmask().decode(coded.record, coded.sides, coded.main)
    ((b'H',), b'\\x07\\t', b'\\x00\\x07\\x00\\x00\\t')
    """

    def encode(self, data: bytes, itemsize: int) -> Coded:
        values = _values(data, itemsize)
        present = values.any(axis=1)
        record = {"name": "bitmask", "itemsize": itemsize, "count": len(values)}
        return Coded(record, (np.packbits(present).tobytes(),), values[present].tobytes(), itemsize)

    def sides(self, record: Mapping[str, Any]) -> int:
        return 1

    def decode(self, record: Mapping[str, Any], sides: Sequence[bytes], main: bytes) -> bytes:
        itemsize, count = _size(record, "itemsize"), _size(record, "count")
        if len(sides[0]) != math.ceil(count / 8):
            raise ValueError(f"a mask of {len(sides[0])} bytes for {count} values")
        present = np.unpackbits(np.frombuffer(sides[0], np.uint8), count=count).astype(bool)
        values = _values(main, itemsize)
        if int(present.sum()) != len(values):
            raise ValueError(f"{len(values)} values for a mask with {int(present.sum())} bits set")
        whole = np.zeros((count, itemsize), np.uint8)
        whole[present] = values
        return whole.tobytes()


class Planes:
    """The first bytes of all values, the second ones, ...: of floats, the last has sign and exponent, which repeat.

    >>> Planes().encode(bytes([1, 2, 3, 4]), 2).sides, Planes().encode(bytes([1, 2, 3, 4]), 2).main
    ((b'\\x01\\x03',), b'\\x02\\x04')
    """

    def encode(self, data: bytes, itemsize: int) -> Coded:
        planes = [plane.tobytes() for plane in _values(data, itemsize).T]
        return Coded({"name": "planes", "itemsize": itemsize}, tuple(planes[:-1]), planes[-1], 1)

    def sides(self, record: Mapping[str, Any]) -> int:
        return _size(record, "itemsize") - 1

    def decode(self, record: Mapping[str, Any], sides: Sequence[bytes], main: bytes) -> bytes:
        if any(len(side) != len(main) for side in sides):
            raise ValueError("planes of different lengths")
        return np.stack([np.frombuffer(plane, np.uint8) for plane in (*sides, main)], axis=1).tobytes()


CODINGS: Mapping[str, Coding] = {"bitmask": Bitmask(), "planes": Planes()}


def encode(data: bytes, itemsize: int, names: Sequence[str]) -> tuple[tuple[Mapping[str, Any], ...], tuple[bytes, ...]]:
    """The records of the codings ``names`` in a row, and the streams: the sides of each, and the main one last."""
    records: list[Mapping[str, Any]] = []
    streams: list[bytes] = []
    for name in names:
        coded = CODINGS[name].encode(data, itemsize)
        records.append(coded.record)
        streams += coded.sides
        data, itemsize = coded.main, coded.itemsize
    return tuple(records), (*streams, data)


def decode(records: Sequence[Mapping[str, Any]], streams: Sequence[bytes]) -> bytes:
    """The bytes that :func:`encode` was given.

    Raises:
        ValueError: a coding is not known here, or streams and records do not fit together.
    """
    parts: list[Sequence[bytes]] = []
    position = 0
    for record in records:
        if record.get("name") not in CODINGS:
            raise ValueError(f"the coding {record.get('name')!r} is not known")
        count = CODINGS[record["name"]].sides(record)
        parts.append(streams[position : position + count])
        position += count
    if position + 1 != len(streams):
        raise ValueError(f"{len(streams)} streams, and the codings have {position + 1}")
    data = streams[-1]
    for record, sides in zip(reversed(records), reversed(parts), strict=True):
        data = CODINGS[record["name"]].decode(record, sides, data)
    return data


def _values(data: bytes, itemsize: int) -> NDArray[np.uint8]:
    if len(data) % itemsize:
        raise ValueError(f"{len(data)} bytes are no whole number of values of {itemsize}")
    return np.frombuffer(data, np.uint8).reshape(-1, itemsize)


def _size(record: Mapping[str, Any], key: str) -> int:
    value = record.get(key)
    if not isinstance(value, int) or not 0 < value < 2**31:
        raise ValueError(f"the coding {record.get('name')!r} has {key}={value!r}")
    return value
