"""The container of a packed file, version 1.

    8 bytes   "EDGEPACK"
    2 bytes   version, little-endian
    4 bytes   length of the header, little-endian
    header    JSON, compressed with Zstandard: the file's name, size and SHA-256; the streams
    streams   the file without its large tensors, then the streams of each tensor
    32 bytes  SHA-256 of all before

The header lists for each tensor its place in the file, the codings it is stored in, in order
(:mod:`compress.packing.codings`), and its streams with the compressor and the size of each. A reader
refuses a coding that it does not know.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import struct
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import zstandard
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ..errors import InvalidInput
from . import codings
from .tensors import Place, places

MAGIC = b"EDGEPACK"
VERSION = 1
SUFFIX = ".packed"
LEVEL, QUICK_LEVEL = 19, 3
INCOMPRESSIBLE = 0.98  # of the bytes left by the quick level: the slow one finds nothing either
SMALLEST_BYTES = 512  # of a tensor that is coded on its own; smaller ones stay among the rest
LARGEST_BYTES = 2**31  # an ONNX file is smaller
_PREFIX = struct.Struct("<8sHI")
_DIGEST_BYTES = 32
CANDIDATES = ((), ("planes",), ("bitmask",), ("bitmask", "planes"))

Size = Annotated[int, Field(ge=0, lt=LARGEST_BYTES)]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Stream(_Record):
    """``bytes`` stored, which are ``raw_bytes`` when ``compressor`` is undone."""

    compressor: Literal["none", "zstd"]
    bytes: Size
    raw_bytes: Size


class Tensor(_Record):
    """A tensor: ``size`` bytes of the file from ``offset`` on, in ``codings``."""

    offset: Size
    size: Size
    codings: tuple[Mapping[str, Any], ...]
    streams: tuple[Stream, ...]


class Header(_Record):
    """What a packed file says of itself; ``rest`` is everything but ``tensors``."""

    name: str
    size: Size
    sha256: str
    rest: Stream
    tensors: tuple[Tensor, ...]


@dataclass(frozen=True)
class Packed:
    """The account of a packed file: ``packed_bytes`` travel, ``size_bytes`` are on disk and in memory when unpacked.

    ``codings`` counts the tensors by how they are stored ("bitmask, planes"), ``tensor_bytes`` what they take packed.
    """

    path: Path
    size_bytes: int
    packed_bytes: int
    sha256: str
    codings: Mapping[str, int]
    tensor_bytes: int

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
        found = [place for place in places(content) if place.size >= SMALLEST_BYTES]
    except ValueError as error:
        raise InvalidInput(f"pack {name}: not an ONNX file that can be packed: {error}") from error
    if len(content) >= LARGEST_BYTES:
        raise InvalidInput(f"pack {name}: {len(content)} bytes, and an ONNX file has less than {LARGEST_BYTES}")
    rest, rest_bytes = _compressed(b"".join(_between(content, found)))
    stored = [rest_bytes]
    tensors = []
    for place in found:
        record, streams = _smallest(content, place)
        tensors.append(record)
        stored += streams
    digest = hashlib.sha256(content).hexdigest()
    header = Header(name=name, size=len(content), sha256=digest, rest=rest, tensors=tuple(tensors))
    told = zstandard.compress(header.model_dump_json().encode(), LEVEL)
    body = b"".join((_PREFIX.pack(MAGIC, VERSION, len(told)), told, *stored))
    return body + hashlib.sha256(body).digest()


def decode(packed: bytes, name: str) -> tuple[Header, bytes]:
    """The header of a packed file and the file that it was made from, bit for bit.

    Raises:
        InvalidInput: it is not a packed file, truncated or changed, of another version, or in a coding not known here.
    """
    header, streams = _opened(packed, name)
    try:
        if sum(tensor.size for tensor in header.tensors) + header.rest.raw_bytes != header.size:
            raise ValueError("its parts are not the whole")
        rest = _restored(header.rest, next(streams))
        pieces, taken, end = [], 0, 0
        for tensor in header.tensors:
            gap = tensor.offset - end
            if gap < 0:
                raise ValueError("its tensors overlap")
            data = codings.decode(tensor.codings, [_restored(s, next(streams)) for s in tensor.streams])
            if len(data) != tensor.size:
                raise ValueError(f"a tensor of {len(data)} bytes instead of {tensor.size}")
            pieces += [rest[taken : taken + gap], data]
            taken, end = taken + gap, tensor.offset + tensor.size
        content = b"".join((*pieces, rest[taken:]))
    except (ValueError, zstandard.ZstdError) as error:
        raise InvalidInput(f"unpack {name}: it cannot be restored: {error}; use the version that packed it") from error
    if hashlib.sha256(content).hexdigest() != header.sha256:
        raise InvalidInput(f"unpack {name}: what was restored is not the file that was packed; pack it again")
    return header, content


def pack(source: Path, target: Path, *, overwrite: bool = False) -> Packed:
    """The account of the packed file of ``source`` that is written to ``target``, whole or not at all.

    Raises:
        InvalidInput: ``source`` cannot be read or is no ONNX file, or ``target`` exists or cannot be written.
    """
    _require_free(target, overwrite)
    content = _read(source, "pack")
    packed = encode(content, source.name)
    header, restored = decode(packed, source.name)
    assert restored == content, f"{source}: packing loses nothing"
    _write(packed, target, "pack")
    return _account(header, target, len(packed))


def unpack(source: Path, target: Path, *, overwrite: bool = False) -> Packed:
    """The account of the file that is restored from ``source`` to ``target``, whole or not at all.

    Raises:
        InvalidInput: ``source`` is not a whole packed file, or ``target`` exists or cannot be written.
    """
    _require_free(target, overwrite)
    packed = _read(source, "unpack")
    header, content = decode(packed, str(source))
    _write(content, target, "unpack")
    return _account(header, source, len(packed))


def _account(header: Header, path: Path, packed_bytes: int) -> Packed:
    counts: dict[str, int] = {}
    for tensor in header.tensors:
        name = ", ".join(record["name"] for record in tensor.codings) or "plain"
        counts[name] = counts.get(name, 0) + 1
    tensor_bytes = sum(stream.bytes for tensor in header.tensors for stream in tensor.streams)
    return Packed(path, header.size, packed_bytes, header.sha256, dict(sorted(counts.items())), tensor_bytes)


def _between(content: bytes, found: Sequence[Place]) -> Iterator[bytes]:
    """The bytes around the tensors."""
    edges = [0, *itertools.chain.from_iterable((p.offset, p.offset + p.size) for p in found), len(content)]
    for start, end in zip(edges[::2], edges[1::2], strict=True):
        yield content[start:end]


def _smallest(content: bytes, place: Place) -> tuple[Tensor, list[bytes]]:
    """The tensor in the codings that take the fewest bytes."""
    data = content[place.offset : place.offset + place.size]
    candidates = CANDIDATES if b"\0" * place.itemsize in data else CANDIDATES[:2]
    coded = [codings.encode(data, place.itemsize, names) for names in candidates]
    records, streams = min(coded, key=lambda one: sum(len(_zstd(stream, QUICK_LEVEL)) for stream in one[1]))
    told, stored = zip(*map(_compressed, streams), strict=True)
    return Tensor(offset=place.offset, size=place.size, codings=records, streams=told), list(stored)


def _zstd(data: bytes, level: int) -> bytes:
    return zstandard.ZstdCompressor(level=level, write_content_size=False).compress(data)


def _compressed(data: bytes) -> tuple[Stream, bytes]:
    smaller = _zstd(data, QUICK_LEVEL)
    if len(smaller) < INCOMPRESSIBLE * len(data):
        smaller = min(smaller, _zstd(data, LEVEL), key=len)
    compressor: Literal["none", "zstd"] = "zstd" if len(smaller) < len(data) else "none"
    stored = smaller if compressor == "zstd" else data
    return Stream(compressor=compressor, bytes=len(stored), raw_bytes=len(data)), stored


def _restored(stream: Stream, stored: bytes) -> bytes:
    data = stored
    if stream.compressor == "zstd":
        data = zstandard.ZstdDecompressor().decompress(stored, max_output_size=stream.raw_bytes)
    if len(data) != stream.raw_bytes:
        raise ValueError(f"a stream of {len(data)} bytes instead of {stream.raw_bytes}")
    return data


def _opened(packed: bytes, name: str) -> tuple[Header, Iterator[bytes]]:
    """The header of a packed file that is whole, and its stored streams in order."""
    if packed[: len(MAGIC)] != MAGIC:
        raise InvalidInput(f"unpack {name}: not a packed file; `compress pack` makes them")
    body, digest = packed[:-_DIGEST_BYTES], packed[-_DIGEST_BYTES:]
    if len(body) < _PREFIX.size or hashlib.sha256(body).digest() != digest:
        raise InvalidInput(f"unpack {name}: it is not what was packed (truncated or changed); get it or pack it again")
    _, version, length = _PREFIX.unpack_from(body)
    if version != VERSION:
        raise InvalidInput(f"unpack {name}: it has the version {version}, and this program reads {VERSION}")
    start = _PREFIX.size + length
    try:
        told = zstandard.ZstdDecompressor().decompress(body[_PREFIX.size : start], max_output_size=2**26)
        header = Header.model_validate(json.loads(told))
    except (zstandard.ZstdError, ValidationError, ValueError) as error:
        raise InvalidInput(f"unpack {name}: its header cannot be read; pack it again") from error
    streams = [header.rest, *(stream for tensor in header.tensors for stream in tensor.streams)]
    if start + sum(stream.bytes for stream in streams) != len(body):
        raise InvalidInput(f"unpack {name}: its header and its size disagree; pack it again")
    ends = list(itertools.accumulate((stream.bytes for stream in streams), initial=start))
    return header, (body[begin:end] for begin, end in itertools.pairwise(ends))


def _read(path: Path, verb: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InvalidInput(f"{verb} {path}: cannot be read ({error.strerror})") from error


def _require_free(path: Path, overwrite: bool) -> None:
    if path.exists() and not overwrite:
        raise InvalidInput(f"output {path}: it exists; give another -o, or --overwrite to replace it")


def _write(content: bytes, path: Path, verb: str) -> None:
    partial: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        partial = Path(name)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        partial.chmod(0o644)
        partial.replace(path)
    except OSError as error:
        if partial is not None:
            partial.unlink(missing_ok=True)
        raise InvalidInput(f"{verb} {path}: cannot be written ({error.strerror}); give another -o") from error
