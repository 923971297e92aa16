"""Latency of files on this machine: several are run in turn in one loop, and every raw sample is kept."""

from __future__ import annotations

import gc
import json
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, asdict, dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from ..devices.local import Conditions, conditions, pinned
from ..errors import InvalidInputs, Unstable
from ..facts import engine_of
from ..files.digest import digest
from ..runtime import Arrays, Engine, Options, Runtime, check_inputs, engine_named, existing, random_inputs
from .memory import Memory, peak_memory

PresetName = Literal["standard", "quick", "mlperf"]

P99_RUNS = 662
"""The fewest runs that bear a 99th percentile (MLPerf Inference rules, early stopping at 0.99)."""

TOLERANCE = 0.10
"""A spread or a drift over this share is unstable."""

_SENTINELS = 100
_THROTTLED_NOW = 0xF


@dataclass(frozen=True)
class Preset:
    """How long a measurement takes, for each file: at least so many runs and at least so many seconds of the loop."""

    name: PresetName
    warmup_runs: int
    warmup_s: float
    runs: int
    seconds: float


PRESETS: Mapping[PresetName, Preset] = {
    "standard": Preset("standard", warmup_runs=10, warmup_s=1.0, runs=100, seconds=10.0),
    "quick": Preset("quick", warmup_runs=5, warmup_s=0.2, runs=30, seconds=1.0),
    "mlperf": Preset("mlperf", warmup_runs=10, warmup_s=1.0, runs=1024, seconds=60.0),
}


class Progress(Protocol):
    """Told how far a measurement is, in seconds of the loop: ``progress("bench", 3, 10, "net.onnx")``."""

    def __call__(self, task: str, done: int, total: int, note: str = "") -> None: ...


