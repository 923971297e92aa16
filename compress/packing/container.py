"""The container of a packed file, version 2.

    8 bytes   "EDGEPACK"
    2 bytes   version, little-endian
    4 bytes   length of the header, little-endian
    header    JSON, compressed with Zstandard: the file's name, size and SHA-256; the streams
    streams   the file without its large tensors, then the streams of each tensor
    32 bytes  SHA-256 of all before

The header lists for each tensor its place in the file, the codings it is stored in, in order
(:mod:`compress.packing.codings`), and its streams with the compressor and the size of each
(:mod:`compress.packing.streams`). A reader refuses a coding that it does not know.

Version 1 had no Huffman codes, the codings bitmask (of zeros alone) and planes, and told nothing of memory; it is read.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import struct
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import zstandard
from pydantic import Field, ValidationError

from ..errors import InvalidInput
from ..files.outputs import new_file
from ..files.untrusted import read_bytes, require_at_most
from . import codings
from .memory import memory
from .streams import LARGEST_BYTES, LEVEL, Record, Size, Stream, compressed, decompressed, estimated_bytes, restored
from .tensors import Place, places

MAGIC = b"EDGEPACK"
VERSION, OLDEST_VERSION = 2, 1
SUFFIX = ".packed"
SMALLEST_BYTES = 512  # of a tensor that is coded on its own; smaller ones stay among the rest
LARGEST_HEADER_BYTES = 2**24
MOST_TIMES, FREE_BYTES = 1000, 2**24
"""How many times a packed file may grow, once it grows beyond so many bytes: no network's weights repeat so much."""
_PREFIX = struct.Struct("<8sHI")
_DIGEST_BYTES = 32
_PLAIN = ((), ("planes",))
_REPEATING = (("bitmask",), ("bitmask", "planes"), ("gaps",), ("gaps", "planes"))
_SHARED_BYTES = tuple((codes.name, "gaps") for codes in codings.SHARED_BYTES)
CANDIDATES = (*_PLAIN, *_REPEATING, *_SHARED_BYTES)
_REPEATED, _SHARED_REPEATED = 0.02, 0.6  # least shares of the most frequent value that can pay


class Tensor(Record):
    """A tensor: ``size`` bytes of the file from ``offset`` on, in ``codings``."""

    offset: Size
    size: Size
    codings: Annotated[tuple[Mapping[str, Any], ...], Field(max_length=8)]
    streams: Annotated[tuple[Stream, ...], Field(max_length=64)]


class Header(Record):
    """What a packed file says of itself; ``rest`` is everything but ``tensors``.

    ``memory_bytes`` is what the unpacked file's weights take in an engine (:mod:`compress.packing.memory`).
    """

    name: str
    size: Size
    sha256: str
    rest: Stream
    tensors: tuple[Tensor, ...]
    memory_bytes: Annotated[int, Field(ge=0)] | None = None
    memory_at_least: bool = False


@dataclass(frozen=True)
class PackedTensor:
    """How a tensor is stored: its codings in a row, "plain" if none, and the compressor of each stream.

    ``name`` is empty for a tensor that is no initializer.
    """

    name: str
    size_bytes: int
    packed_bytes: int
    coding: str
    compressors: tuple[str, ...]


@dataclass(frozen=True)
class Packed:
    """The account of a packed file: ``packed_bytes`` are to download, ``size_bytes`` on disk when it is unpacked.

    ``memory_bytes`` are the weights in an engine, as floats where it computes with floats, at least so many if
    ``memory_at_least``; None where the file does not tell. ``codings`` counts the tensors by how they are stored
    ("bitmask, planes"), ``tensors`` tells it of each, ``tensor_bytes`` what they take packed.
    """

    path: Path
    size_bytes: int
    packed_bytes: int
    sha256: str
    codings: Mapping[str, int]
    tensor_bytes: int
    memory_bytes: int | None
    memory_at_least: bool
    tensors: tuple[PackedTensor, ...]

    @property
    def ratio(self) -> float:
        """Times smaller than the file."""
        return self.size_bytes / self.packed_bytes


