"""A program that was started on a device, from this side: requests, answers, and what is said when it goes wrong."""

from __future__ import annotations

import queue
import subprocess
import threading
import time
import zlib
from base64 import b85encode
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from .. import errors
from ..agent.wire import ALIVE_S, Frame, Wire, WireError
from ..ending import NO_MEMORY, brief, printable
from ..errors import DeviceError, RuntimesError
from .connection import GREETING, LEAST_PYTHON, NO_PYTHON, Connection, start

MODULES = ("wire", "store", "serve", "environments", "bootstrap")
"""Of :mod:`runtimes.agent`, what is sent as source, each after those that it imports."""

STARTING_S = 60.0
"""From the start of the connection to the first word of the device."""

_NOISE_BYTES = 2**16
_SAID_LINES = 40
_ENDING_S = 5.0
_HEADER_BYTES = 2**27  # samples of an hour
_MISUNDERSTOOD = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)
_LOADER = """
import sys, types
package = types.ModuleType("edgepress_agent")
package.__path__ = []
sys.modules[package.__name__] = package
for name, text in {modules!r}:
    module = types.ModuleType("edgepress_agent." + name)
    module.__package__ = package.__name__
    sys.modules[module.__name__] = module
    setattr(package, name, module)
    exec(compile(text, name + ".py", "exec"), module.__dict__)
sys.exit(sys.modules["edgepress_agent.bootstrap"].main())
"""

Event = Callable[[str, Mapping[str, Any]], None]


def bootstrap_source() -> bytes:
    """Return the program that a device runs first; the same bytes every time."""
    folder = Path(__file__).resolve().parent.parent / "agent"
    modules = [(name, (folder / f"{name}.py").read_text(encoding="utf-8")) for name in MODULES]
    packed = b85encode(zlib.compress(_LOADER.format(modules=modules).encode(), 9))
    return b"import base64,zlib;exec(zlib.decompress(base64.b85decode(%r)))" % packed


