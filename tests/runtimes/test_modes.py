"""Sustained load, cold starts and sweeps on small files: what they count, what they refuse, and that JSON keeps it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto

from runtimes.__main__ import main
from runtimes.devices.local import LocalDevice
from runtimes.errors import Interrupted, InvalidInputs, InvalidModel
from runtimes.measure import presets
from runtimes.measure.loop import Progress
from runtimes.measure.modes.asked import modes_asked
from runtimes.measure.modes.cold_start import ColdStart, ColdStarts
from runtimes.measure.modes.mode import Mode, ModeResults
from runtimes.measure.modes.nodes import NodeTimes
from runtimes.measure.modes.sustained import Sustained, SustainedLoad, Window
from runtimes.measure.modes.sweep import BatchSweep, CoresSweep, SweepPoint
from runtimes.measure.presets import Preset
from runtimes.measure.request import Request
from runtimes.measure.subject import Subject
from runtimes.runtime import Arrays
from runtimes.sensors.watch import Reading

BRIEF = Request(Preset("brief", 1, 0.0, 5, 0.0), memory=False)
Saved = Callable[[ModelProto, str], Path]
Models = dict[str, Callable[..., ModelProto]]


def measured(
    mode: Mode,
    *files: Path,
    inputs: Arrays | None = None,
    progress: Progress | None = None,
    request: Request = BRIEF,
) -> list[Any]:
    """What a mode says of files on this machine."""
    subject = Subject.of(files, request, inputs=None if inputs is None else [inputs] * len(files))
    mode.require(LocalDevice(), subject)
    return list(mode.results(LocalDevice(), subject, progress))


def test_sustained_load_is_windows_of_runs_with_sensors_between(linear: Path) -> None:
    told: list[tuple[str, int, int]] = []
    (found,) = measured(
        SustainedLoad(0.5 / 60, window_s=0.1),
        linear,
        linear,
        progress=lambda task, done, total, _="": told.append((task, done, total)),
    )
    assert found.files == (str(linear),) * 2 and found.engines == ("onnxruntime",) * 2
    assert 1 <= len(found.windows) <= 6 and found.windows[-1].end_s >= 0.5
    for window, after in zip(found.windows, found.windows[1:], strict=False):
        assert window.begin_s < window.end_s <= after.begin_s
    for window in found.windows:
        assert min(window.runs) >= 1 and len(window.p50_ms) == len(window.p90_ms) == 2
        assert all(
            p50 <= p90 <= most for p50, p90, most in zip(window.p50_ms, window.p90_ms, window.max_ms, strict=True)
        )
        assert window.after.at_s == pytest.approx(window.end_s, abs=0.002)
    assert told[0] == ("sustain", 0, 0) and all(task == "sustain" for task, _, _ in told)
    assert Sustained.from_json(json.loads(json.dumps(found.to_json()))) == found


class Interrupting:
    """A progress that interrupts this process when it is told of something for the given time."""

    def __init__(self, task: str, times: int, error: type[BaseException] = KeyboardInterrupt) -> None:
        self.task, self.left, self.error = task, times, error

    def __call__(self, task: str, done: int, total: int, note: str = "") -> None:
        self.left -= task == self.task
        if not self.left:
            raise self.error


@pytest.mark.parametrize(
    ("mode", "task", "times", "count"),
    [
        (SustainedLoad(1.0, window_s=0.05), "sustain", 3, 1),
        (ColdStarts(3), "start cold", 2, 1),
        (BatchSweep((1, 2)), "bench", 4, 2),
        (CoresSweep((1, 2)), "bench", 6 + 4, 2),
    ],
    ids=["sustained", "cold starts", "batches", "threads"],
)
def test_what_was_measured_before_an_interrupt_is_kept(
    mode: Mode, task: str, times: int, count: int, linear: Path
) -> None:
    """The windows, processes and points that are whole, and of the loop that is not whole the runs until then."""
    results = ModeResults("local")
    with pytest.raises(Interrupted):
        results.measure([mode], LocalDevice(), Subject.of([linear], BRIEF), Interrupting(task, times))
    ((_, kept),) = results.modes
    assert len(kept) == count
    last: Any = kept[-1]
    told = last.measurement.disturbances if isinstance(last, SweepPoint) else last.disturbances
    assert told == ("it was broken off: interrupted",)
    if isinstance(last, SweepPoint):
        assert not last.measurement.valid and len(last.measurement.samples_ms) == 3
    json.dumps(results.to_json())


def test_an_interrupt_before_the_first_result_keeps_nothing(linear: Path) -> None:
    with pytest.raises(Interrupted) as caught:
        LocalDevice().measure(SustainedLoad(1.0), Subject.of([linear], BRIEF), Interrupting("sustain", 1))
    assert caught.value.measurements == ()


def window(begin_s: float, p50_ms: float, runs: int) -> Window:
    return Window(begin_s, begin_s + 10, (p50_ms,), (p50_ms,), (p50_ms,), (runs,), 1.0, Reading(begin_s + 10))


def test_the_first_minute_is_held_against_the_last() -> None:
    windows = tuple(window(10.0 * n, 2.0 if n < 6 else 3.0 if n < 12 else 5.0, 100 - n) for n in range(18))
    found = Sustained(("net.onnx",), ("onnxruntime",), 1, windows, Reading(0.0))
    assert (found.first_ms(0), found.last_ms(0), found.slowdown(0)) == (2.0, 5.0, 2.5)
    assert found.to_json()["minutes"] == [{"file": "net.onnx", "first_ms": 2.0, "last_ms": 5.0, "slowdown": 2.5}]


@pytest.mark.parametrize("minutes", [0, -1, 1441, float("nan")])
def test_minutes_that_are_none(minutes: float) -> None:
    with pytest.raises(InvalidInputs, match="minutes"):
        SustainedLoad(minutes)


def test_cold_starts_are_processes_whose_parts_add_up(linear: Path) -> None:
    (found,) = measured(ColdStarts(2), linear)
    assert (found.file, found.engine, found.threads) == (str(linear), "onnxruntime", 1)
    for parts in zip(found.start_ms, found.import_ms, found.load_ms, found.first_ms, found.total_ms, strict=True):
        *spans, total = parts
        assert min(parts) > 0 and sum(spans) == pytest.approx(total, rel=0.02, abs=2.0)
    assert len(found.total_ms) == len(found.second_ms) == 2
    told = json.loads(json.dumps(found.to_json()))
    assert told["p50_ms"]["total_ms"] == pytest.approx(np.median(found.total_ms))
    assert ColdStart.from_json(told) == found


def test_a_cold_start_takes_the_inputs_that_are_given(linear: Path) -> None:
    (found,) = measured(ColdStarts(1), linear, inputs={"x": np.ones((3, 4), np.float32)})
    assert len(found.first_ms) == 1
    with pytest.raises(InvalidModel, match="starts cold failed: input 'x'"):
        measured(ColdStarts(1), linear, inputs={"x": np.ones((3, 5), np.float32)})
    with pytest.raises(InvalidInputs, match="1 to 1000"):
        ColdStarts(0)


def test_a_batch_sweep_runs_all_sizes_in_one_loop(linear: Path) -> None:
    points = measured(BatchSweep((1, 4, 32)), linear, inputs={"x": np.arange(8, dtype=np.float32).reshape(2, 4)})
    assert [point.batch for point in points] == [1, 4, 32]
    assert len({point.measurement.loop for point in points}) == 1 and points[0].measurement.interleaved == 3
    assert points[2].samples_per_s == pytest.approx(32e3 / points[2].measurement.p50_ms)
    stored = json.loads(json.dumps([point.to_json() for point in points]))
    assert list(map(SweepPoint.from_json, stored)) == points


def test_batches_that_a_file_does_not_take(saved: Saved, models: Models, linear: Path) -> None:
    fixed = saved(models["int8"](), "int8.onnx")
    for batches, reason in (((), "none"), ((0, 1), "0, 1")):
        with pytest.raises(InvalidInputs, match=reason):
            BatchSweep(batches)
    assert len(measured(BatchSweep((1,)), fixed)) == 1
    closed = saved(models["linear"](2), "closed.onnx")
    with pytest.raises(InvalidInputs, match="has a fixed batch"):
        BatchSweep((1, 2)).require(LocalDevice(), Subject.of([linear, closed]))


def test_a_sweep_of_threads_and_cores(linear: Path) -> None:
    points = measured(CoresSweep((1, 2), ("0",)), linear)
    assert [(point.threads, point.cores) for point in points] == [(1, "0"), (2, "0")]
    assert [point.measurement.threads for point in points] == [1, 2]
    assert {point.measurement.pinned for point in points} == {(0,)}
    (free,) = measured(CoresSweep((2,)), linear)
    assert (free.cores, free.measurement.pinned) == (None, None)
    with pytest.raises(InvalidInputs, match="at least"):
        CoresSweep()
    with pytest.raises(InvalidInputs, match="huge"):
        CoresSweep((1,), ("huge",))
    with pytest.raises(InvalidInputs, match="local: cores 60000"):
        measured(CoresSweep((1,), ("60000",)), linear)


def test_a_sweep_of_threads_stays_on_the_cores_of_the_request(linear: Path) -> None:
    (point,) = measured(CoresSweep((2,)), linear, request=replace(BRIEF, cores=(0,)))
    assert (point.threads, point.cores, point.measurement.pinned) == (2, "0", (0,))


def test_results_are_lists_by_the_name_of_the_mode(linear: Path) -> None:
    modes = modes_asked(minutes=0.001, cold_starts=1, batches=[1, 2], threads=[1])
    results = ModeResults("local")
    results.measure(modes, LocalDevice(), Subject.of([linear], BRIEF, names=["a name"]))
    told = results.to_json()
    assert told.pop("device") == "local" and [(name, len(of)) for name, of in told.items()] == [
        ("sustained", 1), ("cold_starts", 1), ("batches", 2), ("sweeps", 1),
    ]  # fmt: skip
    assert told["sustained"][0]["files"] == ("a name",) and told["cold_starts"][0]["file"] == "a name"
    assert {point["measurement"]["file"] for point in told["batches"] + told["sweeps"]} == {"a name"}
    assert modes_asked() == ()


def test_a_board_without_torch_has_the_same_modes(
    linear: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(presets.PRESETS, "quick", BRIEF.preset)
    words = (
        "--preset quick --no-memory --minutes 0.002 --cold-starts 1 --batches 1,2 --sweep-threads 1,2 --sweep-cores 0"
    )
    assert main([str(linear), *words.split()]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["measurements"][0]["runs"] >= 5
    (modes,) = told["modes"]
    assert {name: len(of) for name, of in modes.items() if name != "device"} == {
        "sustained": 1, "cold_starts": 1, "batches": 2, "sweeps": 2,
    }  # fmt: skip
    for words, reason in (
        ("--minutes 0", "expected more than 0 and at most 1440, got 0"),
        ("--batches 1,x", "invalid numbers value: '1,x'"),
        ("--sweep-cores little+huge", "got 'huge'"),
        ("--sweep-cores 60000", "local: cores 60000"),
    ):
        assert main([str(linear), *words.split()]) == 2
        assert reason in capsys.readouterr().err


def test_nodes_are_told_without_torch(linear: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["profile", str(linear), "--no-roofline"]) == 0
    out, err = capsys.readouterr()
    (told,) = json.loads(out)
    nodes = told["executed"]["nodes"]
    assert told["engine"] == "onnxruntime" and told["roofline"] is None and nodes
    assert f"in {len(nodes)} nodes; the slowest is" in err and len(err.splitlines()) == 1


def test_an_engine_that_tells_no_times_is_named(linear: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runtimes.engines.onnxruntime.Session.executed_graph", lambda *_, **named: None)
    with pytest.raises(InvalidInputs, match="ONNX Runtime tells no time of single nodes"):
        measured(NodeTimes(), linear)
