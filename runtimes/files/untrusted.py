"""Files that others wrote: what they declare is held to limits before it is read, and parsers fail in one line.

A file may be a pipe that never ends, a few bytes that unpack to a machine's memory, or no more than half of itself.
The limits leave room for real calibration sets; where they do not, ``--large-files`` lifts them for all that a command
reads, and so does ``EDGEPRESS_LARGE_FILES=1`` for this process and those that it starts.
"""

from __future__ import annotations

import io
import json
import math
import os
import stat
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InvalidInputs

OPTION, VARIABLE = "--large-files", "EDGEPRESS_LARGE_FILES"
ARRAY_BYTES = 2**31
"""Of all arrays of a file in memory."""
TEXT_BYTES = 2**26
"""Of a file of text or JSON."""
MEMBERS = 4096
"""Arrays in a file."""

_HEADER_CHARACTERS = 10_000
_AT_ONCE = 2**22  # bytes that are read at once: a zip's directory too
_ENCRYPTED = 0x1
_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


class Unreadable(InvalidInputs):
    """A file is missing, no plain file, damaged, too large, or not of the form expected; the message begins with it."""


def large_files() -> bool:
    """Return whether the limits are lifted."""
    return os.environ.get(VARIABLE, "").lower() not in ("", "0", "false", "no", "off")


@contextmanager
def limits_lifted(wanted: bool = True) -> Iterator[None]:
    """Within, the limits are lifted, if that is ``wanted``, for this process and those that it starts."""
    before = os.environ.get(VARIABLE)
    try:
        if wanted:
            os.environ[VARIABLE] = "1"
        yield
    finally:
        if before is None:
            os.environ.pop(VARIABLE, None)
        else:
            os.environ[VARIABLE] = before


def require_at_most(count: int, most: int, what: str, where: object) -> None:
    """Raise Unreadable if ``where`` has more than ``most`` of something ("bytes"), and the limits are not lifted."""
    if count > most and not large_files():
        raise Unreadable(f"{where}: {count:,} {what}, and {most:,} is the most; add {OPTION} if it is to be so large")


def require_file(path: Path | str) -> Path:
    """Return ``path``, which is a plain file, or a link to one; raises Unreadable: a pipe is not waited for."""
    path = Path(path)
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as error:  # a name with a null byte is a ValueError
        raise Unreadable(f"{path}: {_reason(error)}") from error
    if not stat.S_ISREG(mode):
        raise Unreadable(f"{path}: expected a file, got {_KINDS.get(stat.S_IFMT(mode), 'something else')}")
    return path


def read_bytes(path: Path | str, most: int = ARRAY_BYTES) -> bytes:
    """Return what is in a file of ``most`` bytes at most; raises Unreadable."""
    path = require_file(path)
    try:
        with path.open("rb") as file:
            require_at_most(os.fstat(file.fileno()).st_size, most, "bytes", path)
            return file.read(most + 1 if not large_files() else -1)
    except OSError as error:
        raise Unreadable(f"{path}: {_reason(error)}") from error


def read_text(path: Path | str, most: int = TEXT_BYTES) -> str:
    """Return the text of a file in UTF-8; raises Unreadable."""
    try:
        return read_bytes(path, most).decode("utf-8")
    except UnicodeDecodeError as error:
        raise Unreadable(f"{path}: expected text in UTF-8, got other bytes at {error.start}") from error


def read_json(path: Path | str, most: int = TEXT_BYTES) -> Any:
    """Return what a file of JSON holds; raises Unreadable."""
    return parse_json(read_text(path, most), path)


def parse_json(text: str, where: object) -> Any:
    """Return what ``text`` from ``where`` holds.

    >>> parse_json('{"a": [1]}', "a.json")
    {'a': [1]}

    Raises:
        Unreadable: it is no JSON, ends early, is nested too deep, or has a number of thousands of digits.
    """
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        if not text.strip():
            reason = "the file is empty"
        elif error.msg.startswith("Unterminated") or error.pos >= len(text.rstrip()) - 1:
            reason = f"the JSON ends early, at line {error.lineno}: the file is truncated"
        else:
            reason = f"not JSON at line {error.lineno}, column {error.colno} ({error.msg})"
    except RecursionError:
        reason = "the JSON is nested too deep"
    except ValueError:
        reason = f"a number in the JSON has more than {sys.get_int_max_str_digits()} digits"
    raise Unreadable(f"{where}: {reason}")


