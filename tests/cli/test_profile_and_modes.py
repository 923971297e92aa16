"""``compress profile``, and what ``compress bench`` measures besides warm runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

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
