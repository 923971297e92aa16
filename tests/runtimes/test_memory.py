"""Peak memory is that of the file alone, wherever it is asked from."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from onnx import ModelProto

import runtimes.measure.memory
from runtimes.errors import InvalidModel
from runtimes.measure.memory import peak_memory, process_peak_bytes

Saved = Callable[[ModelProto, str], Path]
Models = dict[str, Callable[..., ModelProto]]
MIB = 2**20


def test_weights_are_in_the_peak_and_not_in_the_baseline(saved: Saved, models: Models) -> None:
    light, heavy = (peak_memory(saved(models["heavy"](size), f"{size}.onnx")) for size in (1, 64))
    assert heavy.peak_bytes - heavy.baseline_bytes >= 64 * MIB
    assert heavy.peak_bytes - light.peak_bytes >= 48 * MIB
    assert abs(heavy.baseline_bytes - light.baseline_bytes) < 8 * MIB


def test_memory_of_the_process_that_asks_does_not_count(linear: Path) -> None:
    ballast = np.ones(400 * MIB, np.uint8)
    found = peak_memory(linear)
    assert process_peak_bytes() > ballast.nbytes > found.peak_bytes


def test_inputs_count(saved: Saved, models: Models) -> None:
    file = saved(models["linear"]("N"), "linear.onnx")
    large = np.zeros((4 * MIB, 4), np.float32)
    assert peak_memory(file, inputs={"x": large}).peak_bytes - peak_memory(file).peak_bytes >= large.nbytes


def test_works_from_a_folder_that_has_names_of_ours(
    linear: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("runtimes", "json", "numpy"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise SystemExit(f'{__name__} of the user was imported')")
    monkeypatch.chdir(tmp_path)
    assert peak_memory(Path(linear.name)).peak_bytes > 0


def test_works_when_imported_under_another_name(linear: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = Path(runtimes.__file__).parent
    spec = importlib.util.spec_from_file_location(
        "other_name", package / "__init__.py", submodule_search_locations=[str(package)]
    )
    assert spec is not None
    monkeypatch.setitem(sys.modules, "other_name", importlib.util.module_from_spec(spec))
    module = importlib.import_module("other_name.measure.memory")
    assert module.__name__ == "other_name.measure.memory" and module.peak_memory is not peak_memory
    assert module.peak_memory(linear).peak_bytes > 0
    for name in [name for name in sys.modules if name.startswith("other_name.")]:
        monkeypatch.delitem(sys.modules, name)


def test_failure_is_told(saved: Saved, models: Models) -> None:
    file = saved(models["linear"]("N"), "linear.onnx")
    with pytest.raises(InvalidModel, match="expected float32, got float64"):
        peak_memory(file, inputs={"x": np.zeros((1, 4))})
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(InvalidModel, match="cannot load"):
        peak_memory(file)
