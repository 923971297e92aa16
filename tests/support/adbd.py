"""A device that ``adb`` reaches: the daemon of the debug bridge, on loopback, in front of any command that enters one.

Written from the documentation of the protocol (AOSP, packages/modules/adb: OVERVIEW.TXT, SERVICES.TXT, SYNC.TXT,
protocol.txt): messages of 24 bytes and data, streams with one message on its way each, the services ``shell`` (of
version 2: stdin, stdout, stderr and the exit code apart), ``exec`` and ``sync`` (STAT, LIST, SEND, RECV).
"""

from __future__ import annotations

import contextlib
import os
import queue
import shutil
import socket
import struct
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Literal

VERSION = 0x01000001
MOST_BYTES = 256 * 1024
FEATURES = "shell_v2,cmd"
BANNER = "device::ro.product.name=board;ro.product.model=Board;ro.product.device=board;features=" + FEATURES
STDIN, STDOUT, STDERR, EXIT, CLOSE_STDIN = range(5)
"""The kinds of packets of ``shell`` of version 2."""

Behaviour = Literal["device", "unauthorized", "offline"]
"""As ``adb devices`` has it: what answers, what waits for someone to allow it, what says nothing."""

_HEADER = struct.Struct("<6I")
_SYNC = struct.Struct("<4sI")
_TOKEN = 1
_SECONDS = 10


@dataclass
class Stream:
    """A service of the device that the client talks to; ``read`` gives b"" at its end."""

    connection: Connection
    number: int
    peer: int
    _inbox: queue.Queue[bytes] = field(default_factory=queue.Queue)
    _may_write: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(1))
    _rest: bytes = b""
    closed: bool = False

    def read(self) -> bytes:
        """What came next, at least one byte."""
        if self._rest:
            data, self._rest = self._rest, b""
            return data
        data = b"" if self.closed and self._inbox.empty() else self._inbox.get()
        if data:
            self.connection.send(b"OKAY", self.number, self.peer)
        return data

    def exactly(self, count: int) -> bytes:
        """So many bytes; raises EOFError where fewer come."""
        data = b""
        while len(data) < count:
            more = self.read()
            if not more:
                raise EOFError
            data += more
        data, self._rest = data[:count], data[count:] + self._rest
        return data

    def write(self, data: bytes) -> None:
        """Send bytes; raises OSError where the client is gone."""
        for start in range(0, len(data), MOST_BYTES):
            self._may_write.acquire()
            if self.closed:
                raise BrokenPipeError
            self.connection.daemon.watch(data)
            self.connection.send(b"WRTE", self.number, self.peer, data[start : start + MOST_BYTES])

    def close(self) -> None:
        """End the stream, for the client too."""
        if not self.closed:
            self.connection.send(b"CLSE", self.number, self.peer)
        self.end()

    def end(self) -> None:
        """The client is gone: whoever waits goes on."""
        self.closed = True
        self._inbox.put(b"")
        self._may_write.release()

    def received(self, data: bytes) -> None:
        """The client sent bytes."""
        self._inbox.put(data)

    def acknowledged(self) -> None:
        """The client has read what was written last."""
        self._may_write.release()


