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

LARGEST_GROWTH = 8
"""Times the bytes of a tensor that any stream has at most: codes of one bit get a byte each."""

_FILLER = 255
_LARGEST_ITEM = 16
_SAMPLE = 1 << 16


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

    def decode(self, record: Mapping[str, Any], sides: Sequence[bytes], main: bytes, most: int) -> bytes:
        """The values back again, ``most`` bytes at most.

        Raises:
            ValueError: streams and record do not fit together, or the values would be more.
        """
        ...


class Bitmask:
    """A bit for each value, set where it is not the most frequent one, and the values where it is set.

    >>> coded = Bitmask().encode(bytes([0, 7, 0, 0, 9]), 1)
    >>> coded.sides, coded.main, Bitmask().decode(coded.record, coded.sides, coded.main, 5)
    ((b'H',), b'\\x07\\t', b'\\x00\\x07\\x00\\x00\\t')
    """

    def encode(self, data: bytes, itemsize: int) -> Coded:
        values = _unsigned(data, itemsize)
        common, _ = most_frequent(data, itemsize)
        present = values != common
        record = {"name": "bitmask", "itemsize": itemsize, "count": len(values), "common": common}
        return Coded(record, (np.packbits(present).tobytes(),), values[present].tobytes(), itemsize)

    def sides(self, record: Mapping[str, Any]) -> int:
        return 1

    def decode(self, record: Mapping[str, Any], sides: Sequence[bytes], main: bytes, most: int) -> bytes:
        whole = _common(record, most)
        if len(sides[0]) != math.ceil(len(whole) / 8):
            raise ValueError(f"a mask of {len(sides[0])} bytes for {len(whole)} values")
        present = np.unpackbits(np.frombuffer(sides[0], np.uint8), count=len(whole)).astype(bool)
        values = _values(main, whole.itemsize)
        if int(present.sum()) != len(values):
            raise ValueError(f"{len(values)} values for a mask with {int(present.sum())} bits set")
        whole[present] = values
        return whole.tobytes()


class Gaps:
    """How many of the most frequent value stand before each other value, and the other values.

    A gap takes a byte, and 255 more for each byte of 255 before it: the filler of Han et al., "Deep Compression", 2016,
    section 2, which here stands for the most frequent value alone, so that nothing is added to the others.

    >>> coded = Gaps().encode(bytes([5, 5, 7, 9, 5]), 1)
    >>> coded.sides, coded.main, Gaps().decode(coded.record, coded.sides, coded.main, 5)
    ((b'\\x02\\x00',), b'\\x07\\t', b'\\x05\\x05\\x07\\t\\x05')
    """

    def encode(self, data: bytes, itemsize: int) -> Coded:
        values = _unsigned(data, itemsize)
        common, _ = most_frequent(data, itemsize)
        places = np.flatnonzero(values != common)
        fillers, last = np.divmod(np.diff(places, prepend=-1) - 1, _FILLER)
        gaps = np.full(len(places) + int(fillers.sum()), _FILLER, np.uint8)
        gaps[np.arange(len(places)) + np.cumsum(fillers)] = last
        record = {"name": "gaps", "itemsize": itemsize, "count": len(values), "common": common}
        return Coded(record, (gaps.tobytes(),), values[places].tobytes(), itemsize)

    def sides(self, record: Mapping[str, Any]) -> int:
        return 1

    def decode(self, record: Mapping[str, Any], sides: Sequence[bytes], main: bytes, most: int) -> bytes:
        whole = _common(record, most)
        gaps = np.frombuffer(sides[0], np.uint8)
        ending = gaps != _FILLER
        places = (np.cumsum(gaps, dtype=np.int64) + np.cumsum(ending))[ending] - 1
        values = _values(main, whole.itemsize)
        if len(places) != len(values) or (len(gaps) and not ending[-1]):
            raise ValueError(f"{len(values)} values for {len(places)} gaps")
        if len(places) and places[-1] >= len(whole):
            raise ValueError(f"gaps that lead to the place {places[-1]} of {len(whole)} values")
        whole[places] = values
        return whole.tobytes()


class Planes:
    """The first bytes of all values, the second ones, ...: of floats, the last has sign and exponent, which repeat.

    >>> Planes().encode(bytes([1, 2, 3, 4]), 2).sides, Planes().encode(bytes([1, 2, 3, 4]), 2).main
    ((b'\\x01\\x03',), b'\\x02\\x04')
    """

    def encode(self, data: bytes, itemsize: int) -> Coded:
        planes = [plane.tobytes() for plane in _rows(data, itemsize).T]
        return Coded({"name": "planes", "itemsize": itemsize}, tuple(planes[:-1]), planes[-1], 1)

    def sides(self, record: Mapping[str, Any]) -> int:
        return _size(record, "itemsize", _LARGEST_ITEM) - 1

    def decode(self, record: Mapping[str, Any], sides: Sequence[bytes], main: bytes, most: int) -> bytes:
        if any(len(side) != len(main) for side in sides):
            raise ValueError("planes of different lengths")
        if (len(sides) + 1) * len(main) > most:
            raise ValueError(f"{len(sides) + 1} planes of {len(main)} bytes, and {most} is the most")
        return np.stack([np.frombuffer(plane, np.uint8) for plane in (*sides, main)], axis=1).tobytes()


