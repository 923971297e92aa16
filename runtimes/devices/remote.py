"""A device that is reached over a connection: files are sent there, run there, and what comes back is judged here."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from .. import processor
from ..agent.arrays import packed, unpacked
from ..ending import printable
from ..errors import DeviceError, InvalidModel, keeping
from ..facts import engine_of, engines
from ..files.untrusted import VARIABLE, large_files
from ..measure.loop import Progress, Samples
from ..measure.measurement import Measurement, broken_off
from ..measure.modes.work import Part, Work
from ..measure.modes.works import told_of
from ..measure.presets import Preset
from ..measure.request import Request
from ..measure.subject import Subject
from ..runtime import (
    Array,
    Arrays,
    ExecutedGraph,
    Node,
    Options,
    Runtime,
    TensorSpec,
    check_inputs,
    existing,
    parts_of,
)
from ..sensors.conditions import Conditions
from .connection import Connection
from .device import Need, R, Settings
from .link import Link
from .requirements import distribution, requirements
from .sending import Sent, package, send, wheels
from .typed import Facts, typed

T = TypeVar("T")

_CLOCK_OFF_S = 86400.0
_MOST_SAMPLES = 2**24
_MOST_PARTS = 2**16
_REQUEST_BYTES = 2**24
"""Of samples that are sent at once."""


class RemoteDevice:
    """A device at the other end of ``connection``; see :class:`runtimes.devices.device.Device`.

    Args:
        name: that the user has for it; left out, its place.
        progress: told of what takes long before anything runs there.
    """

    def __init__(
        self,
        connection: Connection,
        settings: Settings | None = None,
        name: str | None = None,
        progress: Progress | None = None,
    ) -> None:
        self.connection = connection
        self.settings = settings or Settings()
        self.name = name or connection.place
        self.sent_bytes = 0
        self._progress = progress
        self._begun: Link | None = None
        self._facts: Mapping[str, Any] = {}
        self._processor: tuple[str, tuple[str, ...] | None] | None = None
        self._agents: dict[frozenset[str], Link] = {}
        self._folders: dict[tuple[int, tuple[str, ...]], str] = {}

    def __repr__(self) -> str:
        return f"RemoteDevice({self.name!r})"

    def facts(self) -> Mapping[str, Any]:
        """Return what its Python and its cache are, without installing anything; raises DeviceError."""
        self._first()
        return self._facts

    def conditions(self) -> Conditions:
        """Return the facts about it at this moment; nothing is installed for that."""
        link = next(iter(self._agents.values()), None)
        if link is not None:
            answer, _ = link.ask("conditions")
        else:
            link = self._first()
            answer, _ = link.ask("conditions", package=self._package(link))
        with link.understood():
            return typed(Conditions.from_json(_plain(answer)))

    def is_exact(self, target: str) -> bool:
        """Return whether it computes the integers of files for ``target`` as the target's own device does."""
        if self._processor is None:
            here = self.conditions()
            self._processor = here.architecture, here.isa
        return processor.is_exact(target, *self._processor)

    def require(self, request: Request, needs: Sequence[Need] = (), outputs_of: Sequence[str] = ()) -> None:
        """What it has not is told there, before anything is measured."""

    def engines(self) -> dict[str, str]:
        """Return the versions of engines that are there: in its Python, if one is named, else in its environments."""
        packages = {name: package for name in engines() if (package := distribution(name)) is not None}
        link = self._first()
        if self.settings.python is not None:
            answer, _ = link.ask("distributions", names=sorted(set(packages.values())))
            there = {name: str(version) for name, version in answer.items() if version is not None}
        else:
            with link.understood():
                lines = [str(line) for made in self._facts["cache"]["environments"] for line in made["requirements"]]
            there = dict(line.split("==") for line in lines if line.count("==") == 1)
        return {name: printable(there[package]) for name, package in packages.items() if package in there}

    def clean(self) -> int:
        """Remove all that was kept on it; returns the bytes that it had.

        Settings that a measurement there left changed are put back before that.
        """
        link = self._first()
        package = self._package(link)
        with link.during("cleaning"):
            answer, _ = link.ask("clean", package=package)
        with link.understood():
            return int(answer["bytes"])

    def tells_outputs(self, engine: str) -> bool:
        """Return True: files are run by this package."""
        return True

    def version(self, engine: str) -> str:
        """Return the version of an engine there; raises DeviceError where it is not there."""
        answer, _ = self._agent([engine]).ask("version", engine=engine)
        return printable(str(answer.get("version")))

    def load(self, file: Path, engine: str, options: Options) -> Runtime:
        """Return a file of this machine, loaded there; raises InvalidModel or DeviceError."""
        link = self._agent([engine])
        there = self._sent(link, file, engine)
        with link.during("loading"):
            answer, _ = link.ask("load", file=there, engine=engine, options=asdict(options))
        with link.understood():
            number, inputs, outputs = int(answer["runtime"]), _specs(answer["inputs"]), _specs(answer["outputs"])
        return RemoteRuntime(link, number, inputs, outputs, self.settings.cores)

    def benchmark(
        self,
        files: Sequence[Path | str],
        request: Request,
        *,
        engine: Sequence[str | None],
        inputs: Arrays | Sequence[Arrays] | None = None,
        progress: Progress | None = None,
    ) -> tuple[Measurement, ...]:
        """Return a measurement for each file, of one loop; raises DeviceError, with what was taken before."""
        paths = [existing(file) for file in files]
        engines = [name or engine_of(path) for name, path in zip(engine, paths, strict=True)]
        link = self._agent(engines)
        there = [self._sent(link, path, name) for path, name in zip(paths, engines, strict=True)]
        index, body = _feeds(inputs, len(paths))
        taken = _Taken(progress)
        asked = self._asked(request)
        with keeping(lambda reason: _named(taken.measurements(reason), files)):
            with link.during("measuring"):
                answer, _ = link.ask(
                    "benchmark", body, taken, files=there, engines=engines, request=asked, arrays=index
                )
            with link.understood():
                measured = _measurements(answer["measurements"], len(paths))
        return _named(measured, files)

    def measure(self, work: Work[R], subject: Subject, progress: Progress | None = None) -> R:
        """Return what a piece of work says that it does there; raises DeviceError, with what it said before."""
        link = self._agent(subject.engines)
        there = [self._sent(link, path, engine) for path, engine in zip(subject.paths, subject.engines, strict=False)]
        index, body = _feeds(subject.inputs, len(there))
        heard = _Heard(progress)
        asked, engines = self._asked(subject.request), subject.engines[: len(there)]

        def kept(reason: str) -> tuple[R, ...]:
            with link.understood():
                result = _judged(work.result(subject, heard.parts, [f"it was broken off: {reason}"]))
            return () if result is None else (result,)

        with keeping(kept):
            with link.during("measuring"):
                told = told_of(work)
                link.ask("measure", body, heard, work=told, files=there, engines=engines, request=asked, arrays=index)
            with link.understood():
                result = _judged(work.result(subject, heard.parts))
                if result is None:
                    raise ValueError("no result")
                return result

    def interleave(self, loaded: Sequence[tuple[Runtime, Arrays]], preset: Preset) -> Samples:
        """Return the times of loaded files, run in turn."""
        runtimes = [runtime for runtime, _ in loaded if isinstance(runtime, RemoteRuntime)]
        links = {id(runtime.link): runtime.link for runtime in runtimes}
        if len(links) != 1 or len(runtimes) != len(loaded):
            raise DeviceError(f"{self.name}: files of several engines or devices are not run in turn")
        (link,) = links.values()
        index, body = _feeds([feed for _, feed in loaded], len(loaded))
        numbers = [runtime.number for runtime in runtimes]
        with link.during("measuring"):
            answer, _ = link.ask(
                "interleave", body, runtimes=numbers, preset=asdict(preset), arrays=index, cores=self.settings.cores
            )
        with link.understood():
            rows = tuple(_times(row) for row in answer["rows_ms"])
            if len(rows) != len(loaded) or not all(rows):
                raise ValueError("other numbers of samples")
            return Samples(rows, _times(answer["sentinel_ms"]), int(answer["warmup_runs"]), float(answer["duration_s"]))

    def close(self) -> None:
        """End what runs there, and the connection."""
        for link in (*self._agents.values(), *filter(None, [self._begun])):
            link.close()
        self._agents, self._begun = {}, None
        self._folders.clear()
        self.connection.close()

    def _asked(self, request: Request) -> dict[str, Any]:
        """A request as the device is asked for it: on the cores of its settings, where it names none."""
        return replace(request, cores=request.cores or self.settings.cores).to_json()

    def _first(self) -> Link:
        """The first program there, which looks and takes files."""
        if self._begun is None:
            link = Link(self.connection, self.name, self.settings.silence_s)
            try:
                link.begin(self.settings.python)
                with link.during("looking"):
                    answer, _ = link.ask("probe", cache=self.settings.cache)
                with link.understood():
                    told: Facts = typed(_plain(answer), Facts)
                    self._facts = {**told, "clock_off_s": told["time"] - time.time()}
            except BaseException:
                link.close()
                raise
            self._begun = link
        return self._begun

    def _package(self, link: Link) -> str:
        return self._tree(link, package())

    def _tree(self, link: Link, files: Sequence[Sent]) -> str:
        key = (id(link), tuple(f"{file.path} {file.sha256}" for file in files))
        if key not in self._folders:
            folder, count = send(link, files, self._told("send"))
            self.sent_bytes += count
            self._folders[key] = folder
        return self._folders[key]

    def _sent(self, link: Link, file: Path, engine: str) -> str:
        """Where a model file is there, with what belongs to it; sent now if it is not there yet."""
        parts = parts_of(file, engine)
        for part in parts:
            if not part.is_relative_to(file.parent) or ".." in part.relative_to(file.parent).parts:
                raise InvalidModel(f"{file}: its weights {part} are outside of its folder; put them beside it")
        folder = self._tree(link, [Sent.of(part, part.relative_to(file.parent).as_posix()) for part in parts])
        link.names[f"{folder}/"] = "" if file.parent == Path() else f"{file.parent}/"
        return f"{folder}/{file.name}"

    def _agent(self, engines: Iterable[str]) -> Link:
        """A program there that runs files in these engines."""
        named = frozenset(() if self.settings.python else engines)
        for there, link in self._agents.items():
            if named <= there:
                return link
        link = self._first()
        try:
            folder = self._package(link)
            python = None if self.settings.python else self._environment(link, named)
            with link.during("starting the agent"):
                link.become(package=folder, python=python, environment={VARIABLE: "1"} if large_files() else {})
        except BaseException:
            self._begun = None
            link.close()
            raise
        self._begun = None
        self._agents[named] = link
        return link

    def _environment(self, link: Link, engines: Iterable[str]) -> str:
        """The Python of the environment for these engines, made now if it is not there."""
        try:
            needed = requirements(engines, self.settings.packages)
        except DeviceError as error:
            raise DeviceError(f"{self.name}: {error}") from None
        folder = None if self.settings.wheelhouse is None else self._tree(link, wheels(self.settings.wheelhouse))
        told = self._told("install")
        told(0, 1)
        with link.during("making its environment"):
            try:
                answer, _ = link.ask(
                    "environment", requirements=needed.wanted, constraints=needed.constraints, wheels=folder
                )
            except DeviceError as error:
                raise DeviceError(f"{error}{self._hint(needed.wanted)}") from None
            with link.understood():
                python = str(answer["python"])
        told(1, 1)
        return python

    def _hint(self, wanted: Sequence[str]) -> str:
        """What to do where no environment can be made."""
        facts = self._facts
        off = abs(float(facts["clock_off_s"]))
        wrong = f"; its clock is off by {off / 86400:.0f} days, set it" if off > _CLOCK_OFF_S else ""
        libc = str(facts.get("libc")).removeprefix("glibc ").replace(".", "_")
        tag = f"manylinux_{libc}_{facts.get('machine')}" if str(facts.get("libc")).startswith("glibc") else None
        version = ".".join(str(facts.get("python")).split(".")[:2])
        fitting = f" --platform {tag} --python-version {version}" if tag else ""
        line = f"pip download --only-binary :all:{fitting} -d wheels {' '.join(wanted)}"
        return f"{wrong}; fill a wheelhouse by: {line}"

    def _told(self, what: str) -> Callable[[int, int], None]:
        def progress(done: int, total: int) -> None:
            if self._progress is not None:
                self._progress(f"{what}: {self.name}", done, total)

        return progress


