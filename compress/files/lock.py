"""Locks: one process at a time writes an output, and the next one is told which it is.

The lock of ``out/demo`` is the file ``out/.demo.compress-lock``. The system holds it (``flock``) for as long as its
owner lives, so that a lock whose owner was killed is free, however it ended; what the file says is for people.
"""

from __future__ import annotations

import errno
import json
import os
import shlex
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from datetime import datetime
from pathlib import Path

from ..errors import InvalidInput

try:
    import fcntl
except ImportError:  # Windows: renames that do not replace are all the protection that there is
    fcntl = None  # type: ignore[assignment]

SUFFIX = ".compress-lock"

_HELD: ContextVar[frozenset[Path]] = ContextVar("held", default=frozenset())
"""Outputs that this thread has locked already: what it writes inside another lock of its own is not refused."""

_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
"""What a file system answers that knows no locks."""


def lock_file(path: Path) -> Path:
    """Where the lock of the output ``path`` lies: beside it."""
    return path.with_name(f".{path.name}{SUFFIX}")


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Hold the lock of the output ``path``, an absolute path in a folder that is there.

    Raises:
        InvalidInput: another process holds it; the message names that one.
        OSError: the lock's file cannot be made.
    """
    if path in _HELD.get() or fcntl is None:
        yield
        return
    descriptor = _taken(path)
    token = _HELD.set(_HELD.get() | {path})
    try:
        yield
    finally:
        _HELD.reset(token)
        with suppress(OSError):
            lock_file(path).unlink()  # while it is still locked: who opened it meanwhile sees that it is gone
        os.close(descriptor)


def _taken(path: Path) -> int:
    """The open, locked file of ``path``, with the name of this process in it."""
    file = lock_file(path)
    while True:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.read(descriptor, 10_000)
            os.close(descriptor)
            raise InvalidInput(f"output {path}: {_owner(owner)}; wait until it has ended, or give another -o") from None
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                os.close(descriptor)
                raise
        if _is_same(file, descriptor):
            os.ftruncate(descriptor, 0)
            os.write(descriptor, json.dumps(_this_process()).encode())
            return descriptor
        os.close(descriptor)  # its owner ended between our opening and our locking it, and removed it


def _is_same(file: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(file.stat(follow_symlinks=False), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _this_process() -> dict[str, str | int]:
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "since": datetime.now().astimezone().isoformat(timespec="seconds"),
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
    }


def _owner(content: bytes) -> str:
    try:
        owner = json.loads(content)
        command = str(owner["command"])[:200]
        return f"process {owner['pid']} on {owner['host']} writes it since {owner['since']} (`{command}`)"
    except (ValueError, KeyError, TypeError):
        return "another process writes it"
