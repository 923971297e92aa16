"""The emulated board behind the real adb client: as a device with Python, and as a phone without one."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest

from runtimes.devices.adb import AdbConnection
from runtimes.devices.device import Settings
from runtimes.devices.native.device import NativeDevice
from runtimes.devices.remote import RemoteDevice
from runtimes.measure.presets import Preset
from runtimes.measure.request import Request
from runtimes.runtime import Options, load
from tests.support import adbd
from tests.support.board import PYTHON, Board
from tests.support.native_runner import built, two_inputs

COMPILER = "aarch64-linux-gnu-g++"


@pytest.fixture
def connection(arm_board: Board, monkeypatch: pytest.MonkeyPatch) -> Iterator[AdbConnection]:
    """What adb's client reaches the board by: a daemon whose shell, and whose files, are those of the board."""
    reason = adbd.missing()
    if reason is not None:
        pytest.skip(reason)
    monkeypatch.delenv("EDGEPRESS_EMULATED", raising=False)
    with adbd.client() as client:
        for name, value in client.environment.items():
            monkeypatch.setenv(name, value)
        daemon = adbd.Daemon(arm_board.inside, arm_board.files)
        client.connect(daemon)
        yield AdbConnection(daemon.serial)
        daemon.unplug()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "net.onnx"
    onnx.save(two_inputs(), path)
    return path


def inputs() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    image = rng.normal(size=(2, 3, 8, 8)).astype(np.float32)
    return {"image": image, 'a "name"': rng.integers(0, 255, (2, 4), dtype=np.uint8)}


def assert_as_here(device: RemoteDevice | NativeDevice, model: Path) -> None:
    here, there = (each.run(inputs()) for each in (load(model), device.load(model, "onnxruntime", Options())))
    np.testing.assert_allclose(there["features"], here["features"], rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(there["doubled"], here["doubled"])


def test_a_device_with_python(connection: AdbConnection, model: Path) -> None:
    device = RemoteDevice(connection, Settings(python=PYTHON), "phone")
    assert_as_here(device, model)
    there = device.conditions()
    assert (there.architecture, there.emulated) == ("aarch64", True)
    device.close()


def test_a_phone_without_python(connection: AdbConnection, arm_board: Board, model: Path, tmp_path: Path) -> None:
    if shutil.which(COMPILER) is None:
        pytest.skip(f"{COMPILER}: apt-get install g++-aarch64-linux-gnu")
    programs = tmp_path / "programs"
    programs.mkdir()
    built(COMPILER, programs)
    (library,) = (arm_board.system.packages / "onnxruntime/capi").glob("libonnxruntime.so*")
    (programs / "libonnxruntime.so").symlink_to(library)
    device = NativeDevice(connection, programs, Settings(cache="/root/there"), "phone")
    assert_as_here(device, model)
    (measured,) = device.benchmark([model], Request(Preset("short", 1, 0.0, 5, 0.0)), engine=[None])
    assert len(measured.samples_ms) == 5 and measured.conditions.emulated
    assert (measured.conditions.architecture, measured.conditions.python) == ("aarch64", "none")
    assert device.clean() > 0
