"""Devices that fail, one fault after the other: each ends as documented, and leaves nothing but the cache."""

from __future__ import annotations

import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from runtimes.devices.adb import AdbConnection
from runtimes.devices.connection import Connection
from runtimes.devices.device import Settings
from runtimes.devices.remote import RemoteDevice
from runtimes.devices.ssh import SshConnection
from runtimes.errors import DeviceError
from runtimes.measure.measurement import Measurement
from runtimes.measure.presets import Preset
from runtimes.measure.request import Request
from tests.support import adbd
from tests.support.device_faults import FAULTS, INJECTED, SITE, WORDS, Fault
from tests.support.ssh_server import SshServer

PAGE = Path(__file__).resolve().parents[2] / "docs/reference/devices-that-fail.md"
PRESET = Preset("short", warmup_runs=1, warmup_s=0.0, runs=5, seconds=1.5)
SECONDS = 60.0
pytestmark = pytest.mark.slow


@dataclass
class World:
    """A device, and what is about to be asked of it."""

    folder: Path
    file: Path
    server: SshServer | None = None
    daemon: adbd.Daemon | None = None
    connection: Connection | None = None
    settings: dict[str, Any] = field(default_factory=lambda: {"python": sys.executable})
    monkeypatch: pytest.MonkeyPatch = field(default_factory=pytest.MonkeyPatch)

    @property
    def ssh(self) -> SshServer:
        assert self.server is not None
        return self.server

    @property
    def adb(self) -> adbd.Daemon:
        assert self.daemon is not None
        return self.daemon

    def cut_when(self, source: str, words: bytes, times: int = 1) -> None:
        """Cut the connection when these words have come so often, or at once where there are none."""
        seen = [0]

        def watch(data: bytes) -> bool:
            seen[0] += data.count(words) if words else 1
            return seen[0] >= times

        setattr(self.ssh, source, watch)

    def signal_when(self, words: bytes, number: int) -> None:
        """Send the device's program a signal when it writes these words for the third time."""
        server, seen = self.ssh, [0]

        def watch(data: bytes) -> bool:
            seen[0] += data.count(words)
            if seen[0] == 3:
                os.kill(server.processes[-1].pid, number)
            return False

        server.from_device = watch

    def program(self, name: str, text: str) -> None:
        """Put a program first in the PATH of the device."""
        tools = self.folder / "tools"
        tools.mkdir(exist_ok=True)
        (tools / name).write_text(f"#!/bin/sh\n{text}\n")
        (tools / name).chmod(0o755)
        variables = {"PATH": f"{tools}{os.pathsep}{os.environ['PATH']}"}
        self.ssh.environment = {**self.ssh.environment, **variables}

    def python_that(self, fault: str) -> None:
        """Give the device's Python a fault."""
        (self.folder / "site").mkdir()
        (self.folder / "site/sitecustomize.py").write_text(SITE)
        self.ssh.environment = {"PYTHONPATH": str(self.folder / "site"), INJECTED: fault}


def small(path: Path, huge: bool = False) -> Path:
    """A network of one product; a huge one has two outputs of 1 GiB each."""
    tables = [numpy_helper.from_array(np.ones((4, 4), np.float32), "w")]
    nodes = [helper.make_node("MatMul", ["x", "w"], ["p"]), helper.make_node("Relu", ["p"], ["y"])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    for number in range(2 if huge else 0):
        tables.append(numpy_helper.from_array(np.array([2**26, 4], np.int64), f"sizes{number}"))
        nodes.append(helper.make_node("Expand", ["y", f"sizes{number}"], [f"y{number}"]))
        outputs.append(helper.make_tensor_value_info(f"y{number}", TensorProto.FLOAT, None))
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4])]
    graph = helper.make_graph(nodes, "g", inputs, outputs, tables)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def wheelhouse(world: World, *names: str) -> None:
    folder = world.folder / "wheelhouse"
    folder.mkdir()
    for name in names:
        (folder / name).write_bytes(b"PK\5\6" + bytes(18))  # an empty archive
    world.settings = {"wheelhouse": folder}
    world.ssh.environment = {"RUSTUP_HOME": str(world.folder)}  # pip asks rustc for its version, which writes there