def encode(content: bytes, name: str) -> bytes:
    """The packed form of the ONNX file ``content``.

    Raises:
        InvalidInput: it is no ONNX file, or not one file.
    """
    try:
        large = [place for place in places(content) if place.size >= SMALLEST_BYTES]
    except ValueError as error:
        raise InvalidInput(f"pack {name}: not an ONNX file that can be packed: {error}") from error
    if len(content) >= LARGEST_BYTES:
        raise InvalidInput(f"pack {name}: {len(content)} bytes, and an ONNX file has less than {LARGEST_BYTES}")
    rest, rest_bytes = compressed(b"".join(_between(content, large)))
    stored = [rest_bytes]
    tensors = []
    for place in large:
        record, streams = _smallest(content, place)
        tensors.append(record)
        stored += streams
    digest = hashlib.sha256(content).hexdigest()
    held = memory(content)
    header = Header(
        name=name,
        size=len(content),
        sha256=digest,
        rest=rest,
        tensors=tuple(tensors),
        memory_bytes=held.bytes,
        memory_at_least=held.at_least,
    )
    head = zstandard.compress(header.model_dump_json().encode(), LEVEL)
    body = b"".join((_PREFIX.pack(MAGIC, VERSION, len(head)), head, *stored))
    return body + hashlib.sha256(body).digest()


