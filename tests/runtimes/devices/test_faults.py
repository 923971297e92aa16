"""What goes wrong on the way to a device: each ends in one line with exit code 4, and what was measured is kept."""

from __future__ import annotations

import io
import os
import signal
import socket
import struct
import sys
import time
import venv
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from onnx import ModelProto

from runtimes import ending
from runtimes.agent.wire import Wire
from runtimes.devices.remote import RemoteDevice
from runtimes.devices.ssh import SshConnection
from runtimes.errors import DeviceError
from runtimes.measure.presets import PRESETS
from runtimes.measure.request import Request
from runtimes.runtime import Options, random_inputs
from tests.support.ssh_server import Reach, SshServer

Saved = Callable[[ModelProto, str], Path]
Models = dict[str, Callable[..., ModelProto]]


@pytest.fixture
def file(saved: Saved, models: Models) -> Path:
    return saved(models["linear"]("N"), "linear.onnx")


def failure(work: Callable[[], object]) -> str:
    """What a work that must fail says: one line, of exit code 4, that names the device."""
    with pytest.raises(DeviceError) as caught:
        work()
    message, code = ending.told(caught.value)
    assert code == 4 and "\n" not in message and message.startswith("board: "), message
    return message


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"known": "no_hosts"}, "its host key is not known; log in once by ssh -F"),
        ({"known": "changed_hosts"}, "its host key is another than the known one"),
        ({"key": "other"}, "the login is refused"),
    ],
)
def test_keys_that_do_not_fit(reach: Reach, server: SshServer, config: dict[str, str], told: str) -> None:
    before = len(server.commands)
    server.write_config(**config)
    assert told in failure(reach().conditions)
    assert len(server.commands) == before


def test_a_port_where_nobody_listens(server: SshServer) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    device = RemoteDevice(SshConnection.of(f"ssh://127.0.0.1:{port}", server.config), name="board")
    assert f"connecting: nothing answers at port {port}" in failure(device.conditions)
    device.close()


def test_a_device_without_python(reach: Reach, server: SshServer, tmp_path: Path) -> None:
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "sh").symlink_to("/bin/sh")
    server.environment = {"PATH": str(tools)}
    assert "there is no Python 3; install Python 3.11 to 3.13" in failure(reach(python=None).conditions)
    assert "check python" in failure(reach(python="/none/python3").conditions)


def test_a_python_that_is_too_old(reach: Reach, tmp_path: Path) -> None:
    old = tmp_path / "python3"
    old.write_text('#!/bin/sh\nprintf "\\000edgepress 3 8 10\\n"\ncat > /dev/null\n')
    old.chmod(0o755)
    assert "is 3.8.10; install 3.11 or newer" in failure(reach(python=str(old)).conditions)


def test_a_login_that_speaks_before_is_listened_to(reach: Reach, tmp_path: Path) -> None:
    wordy = tmp_path / "python3"
    wordy.write_text(f'#!/bin/sh\necho Welcome to the board\necho "no colours" >&2\nexec {sys.executable} "$@"\n')
    wordy.chmod(0o755)
    assert reach(python=str(wordy)).conditions().python


def cut_at(word: bytes, times: int = 1) -> Callable[[bytes], bool]:
    left = [times]

    def watch(data: bytes) -> bool:
        left[0] -= word in data
        return left[0] <= 0

    return watch


@pytest.mark.parametrize(
    ("word", "doing"),
    [
        (b'"do": "probe"', "looking"),
        (b'"do": "missing"', "sending files"),
        (b'"do": "write"', "sending files"),
        (b'"do": "become"', "starting the agent"),
        (b'"do": "load"', "loading"),
        (b'"do": "run"', "running"),
        (b'"do": "executed"', "looking at what runs"),
    ],
)
def test_a_connection_that_is_cut(reach: Reach, server: SshServer, file: Path, word: bytes, doing: str) -> None:
    server.from_client = cut_at(word)

    def work() -> None:
        device = reach(cache=f"cut at {word.decode()[7:-1]}")
        runtime = device.load(file, "onnxruntime", Options())
        feed = random_inputs(runtime.inputs)
        runtime.run(feed)
        runtime.executed_graph(feed)

    message = failure(work)
    assert f"board: {doing}: the connection was lost" in message
    server.reset()
    again = reach(cache=f"cut at {word.decode()[7:-1]}").load(file, "onnxruntime", Options())
    assert again.run(random_inputs(again.inputs))


