"""Streams of bytes in the compressor that takes the fewest: none, Zstandard (RFC 8878) or Huffman codes."""

from __future__ import annotations

from typing import Annotated, Literal

import zstandard
from pydantic import BaseModel, ConfigDict, Field

from . import huffman

LEVEL, QUICK_LEVEL = 19, 3
INCOMPRESSIBLE = 0.98  # of the bytes left by the quick level: the slow one finds nothing either
LARGEST_BYTES = 2**31  # an ONNX file is smaller

Size = Annotated[int, Field(ge=0, lt=LARGEST_BYTES)]


class Record(BaseModel):
    """A part of the header."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Stream(Record):
    """``bytes`` stored, which are ``raw_bytes`` when ``compressor`` is undone."""

    compressor: Literal["none", "zstd", "huffman"]
    bytes: Size
    raw_bytes: Size


def compressed(data: bytes) -> tuple[Stream, bytes]:
    """The smallest form of ``data``: its record and the bytes to store."""
    smaller = _zstd(data, QUICK_LEVEL)
    if len(smaller) < INCOMPRESSIBLE * len(data):
        smaller = min(smaller, _zstd(data, LEVEL), key=len)
    forms: dict[Literal["none", "zstd", "huffman"], bytes] = {"none": data, "zstd": smaller}
    if huffman.least_bytes(data) < min(len(data), len(smaller)):
        forms["huffman"] = huffman.encode(data)
    compressor = min(forms, key=lambda name: len(forms[name]))
    stored = forms[compressor]
    return Stream(compressor=compressor, bytes=len(stored), raw_bytes=len(data)), stored


def estimated_bytes(data: bytes) -> int:
    """About the bytes that `compressed` takes for ``data``, found quickly."""
    return min(len(data), len(_zstd(data, QUICK_LEVEL)), huffman.least_bytes(data))


def restored(stream: Stream, stored: bytes) -> bytes:
    """The bytes that `compressed` was given.

    Raises:
        ValueError: ``stored`` does not fit its record.
    """
    data = stored
    if stream.compressor == "zstd":
        data = decompressed(stored, stream.raw_bytes)
    elif stream.compressor == "huffman":
        data = huffman.decode(stored, stream.raw_bytes)
    if len(data) != stream.raw_bytes:
        raise ValueError(f"a stream of {len(data)} bytes instead of {stream.raw_bytes}")
    return data


def decompressed(stored: bytes, most: int) -> bytes:
    """The content of a frame of Zstandard, ``most`` bytes at most.

    Raises:
        ValueError: it is no such frame.
    """
    try:
        size = zstandard.frame_content_size(stored)  # which is what the library allocates, whatever limit it is given
        if size > most:
            raise ValueError(f"a frame of {size} bytes, and {most} is the most")
        return zstandard.ZstdDecompressor().decompress(stored, max_output_size=max(most, 1))
    except zstandard.ZstdError as error:
        raise ValueError(str(error)) from error


def _zstd(data: bytes, level: int) -> bytes:
    return zstandard.ZstdCompressor(level=level, write_content_size=False).compress(data)
