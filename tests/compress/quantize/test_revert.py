"""What is slower in integers goes back to float: decided by what an engine tells, here by what a test says it told."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from small_networks import Joined, made

from compress.quantize import Quantize, revert
from compress.quantize.revert import revert_slower, slowest, without


def test_the_worst_run_of_layers_is_found() -> None:
    integers = {"a": 3.0, "b": 1.0, "c": 2.0, "d": 1.0, "e": 5.0}
    floats = {"a": 1.0, "b": 1.5, "c": 1.0, "d": 9.0, "e": 4.5}  # "e" gains too little to count
    worst = slowest(integers, floats, set())
    assert worst is not None and worst.parts == ("a", "b", "c")
    rest = slowest(integers, floats, {"a"})
    assert rest is not None and rest.parts == ("c",)
    assert slowest({"a": 1.0}, {"a": 1.0}, set()) is None
    assert slowest({"a": 1.0}, {}, set()) is None


def test_without_a_layer_its_neighbours_stay_in_integers() -> None:
    model, inputs, context = made(Joined)
    result = Quantize().apply(model, context)
    left = without(result.model, result.encodings, (inputs[0][:1],), {"left"})
    assert set(result.encodings) - set(left) == {"left.weight"} | {
        name for name in result.encodings if name not in left and "." not in name
    }
    assert "right.weight" in left and "left.weight" not in left


def measured(monkeypatch: pytest.MonkeyPatch, times: Sequence[Sequence[float]], integers: dict[str, float]) -> Quantize:
    """The engine tells these times for its files, one row after the other, and these for layers in integers."""
    rows = iter(times)
    monkeypatch.setattr(revert._Files, "time", lambda self, files: list(next(rows))[: len(files)])

    def profile(self: revert._Files, file: Path) -> dict[str, float]:
        self.parts.update({name: {name} for name in integers})
        return dict.fromkeys(integers, 1.0) if file.stem == "1" else integers

    monkeypatch.setattr(revert._Files, "profile", profile)
    return Quantize(revert_slower=True)


def test_a_region_goes_back_if_the_file_is_faster_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    model, _, context = made(Joined)
    stage = measured(monkeypatch, [(9.0, 5.0), (9.0, 5.0, 4.0)], {"stem": 2.0, "left": 0.5, "right": 0.5})
    result = stage.apply(model, context)
    assert "stem.weight" not in result.encodings and "right.weight" in result.encodings
    told = {skip.layer: skip.reason for skip in result.skipped}
    assert told["stem"] == "kept in float: its region takes 2.000 ms in integers, 1.000 ms in float"
    assert ("stem", "weight") not in {(edit.layer, edit.what) for edit in result.edits if edit.kind == "precision"}


def test_a_region_stays_if_the_file_is_not_faster_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    model, _, context = made(Joined)
    stage = measured(monkeypatch, [(9.0, 5.0), (9.0, 5.0, 4.99)], {"stem": 2.0, "left": 0.5})
    assert "stem.weight" in stage.apply(model, context).encodings


def test_a_network_that_is_faster_in_float_stays_in_float(monkeypatch: pytest.MonkeyPatch) -> None:
    model, _, context = made(Joined)
    stage = measured(monkeypatch, [(4.0, 5.0)], {"stem": 1.0})
    result = stage.apply(model, context)
    assert result.encodings == {}
    assert "the network takes 5.000 ms in integers, 4.000 ms in float" in result.skipped[0].reason
    assert not [edit for edit in result.edits if edit.kind == "precision"]


def test_real_files_are_measured_and_named_by_their_layers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(revert, "ROUNDS", 1)
    model, inputs, context = made(Joined)
    result = Quantize().apply(model, context)
    files = revert._Files(result.model, (inputs[0][:1],), tmp_path, threads=1)
    plain, integers = files.write({}), files.write(result.encodings)
    parts = {"stem", "depthwise", "left", "right", "classify"}
    assert parts <= set(files.profile(plain)) and parts <= set(files.profile(integers))
    assert files.parts["left"] == {"left", "act"}
    kept = revert_slower(result.model, result.encodings, (inputs[0][:1],))
    assert set(kept.encodings) <= set(result.encodings)
    assert min(kept.float_ms, kept.integer_ms, kept.kept_ms) > 0
