"""The measuring loop under a clock of our own, its figures against plain formulas, and all of it on real files."""

from __future__ import annotations

import gc
import hashlib
import json
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto

from runtimes.__main__ import main
from runtimes.errors import InvalidInputs, InvalidMeasurement, InvalidModel
from runtimes.measure import benchmark as module
from runtimes.measure import energy, validity
from runtimes.measure.benchmark import benchmark, require_valid
from runtimes.measure.loop import Renewal, Samples, interleave
from runtimes.measure.measurement import Measurement
from runtimes.measure.presets import PRESETS, Preset, preset_named
from runtimes.measure.request import Request
from runtimes.runtime import Options, Runtime, engine_named
from runtimes.sensors import power
from runtimes.sensors.conditions import conditions
from tests.support import boards

Saved = Callable[[ModelProto, str], Path]
Models = dict[str, Callable[..., ModelProto]]


@pytest.fixture
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the quick preset quicker."""
    monkeypatch.setitem(PRESETS, "quick", Preset("quick", 1, 0.0, 5, 0.01))


def quick(**changes: Any) -> Request:
    return Request(PRESETS["quick"], **changes)


class Clock:
    """A clock that moves only when work is done."""

    def __init__(self) -> None:
        self.now_ns = 0
        self.log: list[str] = []

    def work(self, name: str, ms: Callable[[], float]) -> Callable[[], None]:
        def do() -> None:
            self.log.append(name)
            self.now_ns += round(ms() * 1e6)

        return do

    def __call__(self) -> int:
        return self.now_ns


def loop(clock: Clock, costs_ms: Sequence[float], preset: Preset, sentinel_ms: float = 0.0) -> Samples:
    works = [clock.work("ABCDE"[i], lambda cost=cost: cost) for i, cost in enumerate(costs_ms)]  # type: ignore[misc]
    return interleave(works, preset, clock.work("s", lambda: sentinel_ms), clock_ns=clock)


def measured(samples_ms: Sequence[float], sentinel_ms: Sequence[float] = (1.0, 1.0)) -> Measurement:
    here = conditions()
    return Measurement(
        file="net.onnx",
        engine="onnxruntime",
        engine_version="1",
        threads=1,
        preset="quick",
        samples_ms=tuple(samples_ms),
        warmup_runs=3,
        duration_s=1.0,
        interleaved=1,
        conditions=here,
        conditions_after=here,
        sentinel_ms=tuple(sentinel_ms),
        size_bytes=10,
        peak_memory_bytes=None,
        baseline_memory_bytes=None,
        load_ms=1.0,
    )


@pytest.fixture(autouse=True)
def brief_measurements() -> None:
    """Presets are what they are: they are what is tested here."""


@pytest.mark.parametrize("preset", PRESETS.values(), ids=PRESETS)
@pytest.mark.parametrize("costs_ms", [[7.0], [900.0], [40.0, 250.0]], ids=str)
def test_loop_takes_the_runs_and_the_seconds_of_its_preset(preset: Preset, costs_ms: list[float]) -> None:
    samples = loop(Clock(), costs_ms, preset)
    round_s, count = sum(costs_ms) / 1e3, len(costs_ms)
    fewest = max(preset.runs, int(np.ceil(preset.seconds * count / round_s)))
    assert [len(row) for row in samples.rows_ms] == [fewest] * count
    assert samples.warmup_runs == max(preset.warmup_runs, int(np.ceil(preset.warmup_s * count / round_s)))
    for row, cost in zip(samples.rows_ms, costs_ms, strict=True):
        assert set(row) == {cost}


def test_presets_are_those_that_were_agreed() -> None:
    default, quick, mlperf = PRESETS["default"], PRESETS["quick"], PRESETS["mlperf"]
    assert (default.warmup_runs, default.warmup_s, default.runs, default.seconds) == (10, 1.0, 100, 10.0)
    assert (mlperf.runs, mlperf.seconds, mlperf.percentiles) == (1024, 60.0, (90, 99))
    assert quick.runs < default.runs and quick.seconds < default.seconds
    assert preset_named("standard") is default  # as older files say
    assert Request().preset is default


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_files_are_run_in_turn_and_none_has_a_place_of_its_own(count: int) -> None:
    clock = Clock()
    rounds = 4 * count
    loop(clock, [1.0] * count, Preset("quick", 0, 0.0, rounds, 0.0))
    names = [name for name in clock.log if name != "s"]
    turns = ["".join(names[i : i + count]) for i in range(0, len(names), count)]
    assert len(turns) == rounds
    assert all(sorted(turn) == sorted("ABCDE"[:count]) for turn in turns)
    for name in "ABCDE"[:count]:
        places = [turn.index(name) for turn in turns]
        assert {places.count(place) for place in range(count)} == {rounds // count}


def test_sentinel_runs_all_through_the_loop_and_is_in_no_sample() -> None:
    clock = Clock()
    samples = loop(clock, [10.0], Preset("quick", 0, 0.0, 10, 10.0), sentinel_ms=3.0)
    assert set(samples.rows_ms[0]) == {10.0} and set(samples.sentinel_ms) == {3.0}
    measured_log = clock.log[3:]
    places = [i / len(measured_log) for i, name in enumerate(measured_log) if name == "s"]
    assert len(places) == len(samples.sentinel_ms) >= 50
    assert max(np.diff([0.0, *places, 1.0])) < 0.05


def renewed(clock: Clock, make_ms: float, expected_ms: float, runs: int) -> tuple[list[int], Samples]:
    """A loop of a piece of 10 ms whose pieces take ``make_ms`` to make; how many rounds each of them was run."""
    made: list[int] = []

    def piece() -> Callable[[], object]:
        own = len(made)
        made.append(0)

        def run() -> None:
            made[own] += 1
            clock.work("A", lambda: 10.0)()

        return run

    def make() -> list[Callable[[], object]]:
        clock.work("make", lambda: make_ms)()
        return [piece()]

    nothing = clock.work("s", lambda: 0.0)
    preset = Preset("own", 0, 0.0, runs, 0.01 * runs)
    samples = interleave([piece()], preset, nothing, None, clock, renewal=Renewal(make, expected_ms / 1e3))
    return made, samples


def test_pieces_are_made_anew_for_each_tenth_of_a_loop() -> None:
    clock = Clock()
    made, samples = renewed(clock, make_ms=7.0, expected_ms=7.0, runs=1000)
    assert samples.sections == len(made) == 10
    assert set(samples.rows_ms[0]) == {10.0} and len(samples.rows_ms[0]) == 1000
    assert sum(made) == 1000 + 9 * 3  # three runs of a new piece are no samples
    assert all(abs(rounds - 100) <= 4 for rounds in made)
    assert samples.duration_s == pytest.approx(10.0)  # without what making them took


def test_pieces_that_take_a_while_to_make_are_made_for_each_fifth_of_a_loop() -> None:
    made, samples = renewed(Clock(), make_ms=1500.0, expected_ms=1500.0, runs=1000)
    assert samples.sections == len(made) == 5 and samples.duration_s == pytest.approx(10.0)
    assert all(abs(at - 200 * (i + 1)) <= 4 for i, at in enumerate(samples.renewed_at))


def test_pieces_that_take_long_to_make_are_made_once() -> None:
    made, samples = renewed(Clock(), make_ms=1e6, expected_ms=1e6, runs=1000)
    assert samples.sections == len(made) == 1 and made == [1000]
    made, samples = renewed(Clock(), make_ms=1e6, expected_ms=1.0, runs=1000)  # longer than it was expected
    assert samples.sections == len(made) == 2 and samples.duration_s == pytest.approx(10.0)


def test_files_are_loaded_anew_in_the_other_order_each_time(
    linear: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Path(shutil.copy(linear, tmp_path / "other.onnx"))
    engine, loads = engine_named("onnxruntime"), []
    load = engine.load

    def counted(file: Path, options: Options) -> Runtime:
        loads.append(file.name)
        return load(file, options)

    monkeypatch.setattr(engine, "load", counted)
    preset = Preset("own", 1, 0.0, 30, 0.5)
    measured = benchmark([linear, other], Request(preset, memory=False))
    pairs = [tuple(loads[i : i + 2]) for i in range(0, len(loads), 2)]
    assert measured[0].loadings == measured[1].loadings == len(pairs) and 2 <= len(pairs) <= 10
    assert measured[0].loaded_at == measured[1].loaded_at and len(measured[0].loaded_at) == len(pairs) - 1
    forwards = (linear.name, other.name)
    assert pairs == [forwards if i % 2 == 0 else forwards[::-1] for i in range(len(pairs))]
    assert len(measured[0].samples_ms) == len(measured[1].samples_ms) >= 30


def test_outliers_stay() -> None:
    clock = Clock()
    costs = iter([1.0] * 20 + [5000.0] + [1.0] * 1000)
    samples = interleave(
        [clock.work("A", lambda: next(costs))],
        Preset("quick", 0, 0.0, 50, 0.0),
        clock.work("s", lambda: 0.0),
        None,
        clock,
    )
    assert samples.rows_ms[0][20] == 5000.0 and len(samples.rows_ms[0]) == 50


def test_garbage_collector_is_as_before_even_after_a_failure() -> None:
    def fail() -> None:
        assert not gc.isenabled()
        raise InvalidModel("broken")

    with pytest.raises(InvalidModel):
        interleave([fail], PRESETS["quick"], lambda: None)
    assert gc.isenabled()


def test_figures_are_those_of_the_raw_samples() -> None:
    samples = [float(n) for n in range(1000, 0, -1)]
    found = measured(samples)
    cuts = statistics.quantiles(samples, n=100, method="inclusive")
    assert found.p50_ms == pytest.approx(statistics.median(samples))
    assert (found.p90_ms, found.p95_ms, found.p99_ms) == pytest.approx((cuts[89], cuts[94], cuts[98]))
    assert (found.min_ms, found.mean_ms) == (1.0, pytest.approx(statistics.fmean(samples)))  # type: ignore[comparison-overlap]
    assert found.std_ms == pytest.approx(statistics.stdev(samples))
    assert found.spread == pytest.approx((cuts[89] - cuts[9]) / statistics.median(samples))


def test_p99_needs_662_runs() -> None:
    assert measured([1.0] * 661).p99_ms is None
    assert measured([1.0] * 662).p99_ms == 1.0


def test_quiet_measurement_is_valid_and_one_outlier_does_not_change_that() -> None:
    found = measured([1.0] * 99 + [50.0])
    assert found.valid and found.broken_rules == ()
    require_valid([found])


def test_an_invalid_measurement_ends_with_its_reasons() -> None:
    with pytest.raises(InvalidMeasurement, match="spread of 20%") as caught:
        require_valid([measured([1.0] * 100), measured([1.0] * 60 + [1.2] * 40)])
    assert caught.value.exit_code == 5


def test_json_keeps_everything() -> None:
    found = measured([1.0, 2.5, 3.0], [1.0, 2.0])
    told = json.loads(json.dumps(found.to_json()))
    assert Measurement.from_json(told) == found
    assert told["latency_ms"]["p50"] == 2.5 and told["latency_ms"]["p99"] is None
    assert told["validity"]["valid"] is False and told["runs"] == 3
    assert [each["rule"] for each in told["validity"]["broken_rules"]] == ["spread", "drift"]
    assert Measurement.from_json(told | {"preset": "standard"}).preset == "default"
    for later in ("loop", "began", "sha256", "least_runs", "percentiles", "pinned", "watched", "disturbances"):
        del told[later]  # files of earlier versions have none of these
    for later in ("clusters", "clocks_mhz", "clocks_locked", "power_mode", "cooling", "throttle_counts", "emulated"):
        del told["conditions"][later], told["conditions_after"][later]
    older = Measurement.from_json(told)
    assert older.samples_ms == found.samples_ms and older.conditions.cpu == found.conditions.cpu
    del told["conditions"]["cpu"]
    with pytest.raises(InvalidInputs, match="cpu"):
        Measurement.from_json(told)


def test_a_request_is_the_same_after_json() -> None:
    own = Preset("own", 1, 0.5, 7, 2.0, (90,))
    request = Request(own, threads=2, cores=("big", 0), seed=3, memory=False, start_below_c=50.0)
    assert Request.from_json(json.loads(json.dumps(request.to_json()))) == request
    assert Request.from_json({"preset": "mlperf"}) == Request(PRESETS["mlperf"])


def test_files_are_measured_together(saved: Saved, models: Models) -> None:
    files = [saved(models["float"](), "float.onnx"), saved(models["int8"](), "int8.onnx")]
    told: list[tuple[int, int]] = []
    found = benchmark(files, quick(), progress=lambda _task, done, total, _note="": told.append((done, total)))
    assert [each.file for each in found] == [str(file) for file in files]
    for each, file in zip(found, files, strict=True):
        assert len(each.samples_ms) >= PRESETS["quick"].runs and min(each.samples_ms) > 0
        assert each.duration_s >= 2 * PRESETS["quick"].seconds
        assert each.size_bytes == file.stat().st_size
        assert each.peak_memory_bytes is not None and each.baseline_memory_bytes is not None
        assert each.peak_memory_bytes >= each.baseline_memory_bytes > 0
        assert (each.engine, each.preset, each.interleaved, each.threads) == ("onnxruntime", "quick", 2, 1)
    assert len(found[0].samples_ms) == len(found[1].samples_ms)
    assert found[0].loop and found[0].loop == found[1].loop and found[0].began == found[1].began
    assert found[0].sha256 == hashlib.sha256(files[0].read_bytes()).hexdigest() != found[1].sha256
    assert told[-1] == (2, 2) and told == sorted(told)


@pytest.mark.usefixtures("brief")
def test_inputs_are_given_or_made(linear: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, ...]] = []
    taken = module._work
    monkeypatch.setattr(module, "_work", lambda runtime, feed: seen.append(feed["x"].shape) or taken(runtime, feed))  # type: ignore[func-returns-value]
    benchmark([linear], quick(memory=False))
    benchmark([linear], quick(), inputs={"x": np.ones((7, 4), np.float32)})
    assert list(dict.fromkeys(seen)) == [(1, 4), (7, 4)]  # the same again where the file is loaded anew
    with pytest.raises(InvalidInputs, match="expected"):
        benchmark([linear], quick(), inputs={"x": np.ones((7, 3), np.float32)})


@pytest.mark.usefixtures("brief")
def test_memory_is_left_out_when_asked(linear: Path) -> None:
    (found,) = benchmark([linear], quick(memory=False))
    assert found.peak_memory_bytes is None and found.baseline_memory_bytes is None


@pytest.mark.usefixtures("brief")
def test_pinning_is_recorded(linear: Path) -> None:
    core = (conditions().affinity or ())[0]
    (found,) = benchmark([linear], quick(cores=(core,), memory=False))
    assert found.conditions.affinity == (core,) == found.pinned


@pytest.mark.usefixtures("brief")
def test_energy_is_that_of_the_runs_of_a_loop_of_its_own(
    linear: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    board = boards.jetson_orin(tmp_path / "board")
    monkeypatch.setattr(module, "rail_named", lambda name: power.rail_named(name, board))
    monkeypatch.setattr(energy, "LEAST_S", 0.01)
    monkeypatch.setattr(energy.idle_watts, "__defaults__", (0.01,))
    (found,) = benchmark([linear], quick(energy=True, memory=False))
    assert found.energy is not None and found.energy.rail == "VDD_IN" and found.energy.runs >= 5
    watts = 5.024 * 1.2
    assert found.energy.joules == pytest.approx(watts * found.energy.seconds)
    assert found.energy.idle_watts == pytest.approx(watts)
    told = found.to_json()
    per_run = told["energy"]["per_run_mj"]  # type: ignore[index]
    assert per_run == pytest.approx(1e3 * found.energy.joules / found.energy.runs)
    assert Measurement.from_json(told) == found
    with pytest.raises(InvalidInputs, match="expected one of VDD_IN"):
        benchmark([linear], quick(energy=True, rail="VDD_CPU"))


@pytest.mark.usefixtures("brief")
def test_a_machine_that_does_not_cool_is_measured_all_the_same_and_told(
    linear: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "wait_below", lambda *asked: f"{asked[:2]} was not reached")
    (found,) = benchmark([linear], quick(memory=False, start_below_c=20.0, patience_s=1.0))
    assert "disturbed" in [each.rule for each in found.broken_rules] and len(found.samples_ms) >= 5
    assert found.disturbances == ("(20.0, 1.0) was not reached",)


def test_bad_requests(linear: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidInputs, match="preset"):
        Request.from_json({"preset": "forever"})
    with pytest.raises(InvalidInputs, match="warmth is not known"):
        Request.from_json({"warmth": 1})
    with pytest.raises(InvalidInputs, match="at least one"):
        benchmark([])
    with pytest.raises(InvalidModel, match=r"none\.onnx"):
        benchmark([linear, tmp_path / "none.onnx"])


@pytest.mark.usefixtures("brief")
def test_command_prints_json(linear: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = main([str(linear), "--preset", "quick", "--no-memory"])
    said = capsys.readouterr()
    (told,) = json.loads(said.out)
    assert code == 0
    runs, size = len(told["samples_ms"]), linear.stat().st_size
    (line,) = said.err.splitlines()
    assert (
        line.startswith(f"{linear}: p50 ")
        and f" in onnxruntime, {runs} runs; {size:,} bytes; nodes: 0 integer, " in line
    )
    assert Measurement.from_json(told).file == str(linear)
    assert told["executed"]["float"] >= 1 and told["executed"]["integer"] == 0


@pytest.mark.usefixtures("brief")
def test_an_invalid_measurement_is_exit_code_5_when_strict(
    linear: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(validity, "TOLERANCE", -1.0)
    words = [str(linear), "--preset", "quick", "--no-memory"]
    assert main(words) == 0
    assert main([*words, "--strict"]) == 5
    said = capsys.readouterr()
    assert said.out.count('"rule": "spread"') == 2
    first, second, refusal = said.err.splitlines()
    assert all(line.startswith(f"{linear}: p50 ") and "; invalid: spread of " in line for line in (first, second))
    assert refusal.startswith("warning: ")


@pytest.mark.parametrize(
    "arguments",
    [
        ["none.onnx"],
        ["--threads", "0", "none.onnx"],
        ["none.onnx", "--inputs", "none.npz"],
        ["--warmth", "none.onnx"],
        ["--preset", "standard", "none.onnx"],
        [],
        ["check"],
        ["check", "none", "--threads", "many"],
    ],
)
def test_command_ends_with_one_line(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.startswith("error: ") and said.err.count("\n") == 1


def test_runs_without_torch_compress_and_onnx(linear: Path) -> None:
    code = (
        "import sys\n"
        "for name in ('torch', 'compress', 'export', 'models', 'onnx', 'pydantic'): sys.modules[name] = None\n"
        "from runtimes.measure import presets\n"
        "presets.PRESETS['quick'] = presets.Preset('quick', 1, 0.0, 5, 0.0)\n"
        "from runtimes.__main__ import main\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(linear), "--preset", "quick"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)[0]["samples_ms"]) == 5