class Link:
    """A connection with a program at its other end that answers requests.

    Args:
        name: of the device, for people: every error begins with it.
        silence_s: a device that says nothing for so long is gone.
    """

    def __init__(self, connection: Connection, name: str, silence_s: float) -> None:
        self.name = name
        self.doing = "connecting"
        self.names: dict[str, str] = {}  # folders there, as they are called here
        self._connection = connection
        self._silence_s = silence_s
        self._said: deque[str] = deque(maxlen=_SAID_LINES)
        self._frames: queue.Queue[Frame | WireError | bytes | None] = queue.Queue(maxsize=16)
        self._number = 0
        self._heard_s = time.monotonic()
        self._closed = threading.Event()
        self._lost: DeviceError | None = None
        try:
            self._process = start(connection)
        except OSError as error:
            raise DeviceError(f"{name}: the connection cannot be started here: {error}") from error
        assert self._process.stdin is not None and self._process.stdout is not None, "they are pipes"
        self._wire = Wire(self._process.stdout, self._process.stdin)
        for work in (self._read, self._read_stderr, self._keep_alive):
            threading.Thread(target=work, daemon=True).start()

    @property
    def bytes_sent(self) -> int:
        """Bytes of frames that were sent."""
        return self._wire.bytes_sent

    def begin(self, python: str | None) -> str:
        """Start the first program; returns the version of its Python.

        Raises:
            DeviceError: the device cannot be reached, or has no Python that is new enough.
        """
        self._send(f"{python or ''}\n".encode())
        greeting = self._next(STARTING_S)
        named = f"{python} there" if python else "a python3 there"
        if greeting == NO_PYTHON:
            hint = "check python in the settings of the device" if python else "install Python 3.11 to 3.13"
            raise self._failed(f"there is no {named.replace('a python3 there', 'Python 3')}; {hint}")
        if not isinstance(greeting, bytes):
            raise self._failed("it does not speak as expected")
        version = greeting.removeprefix(GREETING).decode("ascii", "replace").strip().replace(" ", ".")
        numbers = [int(part) if part.isdecimal() else 0 for part in version.split(".")]
        if tuple(numbers[:2]) < LEAST_PYTHON:
            least = ".".join(map(str, LEAST_PYTHON))
            raise self._failed(f"{named} is {printable(version)}; install {least} or newer, or name one by python")
        source = bootstrap_source()
        self._send(b"%d\n%b" % (len(source), source))
        self.ready()
        return version

    def ready(self) -> Mapping[str, Any]:
        """Return the greeting of a program that has just started there; raises DeviceError."""
        header, _ = self._frame(STARTING_S)
        if header.get("event") == "failed":
            raise self._failed(_text(header.get("message")))
        if header.get("event") != "ready":
            raise self._failed("it does not answer as expected")
        return header

    def ask(
        self, request: str, body: bytes = b"", on_event: Event | None = None, /, **values: Any
    ) -> tuple[dict[str, Any], bytes]:
        """Return the answer to a request: its values and its body.

        Raises:
            DeviceError: the device is lost, or cannot do it.
            RuntimesError: what it was given is wrong; of the type that it raised there.
        """
        self._post(request, body, values)
        while True:
            header, data = self._frame(self._silence_s)
            if header.get("id") != self._number:  # the answer to what was forgotten
                continue
            if "event" in header:
                if on_event is not None:
                    with self.understood():
                        on_event(str(header["event"]), header)
            elif "error" in header:
                raise self._refused(header["error"])
            elif isinstance(header.get("result"), dict):
                return header["result"], data
            else:
                raise self._failed("it does not answer as expected")

    def forget(self, request: str, /, **values: Any) -> None:
        """Ask for something without waiting for the answer; a device that is lost needs it no more."""
        with suppress(DeviceError):
            self._post(request, b"", values)

    def become(self, **values: Any) -> Mapping[str, Any]:
        """Have the program there become another one; returns the greeting of that."""
        self._post("become", b"", values)
        header, _ = self._frame(self._silence_s)
        if "error" in header:
            raise self._refused(header["error"])
        if header.get("event") == "failed":
            raise self._failed(_text(header.get("message")))
        return header

    @contextmanager
    def during(self, doing: str) -> Iterator[None]:
        """Within, errors say that this was being done: "sending files"."""
        before, self.doing = self.doing, doing
        try:
            yield
        finally:
            self.doing = before

    @contextmanager
    def understood(self) -> Iterator[None]:
        """Within, what the device sent is read: values that are none of the expected ones are its failure."""
        try:
            yield
        except (DeviceError, KeyboardInterrupt):
            raise
        except (*_MISUNDERSTOOD, WireError, RuntimesError) as error:
            raise self._failed(f"what it sent cannot be used ({type(error).__name__}: {str(error)[:200]})") from error

    def close(self) -> None:
        """End the program; may be called twice."""
        self._closed.set()
        process = self._process
        assert process.stdin is not None, "it is a pipe"
        stuck = threading.Timer(_ENDING_S, process.kill)  # a device that takes nothing keeps the pipe from being closed
        stuck.daemon = True
        stuck.start()
        with suppress(OSError, ValueError):
            process.stdin.close()
        process.wait()
        stuck.cancel()

    def _post(self, request: str, body: bytes, values: Mapping[str, Any]) -> None:
        if self._lost is not None:
            raise self._lost
        self._number += 1
        with self._stuck_ends():
            try:
                self._wire.send({"id": self._number, "do": request, **values}, body)
            except (OSError, ValueError):
                raise self._gone() from None
            except WireError as error:
                raise errors.InvalidInputs(f"{self.name}: {error}") from None

    def _send(self, data: bytes) -> None:
        assert self._process.stdin is not None, "it is a pipe"
        try:
            self._process.stdin.write(data)
            self._process.stdin.flush()
        except (OSError, ValueError):
            raise self._gone() from None

    @contextmanager
    def _stuck_ends(self) -> Iterator[None]:
        """Within, a device that takes nothing for long is left."""
        timer = threading.Timer(self._silence_s + 600, self._process.kill)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def _next(self, seconds: float) -> Frame | bytes:
        """What came next; the device may say nothing for so many seconds."""
        if self._lost is not None:
            raise self._lost
        self._heard_s = max(self._heard_s, time.monotonic() - ALIVE_S)
        while True:
            try:
                item = self._frames.get(timeout=min(seconds, 1.0))
                break
            except queue.Empty:
                if time.monotonic() - self._heard_s >= seconds:
                    self._process.kill()
                    hint = "check that it is in reach and not overloaded"
                    raise self._failed(f"it says nothing for {seconds:.0f} s; {hint}") from None
        if item is None:
            raise self._gone()
        if isinstance(item, WireError):
            raise self._failed(f"what it sent cannot be used ({item})")
        return item

    def _frame(self, seconds: float) -> Frame:
        item = self._next(seconds)
        if isinstance(item, bytes):
            raise self._failed("it does not speak as expected")
        return item

    def _refused(self, told: Any) -> RuntimesError:
        """What the device says is wrong, as an error of this side."""
        facts = told if isinstance(told, dict) else {}
        kind, message = _text(facts.get("kind")), _text(facts.get("message"))
        for there, here in self.names.items():
            message = message.replace(there, here)
        if kind == "InvalidModel" and NO_MEMORY.search(message):
            return self._error(f"its memory is not enough ({message})")
        if kind in ("InvalidModel", "InvalidInputs", "Unreadable"):
            raised: type[RuntimesError] = errors.InvalidModel if kind == "InvalidModel" else errors.InvalidInputs
            return raised(f"{self.name}: {message}")
        if kind == "disk full":
            free = "free some space there, remove what was kept by compress devices clean, or name another cache"
            return self._error(f"its disk is full ({message}); {free}")
        where = f" ({_text(facts['where'])})" if "where" in facts and kind not in _EXPLAINED else ""
        return self._error(f"{message}{where}")

    def _gone(self) -> DeviceError:
        """Why the program at the other end is there no more."""
        try:
            status: int | None = self._process.wait(_ENDING_S)
        except subprocess.TimeoutExpired:
            status = None
            self._process.kill()
        time.sleep(0.05)  # its last words
        return self._failed(self._connection.explain(status, "\n".join(self._said)))

    def _failed(self, reason: str) -> DeviceError:
        """An error after which nothing more is asked."""
        self._lost = self._error(reason)
        self._closed.set()
        return self._lost

    def _error(self, reason: str) -> DeviceError:
        return DeviceError(brief(printable(" ".join(f"{self.name}: {self.doing}: {reason}".split()))))

    def _read(self) -> None:
        """Put what comes into the queue: the greeting, then frames, then None."""
        try:
            self._frames.put(self._greeting())
            while (frame := self._wire.receive(header_most=_HEADER_BYTES)) is not None:
                self._heard_s = time.monotonic()
                if "alive" not in frame[0]:
                    self._frames.put(frame)
        except WireError as error:
            if self._process.poll() is None and "it ended" not in str(error):
                self._frames.put(error)
                return
        except (OSError, ValueError, MemoryError):
            pass
        self._frames.put(None)

    def _greeting(self) -> bytes:
        assert self._process.stdout is not None, "it is a pipe"
        seen = 0
        while line := self._process.stdout.readline(_NOISE_BYTES):
            start = line.find(GREETING[:-1])
            if start >= 0:
                return line[start:].strip()
            self._said.append(line.decode("utf-8", "replace").strip())
            seen += len(line)
            if seen > _NOISE_BYTES:
                raise WireError("much before the first word")
        raise OSError("it ended")

    def _read_stderr(self) -> None:
        assert self._process.stderr is not None, "it is a pipe"
        with suppress(OSError, ValueError):
            while line := self._process.stderr.readline(4096):
                words = line.decode("utf-8", "replace").strip()
                if words:
                    self._said.append(words)

    def _keep_alive(self) -> None:
        """Tell the device now and then that this side is there."""
        while not self._closed.wait(ALIVE_S):
            if self._number:
                try:
                    self._wire.send({"alive": True})
                except (OSError, ValueError, WireError):
                    return


_EXPLAINED = (
    "busy",
    "cache",
    "environment",
    "memory",
    "network",
    "protocol",
    "system",
    "wheel",
    "EngineMissing",
    "NotPutBack",
)


def _text(value: object) -> str:
    return value if isinstance(value, str) else "it does not say why"
