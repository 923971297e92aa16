"""The loop of an agent: requests come, are done one after the other, and are answered; it ends with its connection.

Only what Python itself comes with is used.
"""

from __future__ import annotations

import errno
import os
import queue
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import FrameType
from typing import Any, NoReturn

from .store import Refused
from .wire import ALIVE_S, SILENCE_S, Frame, Wire, WireError

GRACE_S = 5.0
"""What is done when the connection ends has so long to put back what it changed."""


class Ended(KeyboardInterrupt):
    """The connection is gone, or the system asks this process to end."""


@dataclass(frozen=True)
class Call:
    """A request: its values, its body, and where events that belong to it go."""

    wire: Wire
    number: int
    values: Mapping[str, Any]
    body: bytes

    def event(self, name: str, **values: Any) -> None:
        """Tell the other side something before the answer."""
        self.wire.send({"id": self.number, "event": name, **values})


Answer = tuple[dict[str, Any], bytes] | dict[str, Any]
Handler = Callable[[Call], Answer]


@dataclass(frozen=True)
class Streams:
    """The frames over this process's stdin and stdout, and the descriptors that these have now."""

    wire: Wire
    source: int
    target: int

    def exec(self, words: Sequence[str], environment: Mapping[str, str]) -> NoReturn:
        """Have another program take the place of this one, with its stdin and stdout; raises OSError."""
        with self.wire.silent():
            os.dup2(self.source, 0)
            os.dup2(self.target, 1)
            os.execve(words[0], list(words), environment)


def streams() -> Streams:
    """Return this process's stdin and stdout; what others print goes to stderr from now on."""
    source, target = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    return Streams(Wire(os.fdopen(source, "rb", 0), os.fdopen(target, "wb", 0)), source, target)


def serve(wire: Wire, handlers: Mapping[str, Handler], greeting: Mapping[str, Any]) -> None:
    """Send ``greeting``, then answer requests until the connection ends.

    Raises:
        Ended: it ended while something was done.
    """
    with suppress(OSError):
        os.setpgid(0, 0)  # so that what this process starts can be ended with it
    for number in (signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, _end)
    frames: queue.SimpleQueue[Frame | None] = queue.SimpleQueue()
    heard = [time.monotonic()]
    wire.send({"event": "ready", **greeting})
    threading.Thread(target=_read, args=(wire, frames, heard), daemon=True).start()
    threading.Thread(target=_tell_and_watch, args=(wire, heard), daemon=True).start()
    while (frame := frames.get()) is not None:
        header, body = frame
        call = Call(wire, int(header.get("id", 0)), header, body)
        answer = _answer(handlers, call)
        if answer is not None:
            extra, data = answer
            wire.send({"id": call.number, **extra}, data)


def failed(error: OSError) -> int:
    """Say on stderr why a program here ends, as its last words, which the other side tells; return its exit code."""
    with suppress(OSError):
        print(_of_system(error)["message"], file=sys.stderr, flush=True)
    return 1


def _answer(handlers: Mapping[str, Handler], call: Call) -> tuple[dict[str, Any], bytes] | None:
    try:
        handler = handlers.get(str(call.values.get("do")))
        if handler is None:
            raise Refused("protocol", f"there is no {str(call.values.get('do'))[:40]!r} here")
        answer = handler(call)
        result, body = answer if isinstance(answer, tuple) else (answer, b"")
        return {"result": result}, body
    except OSError as error:
        return {"error": _of_system(error)}, b""
    except MemoryError:
        return {"error": {"kind": "memory", "message": "its memory is not enough for this"}}, b""
    except Exception as error:  # noqa: BLE001 - the other side tells it
        kind = getattr(error, "kind", None) or type(error).__name__
        place = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{os.path.basename(place.filename)}:{place.lineno}"  # noqa: PTH119
        message = " ".join(str(error).split()) or kind
        return {"error": {"kind": kind, "message": message, "where": where}}, b""


def _of_system(error: OSError) -> dict[str, Any]:
    name = errno.errorcode.get(error.errno or 0, "")
    file = f"{error.filename}: " if isinstance(error.filename, str) else ""
    kind = "disk full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "system"
    return {"kind": kind, "message": f"{file}{error.strerror or error}", "errno": name}


def _read(wire: Wire, frames: queue.SimpleQueue[Frame | None], heard: list[float]) -> None:
    """Put requests into the queue; the end of the connection ends this process."""
    with suppress(WireError, OSError, MemoryError):
        while (frame := wire.receive()) is not None:
            heard[0] = time.monotonic()
            if "do" in frame[0]:
                frames.put(frame)
    frames.put(None)
    _leave()


def _tell_and_watch(wire: Wire, heard: list[float]) -> None:
    """Tell that this process is there, and end it where the other side has been silent for long."""
    with suppress(OSError, WireError):
        while time.monotonic() - heard[0] < SILENCE_S:
            time.sleep(ALIVE_S)
            wire.send({"alive": True})
    _leave()


def _leave() -> None:
    """Interrupt what is being done; where that does not end in time, end this process and all that it started."""
    os.kill(os.getpid(), signal.SIGHUP)
    time.sleep(GRACE_S)
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(1)


def _end(_number: int, _frame: FrameType | None) -> None:
    for each in (signal.SIGHUP, signal.SIGTERM):
        signal.signal(each, signal.SIG_IGN)
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGTERM)  # what this process started, and what that did: pip starts another Python
    raise Ended
