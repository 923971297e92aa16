"""Devices over adb: the real client against a daemon of the tests' own, in front of this machine."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtimes.devices.adb import AdbConnection
from runtimes.devices.connection import GREETING, Connection, start
from runtimes.errors import DeviceError, InvalidInputs
from tests.support import adbd


@pytest.fixture(scope="module")
def client() -> Iterator[adbd.Client]:
    reason = adbd.missing()
    if reason is not None:
        pytest.skip(reason)
    with adbd.client() as made:
        yield made


@pytest.fixture(autouse=True)
def _same_server(client: adbd.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in client.environment.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def daemon() -> Iterator[adbd.Daemon]:
    made = adbd.Daemon([], Path("/"))
    yield made
    made.unplug()


def refusal(connection: Connection) -> str:
    """Why a command could not be run."""
    with start(connection) as process:
        out, said = process.communicate(b"\n", timeout=60)
    assert GREETING not in out
    return connection.explain(process.returncode, said.decode())


def test_a_command_has_pipes_of_its_own(client: adbd.Client, daemon: adbd.Daemon) -> None:
    connection = AdbConnection.of(f"adb:{client.connect(daemon)}")
    data = os.urandom(600_000) + b"\r\n\x04\xff"
    words = connection.argv("cat; echo said >&2; exit 7")
    done = subprocess.run(words, input=data, capture_output=True, check=False, timeout=60)
    assert (done.returncode, done.stdout == data, done.stderr) == (7, True, b"said\n")
    assert connection.explain(7, "said\n") == "its program ended with 7: said"


def test_python_greets_and_runs_what_is_sent(client: adbd.Client, daemon: adbd.Daemon) -> None:
    connection = AdbConnection.of(f"adb:{client.connect(daemon)}")
    source = b"import sys; print(sys.stdin.buffer.read(4))"
    with start(connection) as process:
        out, said = process.communicate(b"%s\n%d\n%bdata" % (sys.executable.encode(), len(source), source), timeout=60)
    assert said == b"" and process.returncode == 0
    greeting, printed = out.splitlines()
    assert greeting.startswith(GREETING) and printed == b"b'data'"


def test_files_are_copied(client: adbd.Client, daemon: adbd.Daemon, tmp_path: Path) -> None:
    source, target = tmp_path / "a file", tmp_path / "over there/as $HOME"
    source.write_bytes(os.urandom(400_001))
    words = AdbConnection.of(f"adb:{client.connect(daemon)}").push(str(source), str(target))
    subprocess.run(words, check=True, capture_output=True, timeout=60)
    assert target.read_bytes() == source.read_bytes()


@pytest.mark.parametrize(
    ("behaviour", "reason"), [("unauthorized", "allow USB debugging"), ("offline", "plug it in again")]
)
def test_a_device_that_does_not_answer(client: adbd.Client, behaviour: adbd.Behaviour, reason: str) -> None:
    daemon = adbd.Daemon([], Path("/"), behaviour)
    try:
        assert reason in refusal(AdbConnection(client.connect(daemon)))
    finally:
        daemon.unplug()


def test_a_serial_that_nobody_has() -> None:
    assert "knows no device of that serial" in refusal(AdbConnection.of("adb:HT4C31234567"))


def test_a_serial_that_two_have(client: adbd.Client, daemon: adbd.Daemon) -> None:
    other = adbd.Daemon([], Path("/"))
    try:
        client.connect(daemon), client.connect(other)
        assert "several devices" in refusal(AdbConnection.of("adb:127.0.0.1"))  # an address without its port
    finally:
        other.unplug()


def test_one_that_is_unplugged(client: adbd.Client, daemon: adbd.Daemon) -> None:
    connection = AdbConnection(client.connect(daemon))
    words = connection.argv("echo begun; exec sleep 60")
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == b"begun\n"
        timer = threading.Timer(30, process.kill)
        timer.start()
        daemon.unplug()
        _, said = process.communicate()
        timer.cancel()
    assert connection.explain(process.returncode, said.decode()) == "the connection was lost"


def test_no_client(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DeviceError, match="there is no adb on this machine; install") as caught:
        AdbConnection.of("adb:1234").argv("true")
    assert caught.value.exit_code == 4


@pytest.mark.parametrize("place", ["adb:", "adb:-e", "adb:x;y", "ssh://board", "adb:a\nb"])
def test_what_is_no_serial(place: str) -> None:
    with pytest.raises(InvalidInputs, match="expected adb:SERIAL"):
        AdbConnection.of(place)