@dataclass(frozen=True)
class Measurement:
    """The latency of one file: raw samples and the conditions they were taken in. Every figure is computed from them.

    Args:
        samples_ms: of every run, in order, none left out.
        duration_s: of the loop that all the files were run in, warm-up not included.
        interleaved: the number of files in that loop.
        conditions: before the loop.
        conditions_after: after it.
        sentinel_ms: of a fixed piece of work, run at intervals in the same loop.
        size_bytes: on disk, with external weights.
        peak_memory_bytes: of a process that does nothing but load the file and run it; None where it was not measured.
        baseline_memory_bytes: of that process before it loaded the file.
        load_ms: from the file to a runtime, the engine being imported already.
        loop: a name that no other loop has. Files with the same one were run in turn: their samples with the same index
            are of the same round.
        began: when that loop began, as ISO 8601 in UTC.
        sha256: of the file, and of what belongs to it.
    """

    file: str
    engine: str
    engine_version: str
    threads: int
    preset: PresetName
    samples_ms: tuple[float, ...]
    warmup_runs: int
    duration_s: float
    interleaved: int
    conditions: Conditions
    conditions_after: Conditions
    sentinel_ms: tuple[float, ...]
    size_bytes: int
    peak_memory_bytes: int | None
    baseline_memory_bytes: int | None
    load_ms: float
    loop: str | None = None
    began: str | None = None
    sha256: str | None = None

    @property
    def p50_ms(self) -> float:
        """Return the median."""
        return self._percentile(50)

    @property
    def p90_ms(self) -> float:
        """Return the 90th percentile."""
        return self._percentile(90)

    @property
    def p95_ms(self) -> float:
        """Return the 95th percentile."""
        return self._percentile(95)

    @property
    def p99_ms(self) -> float | None:
        """Return the 99th percentile, or None below 662 runs, which do not bear it."""
        return self._percentile(99) if len(self.samples_ms) >= P99_RUNS else None

    @property
    def min_ms(self) -> float:
        """Return the fastest run."""
        return min(self.samples_ms)

    @property
    def mean_ms(self) -> float:
        """Return the mean."""
        return float(np.mean(self.samples_ms))

    @property
    def std_ms(self) -> float:
        """Return the standard deviation of the sample (n - 1), 0 for a single run."""
        return float(np.std(self.samples_ms, ddof=1)) if len(self.samples_ms) > 1 else 0.0

    @property
    def spread(self) -> float:
        """Return (p90 - p10) / p50."""
        return (self.p90_ms - self._percentile(10)) / self.p50_ms

    @property
    def drift(self) -> float:
        """Return by what share the median of the sentinel moved from the first half of the loop to the second."""
        half = len(self.sentinel_ms) // 2
        if half == 0:
            return 0.0
        first, second = np.median(self.sentinel_ms[:half]), np.median(self.sentinel_ms[half:])
        return abs(float(second / first) - 1.0)

    @property
    def unstable(self) -> tuple[str, ...]:
        """Return why this measurement is not to be trusted; empty where it is."""
        reasons = []
        if self.spread > TOLERANCE:
            reasons.append(f"spread of {self.spread:.0%}, (p90 - p10) / p50, is over {TOLERANCE:.0%}")
        if self.drift > TOLERANCE:
            reasons.append(f"the machine drifted by {self.drift:.0%}, over {TOLERANCE:.0%}, while it was measured")
        before, after = self.conditions.throttled or 0, self.conditions_after.throttled or 0
        if (before | after) & _THROTTLED_NOW or after & ~before:
            reasons.append(f"the machine was throttled (get_throttled: {before:#x} before, {after:#x} after)")
        return tuple(reasons)

    @property
    def stable(self) -> bool:
        """Return whether nothing speaks against this measurement."""
        return not self.unstable

    def to_json(self) -> dict[str, object]:
        """Return a mapping that ``json`` writes, with the computed figures under ``latency_ms`` and ``stability``."""
        latency = {name: getattr(self, f"{name}_ms") for name in ("p50", "p90", "p95", "p99", "min", "mean", "std")}
        stability = {
            "stable": self.stable,
            "reasons": list(self.unstable),
            "spread": self.spread,
            "drift": self.drift,
        }
        facts = asdict(self) | {"runs": len(self.samples_ms), "latency_ms": latency, "stability": stability}
        plain: dict[str, object] = json.loads(json.dumps(facts))
        return plain

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Measurement:
        """Return the measurement that `to_json` gave; figures are computed again.

        Raises:
            InvalidInputs: a field is missing.
        """
        try:
            facts = _values(cls, stored)
            for name in ("conditions", "conditions_after"):
                facts[name] = Conditions(**_values(Conditions, stored[name]))
        except KeyError as error:
            raise InvalidInputs(f"measurement: the field {error} is missing; measure again") from None
        return cls(**facts)

    def _percentile(self, q: float) -> float:
        return float(np.percentile(self.samples_ms, q))


@dataclass(frozen=True)
class Samples:
    """What `interleave` took: a row of times for each piece of work, and those of the sentinel."""

    rows_ms: tuple[tuple[float, ...], ...]
    sentinel_ms: tuple[float, ...]
    warmup_runs: int
    duration_s: float


