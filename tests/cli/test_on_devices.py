"""Commands with ``--on``: files run on a device over SSH, which is this machine with another home."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from compress.quantize.detect import detected
from runtimes.measure.presets import PRESETS
from tests.support.command_line import runner
from tests.support.small_classifier import SMALL_NET
from tests.support.ssh_server import SshServer

Run = Callable[..., str]


@pytest.fixture
def run(
    server: SshServer, tmp_path: Path, npz: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Run:
    """Run a command line in a folder with ``net.py``, ``data.npz`` and ``devices.yaml``; returns its stdout."""
    (tmp_path / "net.py").write_text(SMALL_NET)
    devices = {"board": server.entry(python=sys.executable), "strange": server.entry(ssh_config="/dev/null")}
    (tmp_path / "devices.yaml").write_text(yaml.safe_dump(devices))
    monkeypatch.chdir(tmp_path)
    return runner(monkeypatch, capfd)


def test_files_are_checked_and_timed_there(run: Run) -> None:
    run("quantize net.py:build --data data.npz -q -o int8")
    run("export int8 --data data.npz -q -o files")
    checked = json.loads(run("check files --on local,board --json"))
    here, there = checked["files"]
    assert (here["device"], there["device"]) == ("local", "board") and there["passed"]
    assert there | {"device": "local"} == here
    assert checked["devices"][1]["sent_bytes"] > 0 and checked["devices"][1]["architecture"]
    measured = json.loads(run("bench int8 files/model.onnx --data data.npz --preset quick --on board,local --json"))
    rows = measured["measurements"]
    assert [row["device"] for row in rows] == ["board", "board", None, None]
    assert all(len(row["samples_ms"]) >= 30 for row in rows)
    assert len({row["scores"][0]["value"] for row in rows}) == 1 and rows[0]["samples"] == 20
    table = run("check files --on board")
    assert "board" in table and "0 bytes of files sent" in table


def test_a_device_is_the_clock_of_choices(run: Run) -> None:
    line = "prune net.py:build --data data.npz --ratio 0.5 --round-to measured --on board -o p --json"
    pruned = json.loads(run(line))
    assert any("measured for" in line for line in pruned["measured"])
    quantized = json.loads(run("quantize net.py:build --data data.npz --revert-slower --on board -o q --json"))
    assert any(f"measured for {detected().target}" in line for line in quantized["measured"])
    error = run("prune net.py:build --data data.npz --ratio 0.5 --on board,local -o r", 2)
    assert "one device" in error and not Path("r").exists()


RECIPE = """
model: net.py:build
data: {source: data.npz}
device: [board, local]
stages:
  - quantize: {revert_slower: true}
exports:
  - {name: float}
  - {name: int8, after: quantize}