def read_arrays(path: Path | str, most: int = ARRAY_BYTES) -> dict[str, NDArray[Any]]:
    """Return the arrays of an ``.npz`` by name: numbers in this machine's byte order, ``most`` bytes in all.

    Raises:
        Unreadable: the file is none, damaged, or encrypted; an array holds objects, text or records; or the arrays
            would take more, which is told by their headers, before any of them is read.
    """
    with _archive(require_file(path)) as (archive, members):
        require_at_most(sum(member.file_size for member in members.values()), most, "bytes of arrays", path)
        for name, member in members.items():
            with archive.open(member) as file:
                _require_plain(file, member.file_size, f"{path}: {name}")
        arrays = {}
        for name, member in members.items():
            with archive.open(member) as file:
                arrays[name] = np.lib.format.read_array(file, allow_pickle=False, max_header_size=_HEADER_CHARACTERS)
        return {name: array.astype(array.dtype.newbyteorder("="), copy=False) for name, array in arrays.items()}


@contextmanager
def _archive(path: Path) -> Iterator[tuple[zipfile.ZipFile, dict[str, zipfile.ZipInfo]]]:
    """A zip file and its members by name; what its parser stumbles over, while it is open, is told in one line."""
    try:
        with _Reader(io.FileIO(path)) as file:
            if file.peek(6)[:6] == b"\x93NUMPY":
                raise Unreadable(f"{path}: expected an .npz of arrays by name, got one array (.npy); use numpy.savez")
            with zipfile.ZipFile(file) as archive:
                yield archive, _members(archive, path)
    except (Unreadable, MemoryError):
        raise
    except Exception as error:  # zipfile and zlib fail in as many ways as a file can be damaged
        raise Unreadable(f"{path}: not a readable .npz of arrays ({_reason(error)})") from error


def _members(archive: zipfile.ZipFile, path: Path) -> dict[str, zipfile.ZipInfo]:
    entries = archive.infolist()
    require_at_most(len(entries), MEMBERS, "arrays", path)
    members = {member.filename.removesuffix(".npy"): member for member in entries}
    if len(members) != len(entries):
        raise Unreadable(f"{path}: two arrays of it have one name")
    for name, member in members.items():
        if member.flag_bits & _ENCRYPTED:
            raise Unreadable(f"{path}: {name} is encrypted")
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise Unreadable(f"{path}: {name} is compressed otherwise than numpy does it; use numpy.savez_compressed")
    return members


def _require_plain(file: Any, size: int, where: str) -> None:
    """Raise Unreadable unless the member of ``size`` bytes is an array of numbers that it holds to the last one."""
    try:
        shape, _, dtype = _HEADERS[np.lib.format.read_magic(file)](file, max_header_size=_HEADER_CHARACTERS)
    except Exception as error:
        raise Unreadable(f"{where} is no array ({_reason(error)})") from error
    if dtype.hasobject:
        raise Unreadable(f"{where} holds Python objects; expected an array of numbers")
    if dtype.kind not in "biuf" or dtype.itemsize > 8:
        raise Unreadable(f"{where} is of the type {dtype}; expected an array of numbers")
    if any(type(length) is not int or length < 0 for length in shape):
        raise Unreadable(f"{where} has the shape {shape}; expected sizes of 0 or more")
    if math.prod(shape) * dtype.itemsize != size - file.tell():
        raise Unreadable(f"{where} has {size - file.tell():,} bytes, and {shape} of {dtype} has others: it is damaged")


class _Reader(io.BufferedReader):
    """A file of which no more is read at once than is reasonable, whatever its content says."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or size < 0:
            size = os.fstat(self.fileno()).st_size - self.tell()
        if size > _AT_ONCE:
            raise ValueError(f"{size:,} bytes at once")
        return super().read(size)


def _reason(error: BaseException) -> str:
    if isinstance(error, FileNotFoundError):
        return "no such file"
    words = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(words.split())[:200] or type(error).__name__