def benchmark(
    files: Sequence[Path | str],
    *,
    engine: str | Sequence[str | None] | None = None,
    options: Options | None = None,
    preset: PresetName = "standard",
    inputs: Arrays | Sequence[Arrays] | None = None,
    seed: int = 0,
    cores: Sequence[int] | None = None,
    memory: bool = True,
    progress: Progress | None = None,
) -> tuple[Measurement, ...]:
    """Return a measurement for each file, in order. Several are run in turn in one loop: under the same conditions.

    Args:
        files: the files to compare; a file may come twice, as a check of the measurement itself.
        engine: that runs them all, or one for each; by default the one that each suffix names.
        preset: ``standard`` has at least 10 warm-up runs and 1 s, then at least 100 runs and 10 s for each file;
            ``quick`` 5 and 0.2 s, then 30 and 1 s; ``mlperf`` 1024 runs and 60 s after the standard warm-up.
        inputs: of every file, or of each; random with ``seed`` and a batch of 1 where there are none.
        cores: that this process is pinned to meanwhile.
        memory: whether the peak memory is measured too, in a process of its own before the loop.

    Raises:
        InvalidModel: a file cannot be loaded, or the process that measures its memory failed.
        InvalidInputs: an option is not known, or the inputs do not fit a file.
        EngineMissing: an engine is not installed.
    """
    if preset not in PRESETS:
        raise InvalidInputs(f"preset {preset!r} is not known: expected one of {', '.join(PRESETS)}")
    settings = options or Options()
    jobs = _jobs(files, engine, inputs)
    with pinned(cores), _loaded(jobs, settings) as loaded:
        feeds = [
            random_inputs(runtime.inputs, seed) if job.inputs is None else job.inputs
            for job, (runtime, _) in zip(jobs, loaded, strict=True)
        ]
        for (runtime, _), feed in zip(loaded, feeds, strict=True):
            check_inputs(runtime.inputs, feed)
        memories = [peak_memory(job.path, job.engine, settings, job.inputs) if memory else None for job in jobs]
        works = [_work(runtime, feed) for (runtime, _), feed in zip(loaded, feeds, strict=True)]
        before, began = conditions(), datetime.now(UTC).isoformat(timespec="milliseconds")
        samples = interleave(works, PRESETS[preset], sentinel(), progress)
        loop = _Loop(settings, preset, samples, before, conditions(), began)
    loads_ms = [load_ms for _, load_ms in loaded]
    return tuple(loop.measurement(i, job, loads_ms[i], memories[i]) for i, job in enumerate(jobs))


@dataclass(frozen=True)
class _Job:
    """A file to be measured; ``inputs`` are None where random ones are to be made."""

    file: str
    path: Path
    engine: str
    module: Engine
    inputs: Arrays | None


def _jobs(
    files: Sequence[Path | str],
    engine: str | Sequence[str | None] | None,
    inputs: Arrays | Sequence[Arrays] | None,
) -> list[_Job]:
    if not files:
        raise InvalidInputs("files: expected at least one, got none")
    paths = [existing(file) for file in files]
    engines = [engine] * len(paths) if engine is None or isinstance(engine, str) else engine
    arrays = [inputs] * len(paths) if inputs is None or isinstance(inputs, Mapping) else inputs
    if not len(engines) == len(arrays) == len(paths):
        raise InvalidInputs(f"files: {len(paths)}, but {len(engines)} engines and {len(arrays)} inputs")
    names = [name or engine_of(path) for name, path in zip(engines, paths, strict=True)]
    modules = [engine_named(name) for name in names]
    return [
        _Job(str(file), path, name, module, own)
        for file, path, name, module, own in zip(files, paths, names, modules, arrays, strict=True)
    ]


@contextmanager
def _loaded(jobs: Sequence[_Job], options: Options) -> Iterator[list[tuple[Runtime, float]]]:
    """Within: every file is loaded; its runtime, and the milliseconds that loading took."""
    loaded: list[tuple[Runtime, float]] = []
    try:
        for job in jobs:
            start = time.perf_counter_ns()
            runtime = job.module.load(job.path, options)
            loaded.append((runtime, (time.perf_counter_ns() - start) / 1e6))
        yield loaded
    finally:
        for runtime, _ in loaded:
            runtime.close()