def decode(packed: bytes, name: str, most_times: int | None = None) -> tuple[Header, bytes]:
    """The header of a packed file and the file that it was made from, bit for bit.

    Args:
        most_times: how much larger it may be, if it is large; told by the header, before anything is restored.

    Raises:
        InvalidInput: it is not a packed file, truncated or changed, of another version, in a coding not known here, or
            grows more.
    """
    header, streams = _opened(packed, name)
    if most_times is not None and header.size > FREE_BYTES:
        grown = f"unpack {name}: it would grow from {len(packed):,} to {header.size:,} bytes"
        require_at_most(-(-header.size // len(packed)), most_times, "times", grown)
    try:
        if sum(tensor.size for tensor in header.tensors) + header.rest.raw_bytes != header.size:
            raise ValueError("its parts are not the whole")
        rest = restored(header.rest, next(streams))
        pieces, taken, end = [], 0, 0
        for tensor in header.tensors:
            gap = tensor.offset - end
            if gap < 0:
                raise ValueError("its tensors overlap")
            if sum(stream.raw_bytes for stream in tensor.streams) > 2 * codings.LARGEST_GROWTH * tensor.size:
                raise ValueError(f"streams that are too large for a tensor of {tensor.size} bytes")
            restored_streams = [restored(stream, next(streams)) for stream in tensor.streams]
            data = codings.decode(tensor.codings, restored_streams, tensor.size)
            pieces += [rest[taken : taken + gap], data]
            taken, end = taken + gap, tensor.offset + tensor.size
        content = b"".join((*pieces, rest[taken:]))
    except ValueError as error:
        raise InvalidInput(f"unpack {name}: it cannot be restored: {error}; use the version that packed it") from error
    if hashlib.sha256(content).hexdigest() != header.sha256:
        raise InvalidInput(f"unpack {name}: what was restored is not the file that was packed; pack it again")
    return header, content


def pack(source: Path, target: Path, *, overwrite: bool = False) -> Packed:
    """The account of the packed file of ``source`` that is written to ``target``, whole or not at all.

    Raises:
        InvalidInput: ``source`` cannot be read or is no ONNX file, or ``target`` exists or cannot be written.
    """
    with new_file(target, overwrite=overwrite) as file:
        content = read_bytes(source, "pack", LARGEST_BYTES)
        packed = encode(content, source.name)
        header, again = decode(packed, source.name)
        assert again == content, f"{source}: packing loses nothing"
        file.write_bytes(packed)
    return _account(header, content, target, len(packed))


def unpack(source: Path, target: Path, *, overwrite: bool = False) -> Packed:
    """The account of the file that is restored from ``source`` to ``target``, whole or not at all.

    Raises:
        InvalidInput: ``source`` is not a whole packed file, or ``target`` exists or cannot be written.
    """
    with new_file(target, overwrite=overwrite) as file:
        packed = read_bytes(source, "unpack", LARGEST_BYTES)
        header, content = decode(packed, str(source), MOST_TIMES)
        file.write_bytes(content)
    return _account(header, content, source, len(packed))


def _account(header: Header, content: bytes, path: Path, packed_bytes: int) -> Packed:
    names = _names(content)
    tensors = tuple(
        PackedTensor(
            name=names.get(tensor.offset, ""),
            size_bytes=tensor.size,
            packed_bytes=sum(stream.bytes for stream in tensor.streams),
            coding=", ".join(record["name"] for record in tensor.codings) or "plain",
            compressors=tuple(stream.compressor for stream in tensor.streams),
        )
        for tensor in header.tensors
    )
    return Packed(
        path=path,
        size_bytes=header.size,
        packed_bytes=packed_bytes,
        sha256=header.sha256,
        codings=dict(sorted(Counter(tensor.coding for tensor in tensors).items())),
        tensor_bytes=sum(tensor.packed_bytes for tensor in tensors),
        memory_bytes=header.memory_bytes,
        memory_at_least=header.memory_at_least,
        tensors=tensors,
    )


def _names(content: bytes) -> dict[int, str]:
    """What the tensors are called, by their offsets."""
    try:
        return {place.offset: place.name for place in places(content)}
    except ValueError:
        return {}  # a file that some other program packed: it is restored, whatever it is


def _between(content: bytes, apart: Sequence[Place]) -> Iterator[bytes]:
    """The bytes around the tensors."""
    edges = [0, *itertools.chain.from_iterable((p.offset, p.offset + p.size) for p in apart), len(content)]
    for start, end in zip(edges[::2], edges[1::2], strict=True):
        yield content[start:end]


def _smallest(content: bytes, place: Place) -> tuple[Tensor, list[bytes]]:
    """The tensor in the codings that take the fewest bytes."""
    data = content[place.offset : place.offset + place.size]
    coded = (codings.encode(data, place.itemsize, names) for names in _candidates(data, place.itemsize))
    records, streams = min(coded, key=lambda one: sum(map(estimated_bytes, one[1])))
    coded_streams, stored = zip(*map(compressed, streams), strict=True)
    return Tensor(offset=place.offset, size=place.size, codings=records, streams=coded_streams), list(stored)


def _candidates(data: bytes, itemsize: int) -> Iterator[tuple[str, ...]]:
    """The codings that can pay, the simplest first."""
    repeating = codings.most_frequent(data, itemsize)[1] >= _REPEATED
    for names in (*_PLAIN, *(_REPEATING if repeating else ())):
        if itemsize > 1 or "planes" not in names:
            yield names
    if itemsize == 1:
        for codes, names in zip(codings.SHARED_BYTES, _SHARED_BYTES, strict=True):
            if codes.share(data) >= _SHARED_REPEATED:
                yield names


def _opened(packed: bytes, name: str) -> tuple[Header, Iterator[bytes]]:
    """The header of a packed file that is whole, and its stored streams in order."""
    if packed[: len(MAGIC)] != MAGIC:
        raise InvalidInput(f"unpack {name}: not a packed file; `compress pack` makes them")
    body, digest = packed[:-_DIGEST_BYTES], packed[-_DIGEST_BYTES:]
    if len(body) < _PREFIX.size or hashlib.sha256(body).digest() != digest:
        raise InvalidInput(f"unpack {name}: it is not what was packed (truncated or changed); get it or pack it again")
    _, version, length = _PREFIX.unpack_from(body)
    if not OLDEST_VERSION <= version <= VERSION:
        known = f"{OLDEST_VERSION} to {VERSION}"
        raise InvalidInput(f"unpack {name}: it has the version {version}, and this program reads {known}; update it")
    start = _PREFIX.size + length
    try:
        header = Header.model_validate(json.loads(decompressed(body[_PREFIX.size : start], LARGEST_HEADER_BYTES)))
    except (ValidationError, ValueError, RecursionError) as error:
        raise InvalidInput(f"unpack {name}: its header cannot be read; pack it again") from error
    streams = [header.rest, *(stream for tensor in header.tensors for stream in tensor.streams)]
    if start + sum(stream.bytes for stream in streams) != len(body):
        raise InvalidInput(f"unpack {name}: its header and its size disagree; pack it again")
    ends = list(itertools.accumulate((stream.bytes for stream in streams), initial=start))
    return header, (body[begin:end] for begin, end in itertools.pairwise(ends))