class Connection:
    """A client that has connected."""

    def __init__(self, daemon: Daemon, sock: socket.socket) -> None:
        self.daemon, self.socket = daemon, sock
        self._streams: dict[int, Stream] = {}
        self._sending = threading.Lock()
        self._numbers = iter(range(1, 2**32))

    def send(self, name: bytes, first: int, second: int, data: bytes = b"") -> None:
        """Send a message."""
        command = int.from_bytes(name, "little")
        header = _HEADER.pack(command, first, second, len(data), sum(data) & 0xFFFFFFFF, command ^ 0xFFFFFFFF)
        with self._sending:
            self.socket.sendall(header + data)

    def serve(self) -> None:
        """Answer, until one side closes."""
        with contextlib.suppress(OSError, EOFError):
            while True:
                command, first, second, length, _, magic = _HEADER.unpack(self._exactly(_HEADER.size))
                if command ^ 0xFFFFFFFF != magic:
                    break
                self._answer(command.to_bytes(4, "little"), first, second, self._exactly(length))
        self.close()

    def close(self) -> None:
        """The cable is pulled, as it were."""
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()
        for stream in list(self._streams.values()):
            stream.end()

    def _answer(self, name: bytes, first: int, second: int, data: bytes) -> None:
        if name in (b"CNXN", b"AUTH"):
            if self.daemon.behaviour == "device":
                self.send(b"CNXN", VERSION, MOST_BYTES, BANNER.encode() + b"\0")
            elif self.daemon.behaviour == "unauthorized" and (name == b"CNXN" or first != 3):
                self.send(b"AUTH", _TOKEN, 0, bytes(20))  # whatever it signs is refused
        elif name == b"OPEN":
            stream = Stream(self, next(self._numbers), first)
            self._streams[stream.number] = stream
            self.send(b"OKAY", stream.number, stream.peer)
            arguments = (stream, data.rstrip(b"\0").decode())
            threading.Thread(target=self._service, args=arguments, daemon=True).start()
        elif second in self._streams:
            stream = self._streams[second]
            if name == b"WRTE":
                self.daemon.watch(data)
                stream.received(data)
            elif name == b"OKAY":
                stream.acknowledged()
            elif name == b"CLSE":
                del self._streams[second]
                stream.end()

    def _service(self, stream: Stream, request: str) -> None:
        name, _, text = request.partition(":")
        self.daemon.requests.append(request)
        with contextlib.suppress(OSError, EOFError):
            if name == "sync":
                _sync(stream, self.daemon.root)
            elif name.split(",")[0] in ("shell", "exec"):
                _shell(stream, [*self.daemon.command, "/bin/sh", "-c", text], packets="v2" in name.split(","))
            stream.close()

    def _exactly(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            more = self.socket.recv(min(count - len(data), 1 << 20))
            if not more:
                raise EOFError
            data += more
        return data


class Daemon:
    """What listens; ``requests`` are the services that clients have asked for, and ``watch`` sees what passes by.

    Args:
        command: that runs another one on the device; empty for this machine.
        root: where the files of the device are seen from here.
    """

    def __init__(self, command: Sequence[str], root: Path, behaviour: Behaviour = "device") -> None:
        self.command, self.root, self.behaviour = command, root, behaviour
        self.requests: list[str] = []
        self.connections: list[Connection] = []
        self.siblings: list[Daemon] = []
        self.watch: Callable[[bytes], object] = lambda data: None
        self._listening = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self._listen, daemon=True).start()

    @property
    def serial(self) -> str:
        """How ``adb`` calls it once it is connected."""
        return f"127.0.0.1:{self._listening.getsockname()[1]}"

    def unplug(self) -> None:
        """Close all connections, and take no other."""
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        for connection in self.connections:
            connection.close()

    def _listen(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection = Connection(self, self._listening.accept()[0])
                self.connections.append(connection)
                threading.Thread(target=connection.serve, daemon=True).start()


def _shell(stream: Stream, command: Sequence[str], packets: bool) -> None:
    """Run a command; without packets, all it prints and all it reads are the bytes of the stream."""
    errors = subprocess.PIPE if packets else subprocess.STDOUT
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors)

    def copy(source: IO[bytes], kind: int) -> None:
        with contextlib.suppress(OSError):
            while data := os.read(source.fileno(), 65536):
                stream.write(struct.pack("<BI", kind, len(data)) + data if packets else data)

    outputs = [(process.stdout, STDOUT), (process.stderr, STDERR)]
    copies = [threading.Thread(target=copy, args=pair, daemon=True) for pair in outputs if pair[0] is not None]
    for each in copies:
        each.start()
    feeding = threading.Thread(target=_feed, args=(stream, process, packets), daemon=True)
    feeding.start()
    for each in copies:
        each.join()
    status = process.wait()
    if packets:
        stream.write(struct.pack("<BIB", EXIT, 1, status % 256 if status >= 0 else 128 - status))


def _feed(stream: Stream, process: subprocess.Popen[bytes], packets: bool) -> None:
    """Give the command what the client sends; it is told to hang up when the client goes."""
    assert process.stdin is not None
    with contextlib.suppress(OSError, EOFError):
        while True:
            if packets:
                kind, length = struct.unpack("<BI", stream.exactly(5))
                data = stream.exactly(length)
            else:
                kind, data = STDIN, stream.read()
            if kind == STDIN and data:
                process.stdin.write(data)
                process.stdin.flush()
            elif kind == CLOSE_STDIN or not packets:
                process.stdin.close()
            if not packets and not data:
                break
    with contextlib.suppress(OSError):
        process.stdin.close()
    if process.poll() is None:
        process.terminate()


