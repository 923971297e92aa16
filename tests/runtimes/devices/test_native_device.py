"""A device without Python behind the real adb client: this machine, its files in a folder of the tests' own."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from runtimes.devices.adb import AdbConnection
from runtimes.devices.device import Settings
from runtimes.devices.native import sensed
from runtimes.devices.native.device import NativeDevice
from runtimes.errors import DeviceError, InvalidInputs
from runtimes.measure.modes.sustained import SustainedLoad
from runtimes.measure.modes.sweep import BatchSweep, CoresSweep
from runtimes.measure.presets import Preset
from runtimes.measure.request import Request
from runtimes.measure.subject import Subject
from runtimes.runtime import Options, load
from tests.support import adbd
from tests.support.native_runner import built, two_inputs

SHORT = Preset("short", warmup_runs=1, warmup_s=0.0, runs=5, seconds=0.0)
LIBRARY = next(Path(onnxruntime.__file__).parent.glob("capi/libonnxruntime.so*"), None)


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("c++")
    if compiler is None or LIBRARY is None:
        pytest.skip("a C++ compiler and ONNX Runtime's library")
    folder = tmp_path_factory.mktemp("programs")
    built(compiler, folder)
    (folder / "libonnxruntime.so").symlink_to(LIBRARY)
    return folder


@pytest.fixture
def daemon(monkeypatch: pytest.MonkeyPatch) -> Iterator[adbd.Daemon]:
    reason = adbd.missing()
    if reason is not None:
        pytest.skip(reason)
    with adbd.client() as client:
        for name, value in client.environment.items():
            monkeypatch.setenv(name, value)
        made = adbd.Daemon([], Path("/"))
        client.connect(made)
        yield made
        made.unplug()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "net; rm -rf $HOME.onnx"
    onnx.save(two_inputs(), path)
    return path


@pytest.fixture
def device(daemon: adbd.Daemon, programs: Path, tmp_path: Path) -> NativeDevice:
    return NativeDevice(AdbConnection(daemon.serial), programs, Settings(cache=str(tmp_path / "there")), "phone")


def inputs(count: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    image = rng.normal(size=(count, 3, 8, 8)).astype(np.float32)
    return {"image": image, 'a "name"': rng.integers(0, 255, (count, 4), dtype=np.uint8)}


def test_outputs_are_the_engine_s_and_a_file_is_sent_once(device: NativeDevice, model: Path, tmp_path: Path) -> None:
    runtime, here = device.load(model, "onnxruntime", Options()), load(model)
    assert (runtime.inputs, runtime.outputs) == (here.inputs, here.outputs)
    sent = device.sent_bytes
    assert sent == sum(path.stat().st_size for path in (model, *device.programs.iterdir()))
    for name, array in here.run(inputs(2)).items():
        assert np.array_equal(runtime.run(inputs(2))[name], array)
    with pytest.raises(InvalidInputs, match="expected the names"):
        runtime.run({"image": inputs(1)["image"]})
    again = NativeDevice(AdbConnection(device.name), device.programs, device.settings)
    assert again.sent_bytes == 0
    kept = sorted(path.relative_to(tmp_path / "there").parts[0] for path in (tmp_path / "there").rglob("*"))
    assert set(kept) == {"files", "runs"} and not list((tmp_path / "there/runs").iterdir())
    assert device.clean() > sent and not (tmp_path / "there").exists()


def test_every_run_is_measured(device: NativeDevice, model: Path) -> None:
    (measured,) = device.benchmark([model], Request(SHORT, cores=(0,)), engine=[None])
    assert len(measured.samples_ms) == 5 and min(measured.samples_ms) > 0
    assert (measured.engine_version, measured.pinned) == (onnxruntime.__version__, (0,))
    assert measured.conditions.python == "none" and measured.conditions.cores
    assert measured.size_bytes == model.stat().st_size and measured.load_ms > 0


def test_sweeps_are_loops_of_its_own_and_what_needs_python_is_refused(
    device: NativeDevice, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = Request(SHORT, memory=False)
    subject = Subject.of([model], request, inputs=[inputs(1)], names=["net"])
    for mode in (BatchSweep((1, 2)), CoresSweep((1, 2), ("0",))):
        mode.require(device, subject)
        points = list(mode.results(device, subject))
        assert len(points) == 2 and {point.measurement.file for point in points} == {"net"}
        assert all(len(point.measurement.samples_ms) == 5 for point in points)
    warm = replace(device.conditions(), temperatures_c={"skin": 41.5})
    monkeypatch.setattr(device, "conditions", lambda: warm)
    (measured,) = device.benchmark([model], replace(request, start_below_c=40.0, patience_s=0.0), engine=[None])
    assert measured.disturbances == ("skin is still at 41.5 C, not below 40 C, after waiting 0 s",)
    with pytest.raises(DeviceError, match="phone: a governor, energy: needs Python on the device"):
        device.benchmark([model], replace(request, governor="performance", energy=True), engine=[None])
    with pytest.raises(DeviceError, match="phone: sustained: needs Python"):
        device.measure(SustainedLoad(1.0), subject)


def test_a_program_that_tells_means_is_called_several_times(daemon: adbd.Daemon, tmp_path: Path, model: Path) -> None:
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "onnxruntime_perf_test").write_text(
        "#!/bin/sh\nfor i in 1 2 3; do echo iteration:$i,time_cost:0.00$i; done\n"
    )
    (programs / "benchmark_model").write_text(
        "#!/bin/sh\necho INFO: count=7 first=1 min=1000 max=3000 avg=2000 std=1\n"
    )
    other = tmp_path / "net.tflite"
    other.write_bytes(b"a file")
    device = NativeDevice(AdbConnection(daemon.serial), programs, Settings(cache=str(tmp_path / "there")))
    single, means = device.benchmark([model, other], Request(SHORT), engine=["onnxruntime", "litert"])
    assert single.samples_ms == pytest.approx((1.0, 2.0, 3.0)) and not single.disturbances
    assert means.samples_ms == (2.0,) * 5 and "each sample is the mean of 7" in means.disturbances[0]
    assert not means.valid
    with pytest.raises(DeviceError, match="accuracy, of ONNX Runtime need the runner"):
        device.load(model, "onnxruntime", Options())
    assert not device.tells_outputs("onnxruntime") and not device.tells_outputs("litert")
    with pytest.raises(DeviceError, match="LiteRT need an engine whose outputs"):
        device.require(Request(SHORT), outputs_of=["litert"])
    with pytest.raises(DeviceError, match=r"ncnn needs benchncnn in .*, built for the device"):
        device.version("ncnn")


def test_what_was_measured_before_it_is_unplugged_is_kept(
    device: NativeDevice, daemon: adbd.Daemon, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = device._measured

    def unplugged(file: str, *rest: object) -> object:
        if file == "second":
            daemon.unplug()
        return loop(str(model), *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(device, "_measured", unplugged)
    monkeypatch.chdir(model.parent)
    shutil.copy(model, "second")
    with pytest.raises(DeviceError, match=r"phone: .*") as caught:
        device.benchmark([model, "second"], Request(SHORT), engine=["onnxruntime"] * 2)
    assert len(caught.value.measurements) == 1 and "\n" not in str(caught.value)


def test_a_program_for_another_processor_is_one_line(daemon: adbd.Daemon, tmp_path: Path, model: Path) -> None:
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "runner").write_bytes(b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x02\x00\xb7\x00" + bytes(100))
    (programs / "libonnxruntime.so").write_bytes(b"none")
    device = NativeDevice(AdbConnection(daemon.serial), programs, Settings(cache=str(tmp_path / "there")), "phone")
    with pytest.raises(DeviceError, match=r"phone: loading .*(Exec format error|cannot execute|not found)"):
        device.load(model, "onnxruntime", Options())


class ShellHere:
    """What asks a device, asking this machine."""

    def require(self, words: Sequence[str], doing: str) -> bytes:
        return subprocess.run(words, capture_output=True, check=True).stdout


@pytest.mark.parametrize("without", ["", "proc/sys/kernel/arch", "/proc/$$/task/$$/exe"])
def test_a_device_whose_kernel_is_of_another_machine_is_emulated(
    without: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each evidence alone, where the kernel or its settings hide the other."""
    monkeypatch.delenv("EDGEPRESS_EMULATED", raising=False)
    monkeypatch.setattr(sensed, "_SCRIPT", sensed._SCRIPT.replace(without or "none", "none"))
    assert not sensed.conditions_of(ShellHere()).emulated  # type: ignore[arg-type]
    uname = tmp_path / "uname"
    uname.write_text(f"#!/bin/sh\necho {'x86_64' if platform.machine() == 'aarch64' else 'aarch64'}\n")
    uname.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    told = sensed.conditions_of(ShellHere())  # type: ignore[arg-type]
    assert told.emulated and told.architecture != platform.machine()
