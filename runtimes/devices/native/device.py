"""A device without Python: files run by programs that the user provides, in a folder here.

That folder has the ``runner`` of `runtimes.devices.native.runner` with the library of an engine, which tells outputs
and every run, or an engine's own benchmark program, which tells times alone.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from ... import processor
from ...errors import DeviceError, InvalidInputs, keeping
from ...facts import EngineFacts, describe, engine_of, engines
from ...files.digest import digest
from ...measure.loop import Progress, Samples
from ...measure.measurement import Measurement
from ...measure.modes.work import Work
from ...measure.presets import Preset
from ...measure.request import Request
from ...measure.subject import Subject
from ...runtime import (
    Array,
    Arrays,
    ExecutedGraph,
    Options,
    Runtime,
    TensorSpec,
    check_inputs,
    engine_named,
    existing,
    random_inputs,
)
from ...sensors.conditions import Conditions
from ...sensors.cores import resolved
from ...sensors.temperatures import wait_below
from ..adb import AdbConnection
from ..device import Need, R, Settings
from . import runner
from .sensed import conditions_of
from .shell import Shell
from .tools import TOOLS, ToolRun

FOLDER = "/data/local/tmp/edgepress"
"""Where a shell of Android may keep programs."""

PROVIDED = "as provided"
"""The version of an engine whose program is not asked for it."""

_ROUNDS = 5
"""Calls of a program that tells means alone."""

_PATIENCE = 20.0
"""A device may take so much longer than the preset."""


class NativeDevice:
    """A device that ``adb`` reaches; see :class:`runtimes.devices.device.Device`.

    Args:
        programs: the folder here with the programs.
        settings: of them, the folder there and the cores hold.
    """

    def __init__(
        self, connection: AdbConnection, programs: Path, settings: Settings | None = None, name: str | None = None
    ) -> None:
        self.name = name or connection.place
        self.programs = programs
        self.settings = settings or Settings()
        self._shell = Shell(connection, self.name, self.settings.cache or FOLDER)

    @property
    def sent_bytes(self) -> int:
        """Bytes of files that were sent."""
        return self._shell.sent_bytes

    def conditions(self) -> Conditions:
        """Return the facts about it at this moment; raises DeviceError."""
        return conditions_of(self._shell)

    def facts(self) -> Mapping[str, Any]:
        """Return what it is and where files are kept there, as `runtimes.devices.remote.RemoteDevice` does."""
        here, folder = self.conditions(), self._shell.folder
        kept = self._shell.run(["du", "-sk", folder])
        # POSIX: the fourth figure of the second line is what is free, in blocks of 1024 bytes.
        free = self._shell.require(["df", "-kP", folder if kept.status == 0 else "/data/local/tmp"], "looking at it")
        return {
            "python": here.python,
            "libc": here.os,
            "machine": here.architecture,
            "clock_off_s": 0.0,
            "cache": {
                "folder": folder,
                "bytes": int(kept.stdout.split()[0]) * 1024 if kept.status == 0 else 0,
                "free_bytes": int(free.split(b"\n")[1].split()[3]) * 1024,
            },
        }

    def engines(self) -> dict[str, str]:
        """Return the engines that there are programs for; versions are told when a file is run."""
        known = [describe(engine) for engine in engines()]
        return {facts.name: PROVIDED for facts in known if self._has_runner(facts) or self._tool(facts) is not None}

    def is_exact(self, target: str) -> bool:
        """Return whether it computes the integers of files for ``target`` as the target's own device does."""
        here = self.conditions()
        return processor.is_exact(target, here.architecture, here.isa)

    def require(self, request: Request, needs: Sequence[Need] = (), outputs_of: Sequence[str] = ()) -> None:
        """Raise DeviceError where Python, or the runner, would have to be there.

        Settings are put back, and rails are read, by this package.
        """
        asked = {
            "a governor": request.governor,
            "a power mode": request.power_mode,
            "energy": request.energy,
            **{need.TITLE: need.IN_PYTHON for need in needs},
        }
        lacking = [what for what, wanted in asked.items() if wanted]
        if lacking:
            raise DeviceError(f"{self.name}: {', '.join(lacking)}: needs Python on the device; leave it out")
        for facts in map(describe, outputs_of):
            if not self._has_runner(facts):
                library = facts.native_library
                needed = f"the runner with {library}" if library else "an engine whose outputs the runner can tell"
                told = f"outputs, and so accuracy, of {facts.title} need {needed}, in {self.programs}"
                raise DeviceError(f"{self.name}: {told}; its other programs tell times alone")

    def tells_outputs(self, engine: str) -> bool:
        """Return whether the runner is there, with the library of the engine."""
        return self._has_runner(describe(engine))

    def version(self, engine: str) -> str:
        """Return `PROVIDED`: programs tell versions when they run a file; raises DeviceError where there is none."""
        facts = describe(engine)
        if not self._has_runner(facts):
            self._required_tool(facts)
        return PROVIDED

    def load(self, file: Path, engine: str, options: Options) -> Runtime:
        """Return a file of this machine, run there by the runner; raises InvalidModel or DeviceError."""
        facts = describe(engine)
        self.require(Request(), outputs_of=[engine])
        call = self._call(existing(file), facts, options.threads)
        told = runner.described(self._shell.require(call.describe(), f"loading {file}").decode("utf-8", "replace"))
        return NativeRuntime(self._shell, call, told, self._pinning(self.settings.cores))

    def benchmark(
        self,
        files: Sequence[Path | str],
        request: Request,
        *,
        engine: Sequence[str | None],
        inputs: Arrays | Sequence[Arrays] | None = None,
        progress: Progress | None = None,
    ) -> tuple[Measurement, ...]:
        """Return a measurement for each file, one after the other: runs of several are not interleaved.

        Raises:
            DeviceError: the device was lost; ``measurements`` of it has those of the files before.
        """
        self.require(request)
        paths = [existing(file) for file in files]
        names = [name or engine_of(path) for name, path in zip(engine, paths, strict=True)]
        feeds = [inputs] * len(paths) if inputs is None or not isinstance(inputs, Sequence) else list(inputs)
        done: list[Measurement] = []
        for number, (file, path, name, feed) in enumerate(zip(files, paths, names, feeds, strict=True)):
            if progress is not None:
                progress("bench", number, len(paths), str(file))
            with keeping(lambda _: tuple(done)):
                too_warm = self._too_warm(request, progress)
                measured = self._measured(str(file), path, describe(name), request, feed)
                done.append(replace(measured, disturbances=(*too_warm, *measured.disturbances)))
        return tuple(done)

    def measure(self, work: Work[R], subject: Subject, progress: Progress | None = None) -> R:
        """Raise DeviceError: work is done by this package, where files run."""
        raise DeviceError(f"{self.name}: {work.NAME}: needs Python on the device; leave it out")

    def interleave(self, loaded: Sequence[tuple[Runtime, Arrays]], preset: Preset) -> Samples:
        """Return the times of loaded files, one after the other."""
        rows, start = [], time.monotonic()
        for runtime, feed in loaded:
            if not isinstance(runtime, NativeRuntime):
                raise InvalidInputs(f"{self.name}: expected files that were loaded on it")
            rows.append(runtime.times(feed, preset))
        return Samples(tuple(rows), (), preset.warmup_runs, time.monotonic() - start)

    def clean(self) -> int:
        """Remove all that was kept on it; returns the bytes that it had."""
        done = self._shell.run(["du", "-sk", self._shell.folder])
        self._shell.require(["rm", "-rf", self._shell.folder], "cleaning")
        return int(done.stdout.split()[0]) * 1024 if done.status == 0 else 0

    def close(self) -> None:
        """Nothing runs there, and adb's server is the user's."""

    def _too_warm(self, request: Request, progress: Progress | None) -> tuple[str, ...]:
        """Wait until it is as cool as it is requested; why it did not become so, in words."""
        limit_c = request.start_below_c
        if limit_c is None:
            return ()
        reason = wait_below(limit_c, request.patience_s, progress, lambda: self.conditions().temperatures_c)
        return (reason,) if reason else ()

    def _measured(
        self, file: str, path: Path, facts: EngineFacts, request: Request, feed: Arrays | None
    ) -> Measurement:
        before, began, start = self.conditions(), datetime.now(UTC), time.monotonic()
        pinning = self._pinning(request.cores or self.settings.cores)
        if self._has_runner(facts):
            told = self._by_runner(path, facts, request, feed, pinning)
        else:
            told = self._by_tool(path, facts, request, feed, pinning)
        return Measurement(
            file=file,
            engine=facts.name,
            engine_version=told.version,
            threads=request.threads,
            preset=request.preset.name,
            samples_ms=told.samples_ms,
            warmup_runs=request.preset.warmup_runs,
            duration_s=time.monotonic() - start,
            interleaved=1,
            conditions=before,
            conditions_after=self.conditions(),
            sentinel_ms=(),
            size_bytes=path.stat().st_size,
            peak_memory_bytes=None,
            baseline_memory_bytes=None,
            load_ms=told.load_ms,
            loop=uuid.uuid4().hex,
            began=began.isoformat(timespec="seconds"),
            sha256=digest([path]),
            least_runs=request.preset.runs,
            percentiles=request.preset.percentiles,
            pinned=pinning.cores,
            disturbances=told.disturbances,
        )

    def _by_runner(
        self, path: Path, facts: EngineFacts, request: Request, feed: Arrays | None, pinning: _Pinning
    ) -> _Told:
        call = self._call(path, facts, request.threads)
        described = runner.described(self._shell.require(call.describe(), f"loading {path}").decode("utf-8", "replace"))
        runtime = NativeRuntime(self._shell, call, described, pinning)
        samples = runtime.times(feed or random_inputs(described.inputs, request.seed), request.preset)
        return _Told(described.version, samples, described.load_ms)

    def _by_tool(
        self, path: Path, facts: EngineFacts, request: Request, feed: Arrays | None, pinning: _Pinning
    ) -> _Told:
        """By the engine's own program, called several times where it tells a mean alone; inputs are its own."""
        path_here = self._required_tool(facts)
        tool = TOOLS[path_here.name]
        if tool.asks_shapes and feed is None:
            feed = _inputs_of(path, facts, request)
        preset, program = request.preset, self._shell.send(path_here, executable=True)
        shapes = tuple(tuple(array.shape[1:]) for array in (feed or {}).values())
        run = ToolRun(program, self._shell.send(path), request.threads, preset.warmup_runs, preset.runs, shapes)
        samples: list[float] = []
        load_ms, averaged = 0.0, 0
        for _ in range(_ROUNDS):
            done = self._shell.run([*pinning.words, *tool.words(run)], _patience(preset))
            if done.status:
                raise DeviceError(f"{self.name}: {tool.name} cannot run {path}: {done.said}")
            told = tool.times(done.stdout.decode("utf-8", "replace") + "\n" + done.stderr)
            load_ms = told.load_ms or load_ms
            samples += told.samples_ms or (told.mean_ms,)
            if told.samples_ms:
                break
            averaged = told.runs
        means = f"{tool.name} tells no single runs: each sample is the mean of {averaged}"
        return _Told("unknown", tuple(samples), load_ms, (means,) if averaged else ())

    def _call(self, path: Path, facts: EngineFacts, threads: int) -> runner.Call:
        program = self._shell.send(self.programs / "runner", executable=True)
        library = self._shell.send(self.programs / (facts.native_library or ""))
        return runner.Call(program, facts.name, library, self._shell.send(path), threads)

    def _has_runner(self, facts: EngineFacts) -> bool:
        library = facts.native_library
        return library is not None and all((self.programs / name).is_file() for name in ("runner", library))

    def _tool(self, facts: EngineFacts) -> Path | None:
        path = None if facts.native_tool is None else self.programs / facts.native_tool
        return path if path is not None and path.is_file() else None

    def _required_tool(self, facts: EngineFacts) -> Path:
        path = self._tool(facts)
        if path is None:
            known = (facts.native_tool, facts.native_library and f"runner and {facts.native_library}")
            expected = " or ".join(name for name in known if name) or "a program that there is none of"
            raise DeviceError(f"{self.name}: {facts.title} needs {expected} in {self.programs}, built for the device")
        return path

    def _pinning(self, cores: Sequence[int | str] | None) -> _Pinning:
        if cores is None:
            return _Pinning()
        here = self.conditions()
        known = here.clusters or {"all": tuple(range(here.cores or 1))}
        usable = sorted({core for members in known.values() for core in members})
        chosen = resolved(cores, usable, known)
        mask = sum(1 << core for core in chosen)
        return _Pinning(chosen, ("taskset", f"{mask:x}"))