def _sync(stream: Stream, root: Path) -> None:
    """Files, until the client quits."""
    while True:
        name, length = _SYNC.unpack(stream.exactly(_SYNC.size))
        text = stream.exactly(length).decode()
        if name == b"STAT":
            stream.write(b"STAT" + _stat(root / text.lstrip("/")))
        elif name == b"LIST":
            folder = root / text.lstrip("/")
            for path in sorted(folder.iterdir()) if folder.is_dir() else ():
                label = path.name.encode()
                stream.write(b"DENT" + _stat(path) + struct.pack("<I", len(label)) + label)
            stream.write(b"DONE" + bytes(16))
        elif name == b"SEND":
            place, _, mode = text.rpartition(",")
            _receive(stream, root / place.lstrip("/"), int(mode))
        elif name == b"RECV":
            _send(stream, root / text.lstrip("/"))
        else:  # QUIT, or nothing that is known
            return


def _stat(path: Path) -> bytes:
    try:
        facts = path.lstat()
    except OSError:
        return bytes(12)
    return struct.pack("<3I", facts.st_mode, facts.st_size & 0xFFFFFFFF, int(facts.st_mtime))


def _receive(stream: Stream, path: Path, mode: int) -> None:
    problem, written = "", None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        written = path.open("wb")
    except OSError as error:
        problem = error.strerror or str(error)
    while True:
        name, value = _SYNC.unpack(stream.exactly(_SYNC.size))
        if name == b"DONE":
            break
        data = stream.exactly(value)
        if written is not None and not problem:
            try:
                written.write(data)
            except OSError as error:
                problem = error.strerror or str(error)
    try:
        if written is not None:
            written.close()
            path.chmod(mode & 0o777)
    except OSError as error:
        problem = error.strerror or str(error)
    stream.write(_SYNC.pack(b"FAIL", len(problem)) + problem.encode() if problem else _SYNC.pack(b"OKAY", 0))


def _send(stream: Stream, path: Path) -> None:
    try:
        data = path.read_bytes()
    except OSError as error:
        problem = (error.strerror or str(error)).encode()
        stream.write(_SYNC.pack(b"FAIL", len(problem)) + problem)
        return
    for start in range(0, len(data), 65536):
        part = data[start : start + 65536]
        stream.write(_SYNC.pack(b"DATA", len(part)) + part)
    stream.write(_SYNC.pack(b"DONE", 0))


@dataclass(frozen=True)
class Client:
    """A server of ``adb`` of the tests' own, and how it is used: with these variables of the environment."""

    environment: Mapping[str, str]

    def adb(self, *words: str) -> subprocess.CompletedProcess[str]:
        """What ``adb`` says."""
        variables = os.environ | dict(self.environment)
        return subprocess.run(["adb", *words], env=variables, capture_output=True, text=True, check=False, timeout=60)

    def connect(self, daemon: Daemon) -> str:
        """Its serial, once the server knows it by its state."""
        words = ["adb", "connect", daemon.serial]  # which waits for one that says nothing
        connecting = subprocess.Popen(words, env=os.environ | dict(self.environment), stdout=subprocess.DEVNULL)
        try:
            ends, known = time.monotonic() + _SECONDS, {}
            while time.monotonic() < ends:
                known = dict(line.split("\t") for line in self.adb("devices").stdout.splitlines() if "\t" in line)
                if known.get(daemon.serial) == daemon.behaviour:
                    return daemon.serial
                time.sleep(0.05)
            raise AssertionError(f"adb does not know {daemon.serial} as {daemon.behaviour}: {known}")
        finally:
            connecting.kill()
            connecting.wait()


def missing() -> str | None:
    """Why there can be no client here; None where there can be."""
    return None if shutil.which("adb") else "apt-get install adb"


@contextlib.contextmanager
def client() -> Iterator[Client]:
    """A server with keys of its own that nothing is connected to, until the end of the block."""
    with tempfile.TemporaryDirectory(prefix="adb-") as folder, socket.create_server(("127.0.0.1", 0)) as probe:
        port = str(probe.getsockname()[1])
        probe.close()
        # No emulator is looked for at the usual ports.
        own = {"ANDROID_ADB_SERVER_PORT": port, "HOME": folder, "ADB_LOCAL_TRANSPORT_MAX_PORT": "5553"}
        made = Client(own)
        try:
            started = made.adb("start-server")
            assert started.returncode == 0, started.stderr
            yield made
        finally:
            made.adb("kill-server")
