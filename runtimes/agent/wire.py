"""Frames between a machine and an agent: a header of JSON and a body of bytes, each with its length before it.

Only what Python itself comes with is used: this is sent to a device before anything is there. Neither side trusts the
lengths that the other declares: what is over the limits is refused before it is read.
"""

from __future__ import annotations

import json
import struct
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

MAGIC = b"EPw1"
HEADER_BYTES = 2**26
"""The most that a header may have."""
BODY_BYTES = 2**31
"""The most that a body may have."""
ALIVE_S = 5.0
"""Each side says that it is there so often."""
SILENCE_S = 120.0
"""A side that has said nothing for so long is gone."""

Frame = tuple[dict[str, Any], bytes]

_HEAD = struct.Struct("!4sIQ")
_AT_ONCE = 2**20


class WireError(Exception):
    """What came is no frame, or one that is too large, or it ended within one."""


class Source(Protocol):
    """A binary file that is read; ``read(n)`` may give less than n bytes, and gives none at the end alone."""

    def read(self, count: int, /) -> bytes | None: ...


class Target(Protocol):
    """A binary file that is written; ``write`` may take less than all."""

    def write(self, data: memoryview, /) -> int | None: ...

    def flush(self) -> object: ...


class Wire:
    """Frames over two byte streams; several threads may send."""

    def __init__(self, source: Source, target: Target) -> None:
        self._source = source
        self._target = target
        self._sending = threading.Lock()
        self.bytes_sent = 0
        self.bytes_received = 0

    def send(self, header: Mapping[str, Any], body: bytes | bytearray | memoryview = b"") -> None:
        """Send a frame: a mapping that JSON holds, and bytes.

        Raises:
            OSError: the other side is gone.
            WireError: it is too large.
        """
        text = json.dumps(header).encode()
        if len(text) > HEADER_BYTES or len(body) > BODY_BYTES:
            raise WireError(f"a frame of {len(text):,} and {len(body):,} bytes is too large to send")
        with self._sending:
            self._write(memoryview(_HEAD.pack(MAGIC, len(text), len(body)) + text))
            for start in range(0, len(body), _AT_ONCE):
                self._write(memoryview(body)[start : start + _AT_ONCE])
            self._target.flush()

    def receive(self, header_most: int = HEADER_BYTES, body_most: int = BODY_BYTES) -> Frame | None:
        """Return the header and the body of the next frame; None at the end. Raises WireError."""
        first = self._source.read(1)
        if not first:
            return None
        magic, header_bytes, body_bytes = _HEAD.unpack(first + self._read(_HEAD.size - 1))
        if magic != MAGIC:
            raise WireError(f"expected a frame, got {magic!r}")
        if header_bytes > header_most or body_bytes > body_most:
            raise WireError(f"a frame declares {header_bytes:,} and {body_bytes:,} bytes: too many")
        text = self._read(header_bytes)
        body = self._read(body_bytes)
        try:
            header = json.loads(text.decode())
        except (ValueError, RecursionError) as error:
            raise WireError(f"a frame whose header is no JSON: {error}") from None
        if not isinstance(header, dict):
            raise WireError("a frame whose header is no mapping")
        return header, body

    @contextmanager
    def silent(self) -> Iterator[None]:
        """Within, no other thread sends."""
        with self._sending:
            yield

    def _write(self, data: memoryview) -> None:
        while data:
            count = self._target.write(data) or 0
            self.bytes_sent += count
            data = data[count:]

    def _read(self, count: int) -> bytes:
        data = bytearray()
        while len(data) < count:
            part = self._source.read(min(count - len(data), _AT_ONCE))
            if not part:
                raise WireError(f"it ended within a frame, {count - len(data):,} bytes before its end")
            data += part
        self.bytes_received += count
        return bytes(data)