@dataclass(frozen=True)
class _Pinning:
    """The cores that a program is pinned to, and the words before it that do so."""

    cores: tuple[int, ...] | None = None
    words: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Told:
    """What came of a measurement there."""

    version: str
    samples_ms: tuple[float, ...]
    load_ms: float
    disturbances: tuple[str, ...] = ()


class NativeRuntime:
    """A file that the runner runs on a device, loaded anew by each call; see :class:`runtimes.runtime.Runtime`."""

    def __init__(self, shell: Shell, call: runner.Call, described: runner.Described, pinning: _Pinning) -> None:
        self.inputs: tuple[TensorSpec, ...] = described.inputs
        self.outputs: tuple[TensorSpec, ...] = described.outputs
        self._shell, self._call, self._pinning = shell, call, pinning

    def run(self, inputs: Arrays) -> dict[str, Array]:
        """Return the outputs by name; raises InvalidInputs or DeviceError."""
        check_inputs(self.inputs, inputs)
        return self.run_samples(inputs, max(len(next(iter(inputs.values()))), 1))

    def run_samples(self, inputs: Arrays, batch: int) -> dict[str, Array]:
        """Return the outputs for N samples, ``batch`` of them in each run."""
        with self._folders(inputs) as (given, made):
            self._required(self._call.run(given, made, batch), "running")
            names = [runner.name_of(number) for number in range(len(self.outputs))]
            return runner.arrays_of(self.outputs, {name: self._shell.read(f"{made}/{name}") for name in names})

    def times(self, inputs: Arrays, preset: Preset) -> tuple[float, ...]:
        """Return the milliseconds of each run on these inputs, after warm-up."""
        check_inputs(self.inputs, inputs)
        batch = max(len(next(iter(inputs.values()))), 1)
        with self._folders(inputs) as (given, made):
            warmup, least = (preset.warmup_runs, preset.warmup_s), (preset.runs, preset.seconds)
            self._required(self._call.time(given, made, batch, warmup, least), "measuring", _patience(preset))
            array = runner.array_of({runner.TIMES: self._shell.read(f"{made}/{runner.TIMES}")}, runner.TIMES)
        if array.ndim != 1 or array.dtype != np.float64 or not np.isfinite(array).all() or len(array) < preset.runs:
            raise DeviceError(f"{self._shell.name}: the runner's times are none; build it again")
        return tuple(float(value) for value in array)

    def executed_graph(self, inputs: Arrays | None = None, runs: int = 1) -> ExecutedGraph | None:
        """Return None: the runner does not tell."""
        return None

    def close(self) -> None:
        """Nothing is loaded between calls."""

    def _required(self, words: Sequence[str], doing: str, seconds: float = 600.0) -> None:
        self._shell.require([*self._pinning.words, *words], doing, seconds)

    @contextmanager
    def _folders(self, inputs: Arrays) -> Iterator[tuple[str, str]]:
        """Within: a folder there with the inputs, and one for what is written."""
        folder = f"{self._shell.folder}/runs/{uuid.uuid4().hex}"
        try:
            self._shell.require(["mkdir", "-p", f"{folder}/inputs", f"{folder}/outputs"], "making its folder")
            for name, content in runner.files_of(self.inputs, inputs).items():
                self._shell.write(f"{folder}/inputs/{name}", content)
            yield f"{folder}/inputs", f"{folder}/outputs"
        finally:
            with suppress(DeviceError):
                self._shell.run(["rm", "-rf", folder])


def _inputs_of(path: Path, facts: EngineFacts, request: Request) -> Arrays:
    """Random inputs of a file, as its engine on this machine tells them; raises EngineMissing where there is none."""
    runtime = engine_named(facts.name).load(path, request.options)
    try:
        return random_inputs(runtime.inputs, request.seed)
    finally:
        runtime.close()


def _patience(preset: Preset) -> float:
    return _PATIENCE * (preset.seconds + preset.warmup_s) + 600.0