class RemoteRuntime:
    """A file that is loaded on a device; see :class:`runtimes.runtime.Runtime`."""

    def __init__(
        self,
        link: Link,
        number: int,
        inputs: tuple[TensorSpec, ...],
        outputs: tuple[TensorSpec, ...],
        cores: Sequence[int | str] | None = None,
    ) -> None:
        self.link = link
        self.number = number
        self.inputs = inputs
        self.outputs = outputs
        self._cores = cores
        self._closed = False

    def run(self, inputs: Arrays) -> dict[str, Array]:
        """Return the outputs by name; raises InvalidInputs, InvalidModel or DeviceError."""
        check_inputs(self.inputs, inputs)
        return self._run("run", inputs)

    def run_samples(self, inputs: Arrays, batch: int) -> dict[str, Array]:
        """Return the outputs for N samples, run there in chunks; see `runtimes.checks.check.run_samples`."""
        total = min((len(value) for value in inputs.values()), default=0)
        sample_bytes = sum(value.nbytes for value in inputs.values()) // max(total, 1)
        step = batch * max(1, _REQUEST_BYTES // max(sample_bytes * batch, 1))
        chunks = []
        for start in range(0, total, step):
            chunk = {name: value[start : start + step] for name, value in inputs.items()}
            chunks.append(self._run("run_samples", chunk, batch=batch))
            with self.link.understood():
                if any(array.shape[:1] != (min(step, total - start),) for array in chunks[-1].values()):
                    raise ValueError("another number of samples than it was given")
        return {spec.name: np.concatenate([chunk[spec.name] for chunk in chunks]) for spec in self.outputs}

    def executed_graph(self, inputs: Arrays | None = None, runs: int = 1) -> ExecutedGraph | None:
        """Return the nodes that a run executes there; None where the engine does not tell."""
        index, body = (None, b"") if inputs is None else packed(inputs)
        with self.link.during("looking at what runs"):
            answer, _ = self.link.ask("executed", body, runtime=self.number, runs=runs, arrays=index, cores=self._cores)
        with self.link.understood():
            nodes = answer["nodes"]
            return None if nodes is None else ExecutedGraph(tuple(_node(each) for each in nodes))

    def close(self) -> None:
        """Free the memory there; may be called twice."""
        if not self._closed:
            self._closed = True
            self.link.forget("unload", runtime=self.number)

    def _run(self, what: str, inputs: Arrays, **values: Any) -> dict[str, Array]:
        index, body = packed(inputs)
        with self.link.during("running"):
            answer, data = self.link.ask(what, body, runtime=self.number, arrays=index, **values)
        with self.link.understood():
            arrays = unpacked(answer["arrays"], data)
            if {(name, str(array.dtype)) for name, array in arrays.items()} != {
                (spec.name, spec.dtype) for spec in self.outputs
            }:
                raise ValueError("other outputs than it has, or of other types")
            return arrays


class _Taken:
    """What has come of a measurement so far."""

    def __init__(self, progress: Progress | None) -> None:
        self._progress = progress
        self._begun: tuple[Measurement, ...] = ()
        self._rows: list[list[float]] = []
        self._guards: list[float] = []
        self._began_s = 0.0

    def __call__(self, event: str, values: Mapping[str, Any]) -> None:
        _tell(self._progress, event, values)
        if event == "began":
            self._begun = _measurements(values["measurements"], None, whole=False)
            self._rows, self._began_s = [[] for _ in self._begun], time.monotonic()
        elif event == "took":
            for row, fresh in zip(self._rows, values["rows_ms"], strict=True):
                row.extend(_times(fresh))
            self._guards.extend(_times(values["sentinel_ms"]))
            if sum(map(len, self._rows)) > _MOST_SAMPLES:
                raise ValueError("too many samples")

    def measurements(self, reason: str) -> tuple[Measurement, ...]:
        """What was taken, marked as not to be trusted."""
        return broken_off(self._begun, self._rows, self._guards, time.monotonic() - self._began_s, reason)


class _Heard:
    """The parts that a piece of work has told so far."""

    def __init__(self, progress: Progress | None) -> None:
        self._progress = progress
        self.parts: list[Part] = []

    def __call__(self, event: str, values: Mapping[str, Any]) -> None:
        _tell(self._progress, event, values)
        if event == "part":
            if len(self.parts) == _MOST_PARTS or not isinstance(values["part"], dict):
                raise ValueError("too many parts, or one that is none")
            self.parts.append(_plain(values["part"]))


def _tell(progress: Progress | None, event: str, values: Mapping[str, Any]) -> None:
    """Tell how far a device is, where that is what an event says."""
    if event == "progress" and progress is not None:
        note = printable(str(values["note"]))[:80]
        progress(printable(str(values["task"]))[:40], int(values["done"]), int(values["total"]), note)


def _judged(result: T) -> T:
    """What a device said of a piece of work, held to its types; no time in it is below zero."""
    if result is not None:
        told = typed(result).to_json()  # type: ignore[attr-defined]
        json.dumps(told)
        _require_times(told)
    return result


def _require_times(told: Any, name: str = "") -> None:
    if isinstance(told, dict):
        for key, value in told.items():
            _require_times(value, key)
    elif isinstance(told, (list, tuple)):
        for value in told:
            _require_times(value, name)
    elif name.endswith("_ms") and told is not None:
        _times([told])


def _named(measurements: Sequence[Measurement], files: Sequence[Path | str]) -> tuple[Measurement, ...]:
    return tuple(replace(each, file=str(file)) for each, file in zip(measurements, files, strict=False))


def _measurements(told: Any, count: int | None, whole: bool = True) -> tuple[Measurement, ...]:
    measured = tuple(typed(Measurement.from_json(_plain(each))) for each in told)
    if count is not None and len(measured) != count:
        raise ValueError("another number of measurements")
    for each in measured:
        _times(each.samples_ms)
        _times(each.sentinel_ms)
        if whole:
            json.dumps(each.to_json())
            if not each.samples_ms:
                raise ValueError("a measurement without samples")
    return measured


def _times(values: Any) -> tuple[float, ...]:
    times = tuple(float(value) for value in values)
    if not all(math.isfinite(value) and value >= 0 for value in times):
        raise ValueError("a time that is none")
    return times


def _specs(told: Any) -> tuple[TensorSpec, ...]:
    specs = []
    for each in told:
        shape = tuple(None if length is None else int(length) for length in each["shape"])
        scale = None if each["scale"] is None else float(each["scale"])
        spec = TensorSpec(each["name"], shape, each["dtype"], scale, int(each["zero_point"]))
        if np.dtype(spec.dtype).kind not in "biuf" or any(length is not None and length < 0 for length in shape):
            raise ValueError(f"an input or an output that is none: {spec.name}")
        specs.append(typed(spec))
    return tuple(specs)


def _node(told: Any) -> Node:
    if told["kind"] not in ("integer", "float", "other"):
        raise ValueError("a node of no kind")
    name, op, provider = (printable(str(told.get(key, ""))) for key in ("name", "op", "provider"))
    (duration,) = _times([told["duration_ms"]])
    return Node(name, op, told["kind"], duration, provider, told.get("fell_back") is True)


def _feeds(inputs: Arrays | Sequence[Arrays] | None, count: int) -> tuple[list[list[Any]] | None, bytes]:
    """The inputs of each file, as :mod:`runtimes.agent.operations` takes them."""
    if inputs is None:
        return None, b""
    each = [inputs] * count if isinstance(inputs, Mapping) else inputs
    return packed({f"{number}/{name}": array for number, feed in enumerate(each) for name, array in feed.items()})


def _plain(value: Any) -> Any:
    """What a device sent, without what a terminal would obey."""
    if isinstance(value, dict):
        return {printable(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return printable(value) if isinstance(value, str) else value