@dataclass(frozen=True)
class Codes:
    """The codes of ``bits`` bits that share bytes, the first in the low bits, in a byte each.

    >>> Codes(4).encode(bytes([0x21, 0x03]), 1).main
    b'\\x01\\x02\\x03\\x00'
    """

    bits: int

    @property
    def name(self) -> str:
        return f"{self.bits}-bit"

    def share(self, data: bytes) -> float:
        """The share of the most frequent code in ``data``."""
        times = np.bincount(np.frombuffer(data, np.uint8), minlength=256)
        codes = np.frombuffer(self.encode(bytes(range(256)), 1).main, np.uint8)
        return float(np.bincount(codes, np.repeat(times, 8 // self.bits)).max()) / max(len(data) * 8 // self.bits, 1)

    def encode(self, data: bytes, itemsize: int) -> Coded:
        codes = np.frombuffer(data, np.uint8)[:, None] >> self._shifts() & self._mask()
        return Coded({"name": self.name}, (), codes.tobytes(), 1)

    def sides(self, record: Mapping[str, Any]) -> int:
        return 0

    def decode(self, record: Mapping[str, Any], sides: Sequence[bytes], main: bytes, most: int) -> bytes:
        codes = _rows(main, 8 // self.bits)
        if len(codes) > most:
            raise ValueError(f"{len(main)} codes of {self.bits} bits, and {most} bytes is the most")
        if len(main) and codes.max() > self._mask():
            raise ValueError(f"a code of more than {self.bits} bits")
        joined: NDArray[np.uint8] = np.bitwise_or.reduce(codes << self._shifts(), axis=1)
        return joined.tobytes()

    def _shifts(self) -> NDArray[np.uint8]:
        return np.arange(0, 8, self.bits, dtype=np.uint8)

    def _mask(self) -> np.uint8:
        return np.uint8((1 << self.bits) - 1)


SHARED_BYTES = Codes(4), Codes(2), Codes(1)
CODINGS: Mapping[str, Coding] = {
    "bitmask": Bitmask(),
    "gaps": Gaps(),
    "planes": Planes(),
    **{codes.name: codes for codes in SHARED_BYTES},
}


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


def decode(records: Sequence[Mapping[str, Any]], streams: Sequence[bytes], size: int) -> bytes:
    """The ``size`` bytes that :func:`encode` was given.

    Raises:
        ValueError: a coding is not known here, streams and records do not fit together, or they are not ``size`` bytes.
    """
    parts: list[Sequence[bytes]] = []
    position = 0
    for record in records:
        name = record.get("name")
        if not isinstance(name, str) or name not in CODINGS:
            raise ValueError(f"the coding {name!r} is not known")
        count = CODINGS[name].sides(record)
        parts.append(streams[position : position + count])
        position += count
    if position + 1 != len(streams):
        raise ValueError(f"{len(streams)} streams, and the codings have {position + 1}")
    data = streams[-1]
    for record, sides in zip(reversed(records), reversed(parts), strict=True):
        data = CODINGS[record["name"]].decode(record, sides, data, LARGEST_GROWTH * size)
    if len(data) != size:
        raise ValueError(f"a tensor of {len(data)} bytes instead of {size}")
    return data


def most_frequent(data: bytes, itemsize: int) -> tuple[int, float]:
    """The most frequent value of a sample, as an unsigned integer, and its share of all values."""
    values = _unsigned(data, itemsize)
    if not len(values):
        return 0, 0.0
    sample = values if len(values) <= _SAMPLE else np.random.default_rng(0).choice(values, _SAMPLE)
    found, counts = np.unique(sample, return_counts=True)
    common = found[counts.argmax()]
    return int(common), int(np.count_nonzero(values == common)) / len(values)


def _common(record: Mapping[str, Any], most: int) -> NDArray[np.void]:
    """The values of a record, all of them the most frequent one; version 1 had no other than 0."""
    itemsize = _size(record, "itemsize", _LARGEST_ITEM)
    count = _size(record, "count", most // itemsize)
    common = record.get("common", 0)
    if not isinstance(common, int) or not 0 <= common < 1 << 8 * itemsize:
        raise ValueError(f"the coding {record.get('name')!r} has common={common!r}")
    return np.full(count, np.void(common.to_bytes(itemsize, "little")))


def _unsigned(data: bytes, itemsize: int) -> NDArray[np.unsignedinteger[Any]]:
    return _rows(data, itemsize).view(f"<u{itemsize}").ravel()


def _values(data: bytes, itemsize: int) -> NDArray[np.void]:
    return _rows(data, itemsize).view(f"V{itemsize}").ravel()


def _rows(data: bytes, itemsize: int) -> NDArray[np.uint8]:
    if len(data) % itemsize:
        raise ValueError(f"{len(data)} bytes are no whole number of values of {itemsize}")
    return np.frombuffer(data, np.uint8).reshape(-1, itemsize)


def _size(record: Mapping[str, Any], key: str, most: int) -> int:
    value = record.get(key)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= most:
        raise ValueError(f"the coding {record.get('name')!r} has {key}={value!r}, and {most} is the most")
    return value
