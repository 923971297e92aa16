"""Modes on a device over SSH: what is kept of one that is lost, what is put back there, and what is no part of any."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto

from runtimes.devices.remote import RemoteDevice
from runtimes.errors import DeviceError, InvalidInputs, InvalidModel
from runtimes.measure.modes.cold_start import ColdStarts
from runtimes.measure.modes.roofline import RooflineProbe
from runtimes.measure.modes.sustained import SustainedLoad
from runtimes.measure.modes.sweep import BatchSweep, CoresSweep
from runtimes.measure.presets import Preset
from runtimes.measure.request import Request
from runtimes.measure.subject import Subject
from tests.support import boards
from tests.support.ssh_server import Reach, SshServer

Saved = Callable[[ModelProto, str], Path]
Models = dict[str, Callable[..., ModelProto]]

BRIEF = Preset("brief", 1, 0.0, 5, 0.0)
LOAD = SustainedLoad(1.0, window_s=0.05)

OTHER_ROOT = """
import importlib.abc, importlib.machinery, os, pathlib, sys
class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name != "runtimes.sensors.files":
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        run = spec.loader.exec_module
        def exec_module(module):
            run(module)
            module.ROOT = pathlib.Path(os.environ["BOARD"])
        spec.loader.exec_module = exec_module
        return spec