def test_what_was_measured_before_a_cut_is_kept(reach: Reach, server: SshServer, file: Path) -> None:
    device = reach()
    long = replace(PRESETS["quick"], seconds=60.0)
    server.from_device = cut_at(b'"event": "took"', 3)
    with pytest.raises(DeviceError, match="measuring: the connection was lost") as caught:
        device.benchmark([file, file], Request(long, memory=False), engine=[None, None])
    first, second = caught.value.measurements
    assert first.file == second.file == str(file) and first.engine == "onnxruntime" and first.sha256
    assert len(first.samples_ms) > 10 and abs(len(first.samples_ms) - len(second.samples_ms)) <= 1
    assert not first.valid and any("it was broken off: board: measuring" in each.reason for each in first.broken_rules)
    assert first.to_json()["latency_ms"]


def test_an_agent_that_is_killed(reach: Reach, server: SshServer, file: Path) -> None:
    device = reach()
    runtime = device.load(file, "onnxruntime", Options())
    os.killpg(server.processes[-1].pid, signal.SIGKILL)
    message = failure(lambda: runtime.run(random_inputs(runtime.inputs)))
    assert "killed" in message
    assert failure(lambda: device.version("onnxruntime")) == message


def test_an_agent_ends_with_its_connection(reach: Reach, server: SshServer, file: Path) -> None:
    device = reach(cache="ending")
    device.load(file, "onnxruntime", Options())
    process = server.processes[-1]
    assert process.returncode is None
    server.from_client = lambda data: True
    failure(lambda: device.version("onnxruntime"))
    until = time.monotonic() + 30
    while process.returncode is None and time.monotonic() < until:
        time.sleep(0.1)
    assert process.returncode is not None
    assert not list((server.home / "ending" / "device" / "partial").iterdir())


def test_a_cache_that_cannot_be_written(reach: Reach, server: SshServer) -> None:
    (server.home / "taken").write_text("a file")
    message = failure(reach(cache="taken").conditions)
    assert "cannot be written (" in message and "name another by cache" in message


FULL = """
import errno, pathlib, sys
opened = pathlib.Path.open
def full(self, mode="r", *rest, **named):
    if mode == "ab":
        opened(self, mode, *rest, **named).close()
        raise OSError(errno.ENOSPC, "No space left on device", str(self))
    return opened(self, mode, *rest, **named)
pathlib.Path.open = full
code = sys.argv[2]
del sys.argv[1:3]
exec(code)
"""


def test_a_disk_that_is_full(reach: Reach, server: SshServer, tmp_path: Path) -> None:
    """A Python whose files cannot be appended to, as if there were no room."""
    (tmp_path / "full.py").write_text(FULL)
    limited = tmp_path / "python3"
    limited.write_text(f'#!/bin/sh\nexec {sys.executable} {tmp_path / "full.py"} "$@"\n')
    limited.chmod(0o755)
    device = reach(python=str(limited), cache="full")
    message = failure(device.conditions)
    assert "sending files: its disk is full" in message and "compress devices clean" in message
    device.close()
    again = reach(cache="full")
    again.facts()
    assert not list((server.home / "full" / "device" / "partial").iterdir())


def test_an_engine_that_is_not_there(reach: Reach, tmp_path: Path) -> None:
    venv.create(tmp_path / "bare", with_pip=False)
    message = failure(lambda: reach(python=str(tmp_path / "bare/bin/python")).version("onnxruntime"))
    assert "starting the agent: its Python" in message and "lacks a package: No module named 'numpy'" in message


