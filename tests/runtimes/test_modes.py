"""Sustained load, cold starts and sweeps on small files: what they count, what they refuse, and that JSON keeps it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from onnx import ModelProto

from runtimes.errors import InvalidInputs, InvalidModel
from runtimes.measure.cold_start import ColdStart, cold_start
from runtimes.measure.presets import Preset
from runtimes.measure.request import Request
from runtimes.measure.sustained import Sustained, Window, sustained
from runtimes.measure.sweep import SweepPoint, batch_sweep, threads_sweep
from runtimes.sensors.watch import Reading

BRIEF = Request(Preset("brief", 1, 0.0, 5, 0.0), memory=False)
Saved = Callable[[ModelProto, str], Path]
Models = dict[str, Callable[..., ModelProto]]


def test_sustained_load_is_windows_of_runs_with_sensors_between(linear: Path) -> None:
    told: list[tuple[str, int, int]] = []
    found = sustained(
        [linear, linear],
        0.5 / 60,
        BRIEF,
        window_s=0.1,
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


def window(begin_s: float, p50_ms: float, runs: int) -> Window:
    return Window(begin_s, begin_s + 10, (p50_ms,), (p50_ms,), (p50_ms,), (runs,), 1.0, Reading(begin_s + 10))


def test_the_first_minute_is_held_against_the_last() -> None:
    windows = tuple(window(10.0 * n, 2.0 if n < 6 else 3.0 if n < 12 else 5.0, 100 - n) for n in range(18))
    found = Sustained(("net.onnx",), ("onnxruntime",), 1, windows, Reading(0.0))
    assert (found.first_ms(0), found.last_ms(0), found.slowdown(0)) == (2.0, 5.0, 2.5)
    assert found.to_json()["minutes"] == [{"file": "net.onnx", "first_ms": 2.0, "last_ms": 5.0, "slowdown": 2.5}]


@pytest.mark.parametrize("minutes", [0, -1, 1441, float("nan")])
def test_minutes_that_are_none(linear: Path, minutes: float) -> None:
    with pytest.raises(InvalidInputs, match="minutes"):
        sustained([linear], minutes, BRIEF)


def test_cold_starts_are_processes_whose_parts_add_up(linear: Path) -> None:
    found = cold_start(linear, 2, BRIEF)
    assert (found.file, found.engine, found.threads) == (str(linear), "onnxruntime", 1)
    for parts in zip(found.start_ms, found.import_ms, found.load_ms, found.first_ms, found.total_ms, strict=True):
        *spans, total = parts
        assert min(parts) > 0 and sum(spans) == pytest.approx(total, rel=0.02, abs=2.0)
    assert len(found.total_ms) == len(found.second_ms) == 2
    told = json.loads(json.dumps(found.to_json()))
    assert told["p50_ms"]["total_ms"] == pytest.approx(np.median(found.total_ms))
    assert ColdStart.from_json(told) == found


def test_a_cold_start_takes_the_inputs_that_are_given(linear: Path) -> None:
    assert len(cold_start(linear, 1, BRIEF, inputs={"x": np.ones((3, 4), np.float32)}).first_ms) == 1
    with pytest.raises(InvalidModel, match="starts cold failed: input 'x'"):
        cold_start(linear, 1, BRIEF, inputs={"x": np.ones((3, 5), np.float32)})
    with pytest.raises(InvalidInputs, match="1 to 1000"):
        cold_start(linear, 0)


def test_a_batch_sweep_runs_all_sizes_in_one_loop(linear: Path) -> None:
    points = batch_sweep(linear, [1, 4, 32], BRIEF, inputs={"x": np.arange(8, dtype=np.float32).reshape(2, 4)})
    assert [point.batch for point in points] == [1, 4, 32]
    assert len({point.measurement.loop for point in points}) == 1 and points[0].measurement.interleaved == 3
    assert points[2].samples_per_s == pytest.approx(32e3 / points[2].measurement.p50_ms)
    stored = json.loads(json.dumps([point.to_json() for point in points]))
    assert tuple(map(SweepPoint.from_json, stored)) == points


def test_batches_that_a_file_does_not_take(saved: Saved, models: Models, linear: Path) -> None:
    fixed = saved(models["int8"](), "int8.onnx")
    for file, batches, reason in ((linear, [], "none"), (linear, [0, 1], "0, 1")):
        with pytest.raises(InvalidInputs, match=reason):
            batch_sweep(file, batches, BRIEF)
    assert len(batch_sweep(fixed, [1], BRIEF)) == 1


def test_a_sweep_of_threads_and_cores(linear: Path) -> None:
    points = threads_sweep(linear, [1, 2], [None, "0"], BRIEF)
    assert [(point.threads, point.cores) for point in points] == [(1, None), (2, None), (1, "0"), (2, "0")]
    assert [point.measurement.threads for point in points] == [1, 2, 1, 2]
    assert [point.measurement.pinned for point in points] == [None, None, (0,), (0,)]
    with pytest.raises(InvalidInputs, match="at least"):
        threads_sweep(linear, [], [None], BRIEF)
    with pytest.raises(InvalidInputs, match="huge"):
        threads_sweep(linear, [1], ["huge"], BRIEF)