def huge(world: World) -> None:
    world.python_that("out of memory")
    small(world.file, huge=True)


def hanging(world: World) -> None:
    world.settings["silence_s"] = 2.0
    world.signal_when(TOOK, signal.SIGSTOP)


def nonsense(world: World) -> None:
    """What the device writes comes with other brackets."""
    code = "import os\nwhile data := os.read(0, 65536): os.write(1, data.replace(b'{', b'('))"
    (world.folder / "brackets.py").write_text(code)
    world.program("sh", f'/bin/sh "$@" | {sys.executable} {world.folder}/brackets.py')


def no_client(world: World) -> None:
    world.monkeypatch.setenv("PATH", str(world.folder))


def old_python(world: World) -> None:
    patch = "import sys; sys.version_info = (3, 8, 18, 'final', 0); exec(sys.argv.pop(1))"
    for name in ("python3", "python3.11", "python3.12", "python3.13"):
        world.program(name, f'shift; code=$1; shift; exec {sys.executable} -c "{patch}" "$code" "$@"')
    world.settings = {}


def elsewhere(host: str, port: int | None) -> Callable[[World], None]:
    def arrange(world: World) -> None:
        world.connection = SshConnection(host, "tester", port, world.ssh.config)

    return arrange


def other_daemon(behaviour: adbd.Behaviour) -> Callable[[World], None]:
    def arrange(world: World) -> None:
        world.adb.behaviour = behaviour

    return arrange


def serial(text: str, twice: bool = False) -> Callable[[World], None]:
    def arrange(world: World) -> None:
        world.connection = AdbConnection(text)
        if twice:
            other = adbd.Daemon([], Path("/"))
            world.adb.siblings.append(other)

    return arrange


def unplugged_when(words: bytes, times: int = 1) -> Callable[[World], None]:
    def arrange(world: World) -> None:
        seen = [0]

        def watch(data: bytes) -> None:
            seen[0] += data.count(words)
            if seen[0] >= times:
                world.adb.unplug()

        world.adb.watch = watch

    return arrange


DO, TOOK, RESULT = b'"do": ', b'"event": "took"', b'"result": {"measurements"'
INJECTIONS: dict[str, Callable[[World], None]] = {
    "cut before the first word": lambda world: world.cut_when("from_device", b""),
    "cut while the first program is sent": lambda world: world.cut_when("from_client", b"", 2),
    "cut while files are sent": lambda world: world.cut_when("from_client", DO + b'"write"'),
    "cut while the agent starts": lambda world: world.cut_when("from_client", DO + b'"become"'),
    "cut while it measures": lambda world: world.cut_when("from_device", TOOK, 3),
    "cut before the result": lambda world: world.cut_when("from_device", RESULT),
    "host key changed": lambda world: world.ssh.write_config(known="changed_hosts"),
    "host key not known": lambda world: world.ssh.write_config(known="no_hosts"),
    "wrong key or password": lambda world: world.ssh.write_config(key="other"),
    "no SSH server": elsewhere("127.0.0.1", 9),
    "no such host": elsewhere("board.invalid", None),
    "no ssh here": no_client,
    "no Python": lambda world: world.settings.update(python="/nowhere/python3"),
    "Python too old": old_python,
    "its cache cannot be written": lambda world: world.settings.update(cache="/dev/null/cache"),
    "its disk is full": lambda world: world.python_that("its disk is full"),
    "a wheel is missing": lambda world: wheelhouse(world, "numpy-2.4.6-cp311-cp311-any.whl"),
    "wheels of another processor": lambda world: wheelhouse(
        world, "onnxruntime-1.31.1-cp311-cp311-manylinux_2_28_s390x.whl"
    ),
    "the engine is not in its Python": lambda world: world.python_that("the engine is not in its Python"),
    "the agent is killed": lambda world: world.signal_when(TOOK, signal.SIGKILL),
    "out of memory": huge,
    "it hangs": hanging,
    "it answers nonsense": nonsense,
    "its clock jumps": lambda world: world.python_that("its clock jumps"),
    "it is throttled": lambda world: world.program("vcgencmd", "echo throttled=0x4"),
    "its sensors cannot be read": lambda world: world.python_that("its sensors cannot be read"),
    "a login that talks": lambda world: world.program("sh", 'echo Welcome; exec /bin/sh "$@"'),
    "not allowed": other_daemon("unauthorized"),
    "offline": other_daemon("offline"),
    "no such serial": serial("HT4C31234567"),
    "two with one serial": serial("127.0.0.1", twice=True),
    "no adb here": no_client,
    "unplugged while files are sent": unplugged_when(DO + b'"write"'),
    "unplugged while it measures": unplugged_when(TOOK, 3),
}