benchmark: {preset: quick}
"""


def test_a_recipe_runs_for_a_device(run: Run) -> None:
    Path("recipe.yaml").write_text(RECIPE)
    report = json.loads(run("run recipe.yaml --trust -q -o out --json"))
    assert [record["device"] for record in report["benchmarks"]] == ["board", "board", None, None]
    assert [each["device"] for each in report["devices"]] == ["board", "local"] == report["recipe"]["device"]
    assert {gate["device"] for gate in report["gates"]} == {"board", "local"}
    assert [each["name"] for each in report["machine"]["devices"]] == ["board"]
    assert "nobody" in run("run recipe.yaml --trust --on nobody -q -o other", 2) and not Path("other").exists()


def test_what_was_measured_before_a_cut_is_written(
    run: Run, server: SshServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("export net.py:build --data data.npz -q -o files")
    monkeypatch.setitem(PRESETS, "quick", replace(PRESETS["quick"], seconds=60.0))
    seen: list[bytes] = []

    def watch(data: bytes) -> bool:
        seen.extend([data] if b'"event": "took"' in data else [])
        return len(seen) == 3

    server.from_device = watch
    said = run("bench files/model.onnx --preset quick --on board -q -o told.json", 4)
    assert "board: measuring: the connection was lost" in said and len(said.splitlines()) == 1
    (record,) = json.loads(Path("told.json").read_text())["measurements"]
    assert record["device"] == "board" and record["valid"] is False and len(record["samples_ms"]) == record["runs"] > 10
    assert any("it was broken off" in note for note in record["notes"])


def test_times_are_kept_where_the_accuracy_is_lost(run: Run, server: SshServer) -> None:
    run("export net.py:build --data data.npz -q -o files")
    server.from_client = lambda data: b'"do": "run_samples"' in data
    run("bench files/model.onnx --data data.npz --preset quick --on board -q -o told.json", 4)
    (record,) = json.loads(Path("told.json").read_text())["measurements"]
    assert len(record["samples_ms"]) == record["runs"] >= 30 and record["scores"] == []


def test_a_device_that_is_not_known_ends_with_4(run: Run) -> None:
    run("export net.py:build --data data.npz -q -o files")
    said = run("check files --on strange,board -q", 4)
    assert "strange: connecting: its host key is not known; log in once by ssh" in said
    assert said.count("error:") == 1
    assert "expected local, ssh://user@board, adb:SERIAL or a name" in run("check files --on nobody", 2)
    assert "expected ssh://" in run("check files --on ssh://a@b@c:x", 2)
    assert "expected a value" in run("check files --on ''", 2)
    assert "got 'ssh://aaaa" in run(f"check files --on ssh://{'a' * 2000}", 2)
    Path("own.yaml").write_text("board: {url: ssh://board, wheelhouse: none}\n")
    assert "expected a folder of wheels" in run("check files --on board --devices-file own.yaml", 2)


def test_devices_are_listed_checked_and_cleaned(run: Run, server: SshServer) -> None:
    checked = json.loads(run("devices check --on board --json"))["devices"]
    assert checked[0]["engine"] == "onnxruntime" and checked[0]["version"]
    (listed,) = json.loads(run("devices list --on board --json"))["devices"]
    assert listed["target"] == detected().target and listed["engines"]["onnxruntime"] and listed["cache"]["bytes"] > 0
    (cleaned,) = json.loads(run("devices clean --on board --json"))["devices"]
    assert cleaned["removed_bytes"] > 0
    assert not (server.home / ".cache" / "edgepress").exists()
    assert "strange" in run("devices list", 4)


MODES = "--minutes 0.002 --cold-starts 1 --batches 1,2 --sweep-threads 1,2 --sweep-cores 0"
NAMES = ["device", "sustained", "cold_starts", "batches", "sweeps"]


def test_modes_are_measured_there(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PRESETS, "quick", replace(PRESETS["quick"], runs=5, seconds=0.05, warmup_s=0.0))
    run("export net.py:build --data data.npz --format onnx -q -o files")
    told = json.loads(run(f"bench files/model.onnx --preset quick --on local,board {MODES} --json"))
    here, there = told["modes"]
    assert (here["device"], there["device"]) == ("local", "board") and list(here) == list(there) == NAMES
    for modes in (here, there):
        assert modes["sustained"][0]["files"] == ["files/model.onnx"] and modes["sustained"][0]["windows"]
        assert len(modes["cold_starts"][0]["total_ms"]) == 1
        assert [point["batch"] for point in modes["batches"]] == [1, 2]
        assert [(point["threads"], point["cores"]) for point in modes["sweeps"]] == [(1, "0"), (2, "0")]
        assert {point["measurement"]["file"] for point in modes["batches"] + modes["sweeps"]} == {"files/model.onnx"}
    table = run("bench files/model.onnx --preset quick --on board --cold-starts 1")
    assert "board: cold starts" in table


def test_a_profile_is_of_the_device(run: Run) -> None:
    run("export net.py:build --data data.npz --format onnx -q -o files")
    (here,) = json.loads(run("profile files/model.onnx --no-roofline --json"))["profiles"]
    (there,) = json.loads(run("profile files/model.onnx --on board --json"))["profiles"]
    assert (here["device"], there["device"]) == (None, "board")
    assert same_rows(here) == same_rows(there)
    assert there["roofline"]["integer_ops"] > 0 and there["total_ms"] > 0


def same_rows(profile: dict[str, Any]) -> list[dict[str, Any]]:
    """What of a profile does not depend on time."""
    rows = [{**row, "duration_ms": 0, "roofline_share": 0} for row in profile["rows"]]
    return sorted(rows, key=lambda row: str(row["nodes"]))


def test_what_a_mode_measured_before_a_cut_is_written(run: Run, server: SshServer) -> None:
    run("export net.py:build --data data.npz --format onnx -q -o files")
    seen: list[bytes] = []

    def watch(data: bytes) -> bool:
        seen.extend([data] if b'"event": "part"' in data else [])
        return len(seen) == 4

    server.from_device = watch
    said = run("bench files/model.onnx --preset quick --cold-starts 9 --on board -q -o told.json", 4)
    server.reset()
    assert "board: measuring: the connection was lost" in said and len(said.splitlines()) == 1
    told = json.loads(Path("told.json").read_text())
    ((cold,),) = [modes["cold_starts"] for modes in told["modes"]]
    assert 1 <= len(cold["total_ms"]) < 9 and cold["file"] == "files/model.onnx"
    assert any("it was broken off: board: measuring" in why for why in cold["disturbances"])
    assert told["measurements"][0]["valid"] is not None and told["measurements"][0]["runs"] >= 30


def test_a_phone_refuses_what_needs_python_before_the_work(run: Run) -> None:
    run("export net.py:build --data data.npz --format onnx -q -o files")
    Path("programs").mkdir()
    Path("devices.yaml").write_text("phone: {url: 'adb:X', native: programs}\n")
    for words, told in (
        ("bench files/model.onnx --minutes 1 --cold-starts 2", "phone: sustained load, cold starts: needs Python"),
        ("bench files/model.onnx --governor performance --energy", "phone: a governor, energy: needs Python"),
        ("profile files/model.onnx", "phone: times of single nodes: needs Python"),
    ):
        said = run(f"{words} --on local,phone -q", 4)
        assert told in said and len(said.splitlines()) == 1
