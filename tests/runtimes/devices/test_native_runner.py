"""The runner of devices without Python, built here and run on ONNX Runtime's own library."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from runtimes.devices.native import runner
from runtimes.errors import DeviceError
from runtimes.runtime import TensorSpec, load
from tests.support.native_runner import built, two_inputs

LIBRARY = next(Path(onnxruntime.__file__).parent.glob("capi/libonnxruntime.so*"), None)


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> str:
    compiler = shutil.which("c++")
    if compiler is None or LIBRARY is None:
        pytest.skip("a C++ compiler and ONNX Runtime's library")
    return str(built(compiler, tmp_path_factory.mktemp("runner")))


@pytest.fixture
def call(program: str, tmp_path: Path) -> runner.Call:
    model = tmp_path / "net.onnx"
    onnx.save(two_inputs(), model)
    for name in ("inputs", "outputs"):
        (tmp_path / name).mkdir()
    return runner.Call(program, "onnxruntime", str(LIBRARY), str(model))


def said(words: list[str], code: int = 0) -> str:
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == code, done.stderr
    return done.stderr if code else done.stdout


def samples(batch: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "image": rng.normal(size=(batch, 3, 8, 8)).astype(np.float32),
        'a "name"': rng.integers(0, 255, (batch, 4), dtype=np.uint8),
    }


def test_it_describes_the_model_as_the_engine_does(call: runner.Call) -> None:
    told = runner.described(said(call.describe()))
    assert told.version == onnxruntime.__version__
    with_engine = load(Path(call.model))
    assert (told.inputs, told.outputs) == (with_engine.inputs, with_engine.outputs)


@pytest.mark.parametrize("batch", [1, 3])
def test_its_outputs_are_the_engine_s(call: runner.Call, tmp_path: Path, batch: int) -> None:
    arrays = samples(6)
    told = runner.described(said(call.describe()))
    for name, content in runner.files_of(told.inputs, arrays).items():
        (tmp_path / "inputs" / name).write_bytes(content)
    said(call.run(str(tmp_path / "inputs"), str(tmp_path / "outputs"), batch))
    files = {path.name: path.read_bytes() for path in (tmp_path / "outputs").iterdir()}
    outputs = runner.arrays_of(told.outputs, files)
    engine = load(Path(call.model))
    for first in range(0, 6, batch):
        expected = engine.run({name: array[first : first + batch] for name, array in arrays.items()})
        for name, array in expected.items():
            assert outputs[name].dtype == array.dtype
            assert np.array_equal(outputs[name][first : first + batch], array)


def test_it_times_every_run(call: runner.Call, tmp_path: Path) -> None:
    told = runner.described(said(call.describe()))
    for name, content in runner.files_of(told.inputs, samples(1)).items():
        (tmp_path / "inputs" / name).write_bytes(content)
    folders = str(tmp_path / "inputs"), str(tmp_path / "outputs")
    said(call.time(*folders, 1, warmup=(2, 0.0), least=(17, 0.0)))
    times = runner.array_of({runner.TIMES: (tmp_path / "outputs" / runner.TIMES).read_bytes()}, runner.TIMES)
    assert times.shape == (17,) and times.dtype == np.float64 and (times > 0).all()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("type", "expected <f4, got <f8"),
        ("short", "it ends too early"),
        ("missing", "cannot be read"),
        ("batch", "whole batches"),
        ("order", "expected C order"),
    ],
)
def test_samples_that_do_not_fit_are_one_line(call: runner.Call, tmp_path: Path, damage: str, message: str) -> None:
    arrays = samples(3 if damage == "batch" else 2)
    if damage == "type":
        arrays["image"] = arrays["image"].astype(np.float64)
    told = runner.described(said(call.describe()))
    files = runner.files_of(told.inputs, arrays)
    if damage == "short":
        files["000.npy"] = files["000.npy"][:-1]
    if damage == "order":
        files["000.npy"] = files["000.npy"].replace(b"'fortran_order': False", b"'fortran_order': True ")
    for name, content in files.items():
        if damage != "missing" or name != "001.npy":
            (tmp_path / "inputs" / name).write_bytes(content)
    line = said(call.run(str(tmp_path / "inputs"), str(tmp_path / "outputs"), 2), code=1)
    assert message in line and line.count("\n") == 1


def test_what_cannot_be_loaded_is_one_line(call: runner.Call, tmp_path: Path) -> None:
    other = runner.Call(call.program, "onnxruntime", str(tmp_path / "none.so"), call.model)
    assert "the engine cannot be loaded" in said(other.describe(), code=1)
    (tmp_path / "bad.onnx").write_bytes(b"nothing")
    bad = runner.Call(call.program, "onnxruntime", call.library, str(tmp_path / "bad.onnx"))
    assert "ONNX Runtime: " in said(bad.describe(), code=1)


def test_what_is_no_answer() -> None:
    for text in (
        "",
        "hello",
        '{"version": "1"}',
        '{"version": "1", "load_ms": 1, "inputs": [{"name": "x"}], "outputs": []}',
    ):
        with pytest.raises(DeviceError, match="none of its lines"):
            runner.described(text)
    spec = (TensorSpec("y", (1,), "float32"),)
    for files in ({}, {"000.npy": b"\x93NUMPY"}):
        with pytest.raises(DeviceError, match="the runner's file cannot be read"):
            runner.arrays_of(spec, files)