@pytest.fixture
def world(
    server: SshServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Iterator[World]:
    fault: Fault = request.getfixturevalue("fault")
    made = World(tmp_path, small(tmp_path / "net.onnx"), monkeypatch=monkeypatch)
    if fault.way == "SSH":
        made.server = server
        made.connection = SshConnection.of(server.url, server.config)
        yield made
        return
    if adbd.missing() is not None:
        pytest.skip(str(adbd.missing()))
    with adbd.client() as client:
        for name, value in client.environment.items():
            monkeypatch.setenv(name, value)
        made.daemon = adbd.Daemon(["env", f"HOME={tmp_path}"], Path("/"))
        if fault.name != "no adb here":
            INJECTIONS[fault.name](made)
        for daemon in (made.daemon, *made.daemon.siblings):
            client.connect(daemon)
        if fault.name == "no adb here":
            INJECTIONS[fault.name](made)
        made.connection = made.connection or AdbConnection(made.daemon.serial)
        yield made
        monkeypatch.undo()
        made.daemon.unplug()


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_fault_ends_as_documented(fault: Fault, world: World) -> None:
    if fault.way == "SSH":
        INJECTIONS[fault.name](world)
    home = world.ssh.home if world.server is not None else world.folder
    before = {path.name for path in home.iterdir()} | {".cache"}
    assert world.connection is not None
    settings = Settings(**{"cache": str(home / ".cache" / fault.name), **world.settings})
    device = RemoteDevice(world.connection, settings, "board")
    kept: tuple[Measurement, ...] = ()
    try:
        if fault.ending == "error":
            with pytest.raises(DeviceError) as caught:
                device.benchmark([world.file], Request(PRESET, memory=False), engine=[None])
            line = str(caught.value)
            assert (
                line.startswith(("board: ", world.connection.place))
                and "\n" not in line
                and caught.value.exit_code == 4
            )
            assert re.search(fault.told, line), line
            kept = tuple(caught.value.measurements)
        else:
            kept = device.benchmark([world.file], Request(PRESET, memory=False), engine=[None])
            reasons = "; ".join(each.reason for each in kept[0].broken_rules)
            assert re.search(fault.told, reasons) if fault.ending == "invalid" else len(kept[0].samples_ms) >= 5
    finally:
        device.close()
    if fault.keeps:
        assert kept and len(kept[0].samples_ms) > 0 and not kept[0].valid
        assert Measurement.from_json(kept[0].to_json()) == kept[0]
    ended(world)
    assert {path.name for path in home.iterdir()} <= before


def ended(world: World) -> None:
    """Nothing runs on the device any more."""
    ends = time.monotonic() + SECONDS
    if world.server is not None:
        for process in world.ssh.processes:
            if process.returncode is None and world.ssh.from_device is not None:
                try:
                    os.kill(process.pid, signal.SIGCONT)  # one that was stopped goes on, to see that it is alone
                except ProcessLookupError:
                    continue
        while time.monotonic() < ends and any(process.returncode is None for process in world.ssh.processes):
            time.sleep(0.05)
        assert all(process.returncode is not None for process in world.ssh.processes)


def test_every_fault_is_injected_and_documented() -> None:
    assert [fault.name for fault in FAULTS] == list(INJECTIONS) and len(FAULTS) >= 30
    page = PAGE.read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if line.startswith(("| SSH", "| adb"))]
    expected = [
        (fault.way, fault.name, WORDS[fault.ending] + (", what was measured is kept" if fault.keeps else ""))
        for fault in FAULTS
    ]
    assert [tuple(cell.strip() for cell in row.strip("|").split("|")) for row in rows] == expected