@dataclass(frozen=True)
class _Loop:
    """What all files of one loop have in common."""

    options: Options
    preset: PresetName
    samples: Samples
    before: Conditions
    after: Conditions
    began: str
    name: str = field(default_factory=lambda: secrets.token_hex(8))

    def measurement(self, i: int, job: _Job, load_ms: float, memory: Memory | None) -> Measurement:
        """What the loop says of its file number ``i``."""
        parts = job.module.parts(job.path)
        return Measurement(
            file=job.file,
            engine=job.engine,
            engine_version=job.module.version(),
            threads=self.options.threads,
            preset=self.preset,
            samples_ms=self.samples.rows_ms[i],
            warmup_runs=self.samples.warmup_runs,
            duration_s=self.samples.duration_s,
            interleaved=len(self.samples.rows_ms),
            conditions=self.before,
            conditions_after=self.after,
            sentinel_ms=self.samples.sentinel_ms,
            size_bytes=sum(part.stat().st_size for part in parts),
            peak_memory_bytes=None if memory is None else memory.peak_bytes,
            baseline_memory_bytes=None if memory is None else memory.baseline_bytes,
            load_ms=load_ms,
            loop=self.name,
            began=self.began,
            sha256=digest(parts),
        )


def require_stable(measurements: Sequence[Measurement]) -> None:
    """Raise Unstable where one of the measurements is, with its reasons."""
    for measurement in measurements:
        if not measurement.stable:
            raise Unstable(
                f"{measurement.file}: unstable: {'; '.join(measurement.unstable)}; measure on an idle machine"
            )


def interleave(
    works: Sequence[Callable[[], object]],
    preset: Preset,
    sentinel: Callable[[], object],
    progress: Progress | None = None,
    clock_ns: Callable[[], int] = time.perf_counter_ns,
) -> Samples:
    """Return the times of each piece of work, run in turn until all have the preset's runs and seconds.

    The seconds are of the loop, as many times the preset's as there are pieces. Each round begins with another piece
    and every second round goes backwards, so that none always follows the same one. Python's garbage collector rests.
    """
    count = len(works)
    forwards = [[(shift + i) % count for i in range(count)] for shift in range(count)]
    orders = [order for each in forwards for order in (each, each[::-1])]
    total_s = preset.seconds * count
    rows: list[list[float]] = [[] for _ in works]
    guards: list[float] = []
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        began, rounds = clock_ns(), 0
        while rounds < preset.warmup_runs or clock_ns() - began < preset.warmup_s * count * 1e9:
            for i in orders[rounds % len(orders)]:
                works[i]()
            rounds += 1
        warmups = rounds
        for _ in range(3):
            sentinel()
        began, rounds, guarded = clock_ns(), 0, -(10**18)
        while rounds < preset.runs or clock_ns() - began < total_s * 1e9:
            now = clock_ns()
            if now - guarded >= total_s * 1e9 / _SENTINELS:
                guarded = now
                if progress is not None:
                    progress("bench", min(round((now - began) / 1e9), round(total_s)), round(total_s))
                start = clock_ns()
                sentinel()
                guards.append((clock_ns() - start) / 1e6)
            for i in orders[rounds % len(orders)]:
                work, row = works[i], rows[i]
                start = clock_ns()
                work()
                row.append((clock_ns() - start) / 1e6)
            rounds += 1
        duration_s = (clock_ns() - began) / 1e9
    finally:
        if collecting:
            gc.enable()
    if progress is not None:
        progress("bench", round(total_s), round(total_s))
    return Samples(tuple(tuple(row) for row in rows), tuple(guards), warmups, duration_s)


def sentinel() -> Callable[[], object]:
    """Return a fixed piece of work of some 0.2 ms: 20 products of matrices that BLAS multiplies in one thread."""
    left = np.random.default_rng(0).standard_normal((64, 64), dtype=np.float32)
    product = np.empty_like(left)

    def work() -> None:
        for _ in range(20):
            np.matmul(left, left, out=product)

    return work


def _work(runtime: Runtime, inputs: Arrays) -> Callable[[], object]:
    run = runtime.run
    return lambda: run(inputs)


def _values(kind: Any, stored: Mapping[str, Any]) -> dict[str, Any]:
    """What is stored of the fields of a dataclass; those that have defaults may be missing."""
    known = (each.name for each in fields(kind) if each.default is MISSING or each.name in stored)
    return {name: _frozen(stored[name]) for name in known}


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
