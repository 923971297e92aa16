"""Latency of files on this machine: several are run in turn in one loop, and every raw sample is kept."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from ..errors import InvalidInputs, InvalidMeasurement, keeping
from ..facts import engine_of
from ..files.digest import digest
from ..runtime import Arrays, Engine, Options, Runtime, check_inputs, engine_named, existing, random_inputs
from ..sensors.conditions import Conditions, conditions
from ..sensors.cores import pinned
from ..sensors.power import Energy, Rail, rail_named
from ..sensors.settings import held
from ..sensors.temperatures import wait_below
from ..sensors.watch import Watch, Watched
from .energy import energy_of, idle_watts
from .loop import Progress, Renewal, Rows, Samples, interleave, sentinel
from .measurement import Measurement, broken_off
from .memory import Memory, peak_memory
from .presets import Preset
from .request import Request


class Listener(Protocol):
    """Told what is measured while it is."""

    def began(self, measurements: Sequence[Measurement]) -> None:
        """All that is known before the first sample."""
        ...

    def took(self, rows_ms: Rows, sentinel_ms: Sequence[float]) -> None:
        """The samples of each file so far, and those of the sentinel."""
        ...


class _Nobody:
    """A listener that takes no notice."""

    def began(self, measurements: Sequence[Measurement]) -> None:
        pass

    def took(self, rows_ms: Rows, sentinel_ms: Sequence[float]) -> None:
        pass


def benchmark(
    files: Sequence[Path | str],
    request: Request | None = None,
    *,
    engine: str | Sequence[str | None] | None = None,
    inputs: Arrays | Sequence[Arrays] | None = None,
    progress: Progress | None = None,
    listener: Listener | None = None,
) -> tuple[Measurement, ...]:
    """Return a measurement for each file, in order. Several are run in turn in one loop: under the same conditions.

    Args:
        files: the files to compare; a file may come twice, as a check of the measurement itself.
        request: how; left out, as `Request` has it by default.
        engine: that runs them all, or one for each; by default the one that each suffix names.
        inputs: of every file, or of each; random with the request's seed and a batch of 1 where there are none.
        listener: told what is measured while it is: a measurement that is broken off is not lost.

    Raises:
        InvalidModel: a file cannot be loaded, or the process that measures its memory failed.
        InvalidInputs: an option is not known, the inputs do not fit a file, or the machine cannot do what is requested.
        EngineMissing: an engine is not installed.
        Interrupted: the user, or the system, wants no more; ``measurements`` of it are what was taken until then.
    """
    asked = request or Request()
    rail = rail_named(asked.rail) if asked.energy else None
    with prepared(files, asked, engine, inputs, progress) as ready:
        before, began = conditions(), datetime.now(UTC).isoformat(timespec="milliseconds")
        watch, heard = Watch(before.affinity or ()), listener or _Nobody()
        nothing = Samples(((),) * len(ready.jobs), (), 0, 0.0)
        loop = _Loop(asked, ready, nothing, before, before, began, watch.watched)
        taken = _Taken(loop.measurements(), heard)
        with keeping(taken.measurements), watch.watching():
            samples = interleave(
                ready.works,
                asked.preset,
                sentinel(),
                progress,
                watch=watch.look,
                took=taken,
                renewal=ready.renewal,
            )
        loop = replace(loop, samples=samples, after=conditions(), watched=watch.watched)
        with keeping(lambda _: loop.measurements()):
            energies = _energies(ready, asked.preset, rail)
    measured = loop.measurements()
    return tuple(replace(each, energy=energy) for each, energy in zip(measured, energies, strict=True))


class _Taken:
    """What a loop has taken so far: told to a listener, and kept where the loop is broken off."""

    def __init__(self, begun: Sequence[Measurement], heard: Listener) -> None:
        self._begun, self._heard = begun, heard
        self._rows_ms: Rows = ()
        self._sentinel_ms: Sequence[float] = ()
        self._began_s = time.perf_counter()
        heard.began(begun)

    def __call__(self, rows_ms: Rows, sentinel_ms: Sequence[float]) -> None:
        """Take lists that the loop goes on to fill."""
        if not self._rows_ms:
            self._began_s = time.perf_counter()
        self._rows_ms, self._sentinel_ms = rows_ms, sentinel_ms
        self._heard.took(rows_ms, sentinel_ms)

    def measurements(self, reason: str) -> tuple[Measurement, ...]:
        """What was taken, marked as not to be trusted."""
        return broken_off(self._begun, self._rows_ms, self._sentinel_ms, time.perf_counter() - self._began_s, reason)


@dataclass(frozen=True)
class Ready:
    """Files that are loaded, on a machine that is set as it was requested.

    Args:
        jobs: what is measured.
        works: each runs a file once, until the files are loaded anew.
        renewal: loads all files anew.
        loads_ms: that loading each took.
        memories: that each takes; None where it was not measured.
        pinned: the cores that this process is pinned to; None where it is free.
        disturbances: what speaks against measuring now, in words.
    """

    jobs: tuple[Job, ...]
    works: tuple[Callable[[], object], ...]
    renewal: Renewal
    loads_ms: tuple[float, ...]
    memories: tuple[Memory | None, ...]
    pinned: tuple[int, ...] | None
    disturbances: tuple[str, ...]


@contextmanager
def prepared(
    files: Sequence[Path | str],
    request: Request,
    engine: str | Sequence[str | None] | None = None,
    inputs: Arrays | Sequence[Arrays] | None = None,
    progress: Progress | None = None,
) -> Iterator[Ready]:
    """Within: files can be run at once; afterwards they are closed, and the machine is as before. Raises as above."""
    jobs = _jobs(files, engine, inputs)
    with machine_set(request) as cores, _Sessions(jobs, request.options) as sessions:
        feeds = [
            random_inputs(runtime.inputs, request.seed) if job.inputs is None else job.inputs
            for job, runtime in zip(jobs, sessions.runtimes, strict=True)
        ]
        for runtime, feed in zip(sessions.runtimes, feeds, strict=True):
            check_inputs(runtime.inputs, feed)
        memories = tuple(_memory(job, request) for job in jobs)
        loads_ms = tuple(sessions.loads_ms)
        works, renewal = sessions.works(feeds), Renewal(lambda: sessions.renewed(feeds), sum(loads_ms) / 1e3)
        yield Ready(tuple(jobs), works, renewal, loads_ms, memories, cores, too_warm(request, progress))


def too_warm(request: Request, progress: Progress | None = None) -> tuple[str, ...]:
    """Wait until the machine is as cool as it is requested; why it did not become so, in words, where it did not."""
    limit_c = request.start_below_c
    reason = "" if limit_c is None else wait_below(limit_c, request.patience_s, progress)
    return (reason,) if reason else ()


@contextmanager
def machine_set(request: Request) -> Iterator[tuple[int, ...] | None]:
    """Within: the machine is set as it is requested; the cores that this process is pinned to."""
    with pinned(request.cores) as cores, held(request.governor, request.power_mode, cores):
        yield cores


def _energies(ready: Ready, preset: Preset, rail: Rail | None) -> list[Energy | None]:
    if rail is None:
        return [None] * len(ready.jobs)
    works, idle = ready.renewal.make(), idle_watts(rail)
    return [energy_of(work, preset, rail, idle) for work in works]


@dataclass(frozen=True)
class Job:
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
) -> list[Job]:
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
        Job(str(file), path, name, module, own)
        for file, path, name, module, own in zip(files, paths, names, modules, arrays, strict=True)
    ]


class _Sessions:
    """Files that are loaded within: their runtimes, and the milliseconds that loading each took at first."""

    def __init__(self, jobs: Sequence[Job], options: Options) -> None:
        self.runtimes: list[Runtime] = []
        self.loads_ms: list[float] = []
        self._jobs, self._options = jobs, options
        self._backwards = False

    def __enter__(self) -> _Sessions:
        try:
            for job in self._jobs:
                start = time.perf_counter_ns()
                self.runtimes.append(job.module.load(job.path, self._options))
                self.loads_ms.append((time.perf_counter_ns() - start) / 1e6)
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self._close()

    def works(self, feeds: Sequence[Arrays]) -> tuple[Callable[[], object], ...]:
        """Each runs a file once."""
        return tuple(_work(runtime, feed) for runtime, feed in zip(self.runtimes, feeds, strict=True))

    def renewed(self, feeds: Sequence[Arrays]) -> tuple[Callable[[], object], ...]:
        """Load all files anew, each time in the other order: the one that is loaded last is often a little faster."""
        self._close()
        self._backwards = not self._backwards
        self.runtimes = [job.module.load(job.path, self._options) for job in self._jobs[:: self._step]][:: self._step]
        return self.works(feeds)

    @property
    def _step(self) -> int:
        return -1 if self._backwards else 1

    def _close(self) -> None:
        runtimes, self.runtimes = self.runtimes, []
        for runtime in runtimes:
            runtime.close()


@dataclass(frozen=True)
class _Loop:
    """What all files of one loop have in common."""

    request: Request
    ready: Ready
    samples: Samples
    before: Conditions
    after: Conditions
    began: str
    watched: Watched
    name: str = field(default_factory=lambda: secrets.token_hex(8))

    def measurements(self) -> tuple[Measurement, ...]:
        """What the loop says of each of its files."""
        return tuple(self.measurement(i) for i in range(len(self.ready.jobs)))

    def measurement(self, i: int) -> Measurement:
        """What the loop says of its file number ``i``."""
        job, memory = self.ready.jobs[i], self.ready.memories[i]
        parts = job.module.parts(job.path)
        return Measurement(
            file=job.file,
            engine=job.engine,
            engine_version=job.module.version(),
            threads=self.request.threads,
            preset=self.request.preset.name,
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
            load_ms=self.ready.loads_ms[i],
            loop=self.name,
            began=self.began,
            sha256=digest(parts),
            least_runs=self.request.preset.runs,
            percentiles=self.request.preset.percentiles,
            pinned=self.ready.pinned,
            watched=self.watched,
            disturbances=self.ready.disturbances,
            loadings=self.samples.sections,
            loaded_at=self.samples.renewed_at,
        )


def require_valid(measurements: Sequence[Measurement]) -> None:
    """Raise InvalidMeasurement where one of the measurements broke a rule, with the reasons."""
    for measurement in measurements:
        if not measurement.valid:
            reasons = "; ".join(each.reason for each in measurement.broken_rules)
            raise InvalidMeasurement(f"{measurement.file}: the measurement is invalid: {reasons}")


def _memory(job: Job, request: Request) -> Memory | None:
    return peak_memory(job.path, job.engine, request.options, job.inputs) if request.memory else None


def _work(runtime: Runtime, inputs: Arrays) -> Callable[[], object]:
    run = runtime.run
    return lambda: run(inputs)
