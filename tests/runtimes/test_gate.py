"""The gate: what it lets through, and that it lets nothing through unseen."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from runtimes.__main__ import main
from runtimes.bound import Binding, call
from runtimes.checks import gate
from runtimes.checks.check import OutputParity, Parity
from runtimes.checks.folder import Entry, Folder, Kind, write_arrays
from runtimes.checks.gate import Checked, check_folder, judge
from runtimes.errors import InvalidInputs
from runtimes.processor import is_exact
from runtimes.runtime import Options, load

Models = dict[str, Callable[..., onnx.ModelProto]]
SAMPLES = 120


@pytest.fixture
def folder(tmp_path: Path, models: Models) -> Folder:
    """A float and an int8 file with what they give for 120 samples."""
    onnx.save(models["float"](), tmp_path / "float.onnx")
    onnx.save(models["int8"](), tmp_path / "int8.onnx")
    x = np.random.default_rng(0).standard_normal((SAMPLES, 3, 8, 8)).astype(np.float32)
    entries = []
    for name, kind in (("float", "float32"), ("int8", "integer")):
        runtime = load(tmp_path / f"{name}.onnx", options=Options(reference=not is_exact("ort-x86")))
        write_arrays(tmp_path / f"{name}.npz", call(runtime, Binding(), [x]))
        runtime.close()
        entries.append(Entry(f"{name}.onnx", "onnx", "onnxruntime", "ort-x86", kind, f"{name}.npz"))  # type: ignore[arg-type]
    write_arrays(tmp_path / "samples.npz", [x], np.zeros(SAMPLES, np.int64))
    made = Folder(tmp_path, tuple(entries), source="noise")
    made.write()
    return made


def test_what_is_written_is_read(folder: Folder) -> None:
    assert Folder.read(folder.path) == folder
    (inputs,), labels = folder.inputs()
    assert inputs.shape == (SAMPLES, 3, 8, 8) and labels is not None and labels.shape == (SAMPLES,)


def test_files_that_give_what_they_gave_pass(folder: Folder) -> None:
    plain, integer = check_folder(folder.path)
    assert plain.passed and integer.passed
    assert plain.parity is not None and plain.parity.samples == SAMPLES and plain.parity.max_abs_error == 0
    assert plain.top1 is not None and 0 <= plain.top1 <= 100
    assert plain.executed is not None and plain.executed.integer == 0 < plain.executed.float
    assert integer.executed is not None and integer.executed.integer > 0 and not integer.fell_back
    assert plain.size_bytes == (folder.path / "float.onnx").stat().st_size
    assert json.loads(json.dumps(gate.to_json(integer)))["nodes"]["integer"] == integer.executed.integer
    assert len(gate.row(plain)) == len(gate.COLUMNS)


def test_a_wrong_output_does_not_pass(folder: Folder) -> None:
    expected = folder.expected(folder.entries[0])
    expected[0][7, 2] += 0.01 * np.abs(expected[0]).max()
    write_arrays(folder.path / "float.npz", expected)
    plain, integer = check_folder(folder.path)
    assert not plain.passed and "relative error 0.0" in plain.reasons[0] and integer.passed


def test_integers_that_answer_something_else_do_not_pass(folder: Folder) -> None:
    expected = folder.expected(folder.entries[1])
    expected[0][:2] = expected[0][:2, ::-1]
    write_arrays(folder.path / "int8.npz", expected)
    _, integer = check_folder(folder.path)
    assert integer.parity is not None and integer.parity.top1_agreement == pytest.approx(100 * 118 / 120)
    assert any("top-1 agreement 98.33 %" in reason for reason in integer.reasons)


def test_a_file_of_integers_that_runs_in_float_does_not_pass(folder: Folder) -> None:
    entries = (replace(folder.entries[0], kind="integer"),)
    replace(folder, entries=entries).write()
    (checked,) = check_folder(folder.path)
    assert checked.reasons == ("nothing ran in integers",)


def test_what_fell_back_to_float_is_named(folder: Folder, models: Models) -> None:
    onnx.save(models["int8"](float_inside=True), folder.path / "int8.onnx")
    _, integer = check_folder(folder.path)
    assert integer.fell_back == ("left_in_float",)
    assert "ran in float: left_in_float" in gate.notes(integer)


def test_an_engine_that_is_missing_is_no_pass(folder: Folder) -> None:
    replace(folder, entries=(replace(folder.entries[0], engine="abacus"),)).write()
    (checked,) = check_folder(folder.path)
    assert not checked.passed and "abacus" in checked.reasons[0]


def test_a_file_that_is_gone_is_no_pass(folder: Folder) -> None:
    (folder.path / "float.onnx").unlink()
    plain, integer = check_folder(folder.path)
    assert not plain.passed and "cannot be read" in plain.reasons[0] and integer.passed


def test_no_samples_are_no_pass(folder: Folder) -> None:
    write_arrays(folder.path / "samples.npz", [np.zeros((0, 3, 8, 8), np.float32)])
    assert not any(checked.passed for checked in check_folder(folder.path))


@pytest.mark.parametrize(
    ("kind", "parity", "said"),
    [
        ("float32", Parity(0, 0.0, 0.0, np.inf, None), "no samples"),
        ("float32", Parity(8, np.inf, np.nan, -np.inf, None), "relative error nan"),
        ("float16", Parity(8, 1.0, 0.1, 20.0, None), "at most 0.02"),
        ("integer", Parity(8, 1.0, 0.1, 12.0, None), "SNR 12.0 dB"),
        ("integer", Parity(100, 1.0, 0.1, np.nan, None), "SNR nan dB"),
    ],
)
def test_what_does_not_pass_is_said(kind: Kind, parity: Parity, said: str) -> None:
    assert said in judge(kind, parity)[0]


def test_each_output_is_judged_by_itself() -> None:
    good = OutputParity("boxes", 0.1, 0.01, 40.0)
    lost = OutputParity("scores", 1.0, 1.0, 3.0)
    drowned = OutputParity("all", 1.0, 0.01, 40.0, part_snr_db=2.0)
    assert judge("integer", Parity(8, 1.0, 1.0, 3.0, None, (good, lost))) == ("scores: SNR 3.0 dB, at least 15",)
    (reason,) = judge("integer", Parity(8, 1.0, 0.01, 2.0, None, (drowned,)))
    assert reason == "SNR 2.0 dB of the channels that are far smaller than the others, at least 15"
    assert not judge("integer", Parity(8, 0.1, 0.01, 40.0, None, (good,)))


def test_labels_that_are_no_classes_ask_for_no_agreement(folder: Folder) -> None:
    """Landmarks that are a little off have another largest coordinate, which says nothing."""
    (inputs,), _ = folder.inputs()
    for labels in (np.zeros((SAMPLES, 10), np.float32), np.zeros((SAMPLES, 10), np.int64)):
        write_arrays(folder.path / "samples.npz", [inputs], labels)
        for checked in check_folder(folder.path):
            assert checked.passed and checked.top1 is None
            assert checked.parity is not None and checked.parity.top1_agreement is None


def test_few_samples_are_not_judged_by_their_ties() -> None:
    assert not judge("integer", Parity(99, 0.1, 0.01, 40.0, 90.0))
    assert judge("integer", Parity(100, 0.1, 0.01, 40.0, 90.0))


def test_only_the_engines_that_are_asked_for(folder: Folder) -> None:
    assert len(list(check_folder(folder.path, engines=["onnxruntime"]))) == 2
    with pytest.raises(InvalidInputs, match="nothing to check; it has files for onnxruntime"):
        list(check_folder(folder.path, engines=["ncnn"]))


@pytest.mark.parametrize("text", ["", "[]", '{"schema": 1}', '{"schema": 2}', '{"schema": 2, "files": [{"x": 1}]}'])
def test_folders_that_are_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "export.json").write_text(text)
    with pytest.raises(InvalidInputs, match=r"export\.json"):
        Folder.read(tmp_path)


def test_a_device_checks_a_folder_by_itself(folder: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(folder.path)]) == 0
    assert [each["passed"] for each in json.loads(capsys.readouterr().out)] == [True, True]
    (folder.path / "float.onnx").unlink()
    assert main(["check", str(folder.path)]) == 1
    assert "float.onnx" in capsys.readouterr().err


def test_a_channels_last_file_and_other_names(linear: Path) -> None:
    runtime = load(linear)
    x = np.ones((3, 4), np.float32)
    assert call(runtime, Binding(("x",), ("y",)), [x])[0].shape == (3, 5)
    with pytest.raises(InvalidInputs, match="expected a; the file has x"):
        call(runtime, Binding(("a",)), [x])
    with pytest.raises(InvalidInputs, match="takes 1"):
        call(runtime, Binding(), [x, x])


def test_a_row_of_a_file_that_did_not_run() -> None:
    entry = Entry("a.onnx", "onnx", "onnxruntime", "ort-x86", "float32", "a.npz")
    assert gate.row(Checked(entry, reasons=("gone",)))[-1] == "FAILED"