def test_a_version_that_nobody_knows(reach: Reach) -> None:
    message = failure(lambda: reach(python=None).version("tensorrt"))
    assert "TensorRT does not come by pip alone; name a Python of the device by python" in message


def test_a_wheel_that_is_not_in_the_wheelhouse(reach: Reach, server: SshServer, tmp_path: Path) -> None:
    wheelhouse = tmp_path / "wheels"
    wheelhouse.mkdir()
    (wheelhouse / "other-1.0-py3-none-any.whl").write_bytes(b"PK\x05\x06" + bytes(18))
    message = failure(lambda: reach(python=None, wheelhouse=wheelhouse, cache="wheels").version("onnxruntime"))
    assert "making its environment: no wheel of numpy" in message or "no wheel of onnxruntime" in message
    assert "in the wheelhouse fits it" in message and "pip download --only-binary :all:" in message
    assert not [path for path in (server.home / "wheels/device/environments").iterdir() if path.is_dir()]


READY = {"event": "ready"}
CACHE = {"folder": "/x", "bytes": 0, "free_bytes": 1, "environments": []}
LOOKED = {"python": "3.11.0", "machine": "x", "libc": "", "venv": True, "pip": True, "time": 0.0, "cache": CACHE}


def spoken(*headers: object) -> bytes:
    said = io.BytesIO()
    wire = Wire(io.BytesIO(), said)
    for header in headers:
        assert isinstance(header, dict)
        wire.send(header)
    return said.getvalue()


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (b"no frames at all, and many more words", "what it sent cannot be used (expected a frame"),
        (struct.pack("!4sIQ", b"EPw1", 2**31, 0), "what it sent cannot be used (a frame declares"),
        (spoken({"event": "begin"}), "it does not answer as expected"),
        (spoken(READY, {"id": 1, "result": {}}), "what it sent cannot be used (ValueError: python: expected str"),
        (spoken(READY, {"id": 1, "result": []}), "it does not answer as expected"),
        (spoken(READY, {"id": 1, "result": LOOKED | {"time": "now"}}), "what it sent cannot be used (ValueError"),
        (spoken(READY, {"id": 1, "error": {"kind": "x", "message": "\x1b[2J\nred"}}), r"looking: \x1b[2J red"),
        (spoken(READY, {"id": 1, "error": 7}), "it does not say why"),
        (spoken(READY, {"id": 1, "result": LOOKED}, {"id": 2, "result": {"digests": 5}}), "cannot be used (TypeError"),
        (
            spoken(
                READY,
                {"id": 1, "result": LOOKED},
                {"id": 2, "result": {"digests": []}},
                {"id": 3, "result": {"folder": "/x"}},
                {"id": 4, "result": {"cpu": 1}},
            ),
            "what it sent cannot be used (InvalidInputs: conditions",
        ),
    ],
)
def test_a_device_that_says_nonsense(reach: Reach, tmp_path: Path, said: bytes, told: str) -> None:
    (tmp_path / "said").write_bytes(b"\0edgepress 3 11 0\n" + said)
    liar = tmp_path / "python3"
    liar.write_text(f"#!/bin/sh\ncat {tmp_path / 'said'}\ncat > /dev/null\n")
    liar.chmod(0o755)
    assert told in failure(reach(python=str(liar)).conditions)


def test_a_device_that_says_nothing(reach: Reach, tmp_path: Path) -> None:
    (tmp_path / "said").write_bytes(b"\0edgepress 3 11 0\n" + spoken(READY))
    mute = tmp_path / "python3"
    mute.write_text(f"#!/bin/sh\ncat {tmp_path / 'said'}\ncat > /dev/null\n")
    mute.chmod(0o755)
    assert "looking: it says nothing for 1 s" in failure(reach(python=str(mute), silence_s=1.0).conditions)