sys.meta_path.insert(0, Finder())
"""


@pytest.fixture
def file(saved: Saved, models: Models) -> Path:
    return saved(models["linear"]("N"), "linear.onnx")


@pytest.fixture
def board(server: SshServer, tmp_path: Path) -> Path:
    """The root of a Jetson with a tool for its power mode, which the device takes for its own."""
    root, tools = boards.jetson_orin(tmp_path / "board"), tmp_path / "tools"
    tools.mkdir()
    (tools / "sitecustomize.py").write_text(OTHER_ROOT)
    (tools / "nvpmodel").write_text(f"#!/bin/sh\nprintf 'pmode:%04d\\n' \"$2\" > '{root}/var/lib/nvpmodel/status'\n")
    (tools / "nvpmodel").chmod(0o755)
    path = f"{tools}{os.pathsep}{os.environ['PATH']}"
    server.environment = {"PYTHONPATH": str(tools), "BOARD": str(root), "PATH": path}
    return root


def settings(board: Path) -> tuple[str, str]:
    """The governor and the power mode that it has now."""
    governor = board / f"{boards.CPU}/cpufreq/policy0/scaling_governor"
    return governor.read_text().strip(), (board / "var/lib/nvpmodel/status").read_text().strip()


def test_settings_are_there_meanwhile_and_put_back(reach: Reach, server: SshServer, board: Path, file: Path) -> None:
    seen: list[tuple[str, str]] = []

    def watch(data: bytes) -> bool:
        seen.extend([settings(board)] if b'"disturbances"' in data else [])  # the first part of each
        return False

    server.from_device = watch
    before = settings(board)
    request = Request(BRIEF, memory=False, governor="performance", power_mode="7W")
    for mode in (SustainedLoad(0.002), ColdStarts(1)):
        list(mode.results(reach(), Subject.of([file], request)))
    assert seen == [("performance", "pmode:0001")] * 2 and before == ("schedutil", "pmode:0000") == settings(board)


def cut(server: SshServer) -> None:
    server.from_device = lambda data: True


def interrupt(server: SshServer) -> None:
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)


def kill(server: SshServer) -> None:
    os.killpg(server.processes[-1].pid, signal.SIGKILL)


@pytest.mark.usefixtures("ending_signals")
@pytest.mark.parametrize("ending", [cut, interrupt, kill])
def test_settings_are_put_back_there_however_it_ends(
    reach: Reach, server: SshServer, board: Path, file: Path, ending: Callable[[SshServer], None]
) -> None:
    parts = 0

    def watch(data: bytes) -> bool:
        nonlocal parts
        before, parts = parts, parts + data.count(b'"event": "part"')  # several may come at once
        if before < 4 <= parts:
            ending(server)
        return server.from_device is not watch

    server.from_device = watch
    device = reach(cache=f"ends by {ending.__name__}")
    request = Request(BRIEF, memory=False, governor="performance", power_mode="7W")
    with pytest.raises((DeviceError, KeyboardInterrupt)) as caught:
        device.measure(LOAD, Subject.of([file], request, names=["net"]))
    device.close()
    (kept,) = caught.value.measurements  # type: ignore[attr-defined]
    assert kept.files == ("net",) and len(kept.windows) >= 2 and min(window.runs[0] for window in kept.windows) > 0
    reason = "interrupted" if ending is interrupt else "board: measuring: "
    assert f"it was broken off: {reason}" in kept.disturbances[0]
    until = time.monotonic() + 30
    while settings(board) != ("schedutil", "pmode:0000") and time.monotonic() < until:
        time.sleep(0.1)
    assert settings(board) == ("schedutil", "pmode:0000")


def test_cleaning_puts_back_first_what_is_left_changed(reach: Reach, board: Path, tmp_path: Path) -> None:
    """How it was before the power failed is written in the cache alone."""
    governor = board / f"{boards.CPU}/cpufreq/policy0/scaling_governor"
    device = reach(cache=str(tmp_path / "left"))
    left = {"pid": 2**22 + 1, "started": "1", "governors": {"0": "schedutil"}, "power_mode": None, "root": str(board)}
    caches = Path(str(device.facts()["cache"]["folder"])) / "caches"
    (caches / "machine-settings.json").write_text(json.dumps(left))
    governor.unlink()
    governor.mkdir()  # that nobody can write to
    with pytest.raises(DeviceError, match="board: cleaning: the governor schedutil was not put back"):
        device.clean()
    assert (caches / "machine-settings.json").exists()
    governor.rmdir()
    governor.write_text("performance\n")
    assert device.clean() > 0 and not caches.exists()
    assert settings(board)[0] == "schedutil"


def test_what_the_device_lacks_is_told_with_its_name(reach: Reach, board: Path, file: Path) -> None:
    def measure(mode: Any, **asked: Any) -> None:
        subject = Subject.of([file], Request(BRIEF, memory=False, **asked))
        mode.require(device, subject)
        list(mode.results(device, subject))

    device: RemoteDevice = reach()
    for mode, asked, told in (
        (LOAD, {"governor": "turbo"}, "board: governor turbo: expected one of performance, powersave, schedutil"),
        (LOAD, {"power_mode": "1W"}, "board: power mode 1W: expected one of 0"),
        (CoresSweep(cores=("little+900",)), {}, "board: cores little, 900"),
        (BatchSweep((1,)), {"energy": True, "rail": "VDD_NONE"}, "board: power rail 'VDD_NONE': expected one of"),
    ):
        with pytest.raises(InvalidInputs, match=told):
            measure(mode, **asked)
    warm = Request(BRIEF, memory=False, start_below_c=1.0, patience_s=0.0)
    (cold,) = ColdStarts(1).results(device, Subject.of([file], warm))
    assert "C, not below 1 C, after waiting 0 s" in cold.disturbances[0]


def test_a_process_that_cannot_start_cold_is_told(reach: Reach, file: Path) -> None:
    subject = Subject.of([file], Request(BRIEF), inputs=[{"x": np.ones((1, 5), np.float32)}])
    with pytest.raises(InvalidModel, match=r"board: .*linear\.onnx: the process that starts cold failed: input 'x'"):
        reach().measure(ColdStarts(2), subject)


def test_the_probe_needs_no_file(reach: Reach) -> None:
    probe = reach().measure(RooflineProbe("onnxruntime"), Subject((), (), ("onnxruntime",), None, Request()))
    assert min(probe.float_ops, probe.integer_ops or 0, probe.bytes_per_s) > 0
