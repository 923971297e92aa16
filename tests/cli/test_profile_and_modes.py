"""``compress profile``, and what ``compress bench`` measures besides warm runs."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runtimes.__main__ import main as measure
from runtimes.errors import InvalidModel
from runtimes.measure.modes import cold_start
from tests.support.command_line import runner
from tests.support.small_classifier import SMALL_NET

Run = Callable[..., str]
NET = "net.py:build:width=8"


@pytest.fixture
def run(tmp_path: Path, npz: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """Run a command line in a folder with ``net.py`` and ``data.npz``; returns its stdout."""
    assert npz.parent == tmp_path
    (tmp_path / "net.py").write_text(SMALL_NET)
    monkeypatch.chdir(tmp_path)
    return runner(monkeypatch, capfd)


def test_modes_and_profile_of_a_file(run: Run) -> None:
    run(f"export {NET} --data data.npz --format onnx -o files -q")
    file = "files/model.onnx"
    words = "--preset quick --minutes 0.002 --cold-starts 1 --batches 1,2 --sweep-threads 1,2 --json"
    told = json.loads(run(f"bench {file} --profile {words}"))
    (modes,) = told["modes"]
    assert len(modes["cold_starts"][0]["total_ms"]) == 1 and modes["sustained"][0]["minutes"][0]["slowdown"] > 0
    assert [point["batch"] for point in modes["batches"]] == [1, 2]
    assert [point["threads"] for point in modes["sweeps"]] == [1, 2]
    assert {point["measurement"]["file"] for point in modes["batches"] + modes["sweeps"]} == {file}
    nodes = told["measurements"][0]["nodes"]
    assert sum(nodes["providers"].values()) == nodes["integer"] + nodes["float"] + nodes["other"]

    (of_network,) = json.loads(run(f"profile {NET} --data data.npz --no-roofline --json"))["profiles"]
    (of_file,) = json.loads(run(f"profile {file} --no-roofline --json"))["profiles"]
    counted = json.loads(run(f"analyze {NET} --data data.npz --json"))
    for profile in (of_network, of_file):
        assert profile["left_layers"] == [], profile
        assert sum(row["macs"] or 0 for row in profile["rows"]) == counted["macs"]
        assert profile["total_ms"] == pytest.approx(sum(row["duration_ms"] for row in profile["rows"]))
    assert all(row["joined"] != "order" for row in of_network["rows"])


def test_an_engine_without_times_is_told(run: Run) -> None:
    pytest.importorskip("ai_edge_litert")
    pytest.importorskip("litert_torch")
    with pytest.raises(AssertionError, match="LiteRT tells no time of single nodes"):
        run(f"profile {NET} --data data.npz --format litert --no-roofline")


def interrupted_at(monkeypatch: pytest.MonkeyPatch, number: int, error: BaseException) -> None:
    """Have the cold start of this number end with an error."""
    start, count = cold_start._one, itertools.count(1)

    def one(*asked: Any) -> dict[str, float]:
        if next(count) == number:
            raise error
        return start(*asked)

    monkeypatch.setattr(cold_start, "_one", one)


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (KeyboardInterrupt(), 130, "error: interrupted; what was measured until then is in told.json and all.jsonl"),
        (InvalidModel("it fails"), 2, "error: it fails; what was measured until then is in told.json and all.jsonl"),
    ],
    ids=["interrupt", "error"],
)
def test_what_was_measured_before_a_mode_ended_is_kept(
    run: Run, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, said: str
) -> None:
    run(f"export {NET} --data data.npz --format onnx -o files -q")
    interrupted_at(monkeypatch, 2, error)
    line = "bench files/model.onnx --preset quick --cold-starts 5 --sweep-threads 1,2 -q -o told.json --log all.jsonl"
    assert run(line, code).splitlines()[-1] == said
    told = json.loads(Path("told.json").read_text())
    assert len(told["measurements"]) == 1 == len(Path("all.jsonl").read_text().splitlines())
    (modes,) = told["modes"]
    assert "sweeps" not in modes
    if code == 130:
        (cold,) = modes["cold_starts"]
        assert len(cold["total_ms"]) == 1 and cold["disturbances"] == ["it was broken off: interrupted"]


def test_a_board_tells_what_it_measured_before_a_mode_ended(
    run: Run, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The same by ``python -m runtimes``, which has no other place to keep it."""
    run(f"export {NET} --data data.npz --format onnx -o files -q")
    interrupted_at(monkeypatch, 2, KeyboardInterrupt())
    assert measure(["files/model.onnx", "--preset", "quick", "--cold-starts", "3"]) == 130
    out, err = capfd.readouterr()
    told = json.loads(out)
    assert told["measurements"][0]["runs"] >= 30 and len(told["modes"][0]["cold_starts"][0]["total_ms"]) == 1
    assert err.splitlines()[-1] == "error: interrupted"
