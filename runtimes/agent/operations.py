"""What an agent does when it is asked: the functions of this package that are called on a machine itself."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..checks.check import run_samples
from ..errors import InvalidInputs
from ..measure.benchmark import benchmark
from ..measure.loop import interleave, sentinel
from ..measure.measurement import Measurement
from ..measure.modes.works import work_of
from ..measure.presets import preset_of
from ..measure.request import Request
from ..measure.subject import Subject
from ..runtime import Arrays, Options, Runtime, engine_named
from ..sensors.conditions import conditions
from ..sensors.cores import pinned
from .arrays import packed, unpacked
from .serve import Answer, Call, Handler

STREAMED_S = 0.5
"""Samples that were taken are sent so often while a loop runs."""


class Operations:
    """The files that are loaded, by number, and what can be asked of them."""

    def __init__(self) -> None:
        self._loaded: dict[int, Runtime] = {}
        self._number = 0

    def handlers(self) -> dict[str, Handler]:
        """Return what answers each request."""
        own: Sequence[Callable[[Call], Answer]] = (
            *(self.conditions, self.version, self.load, self.run, self.run_samples, self.executed, self.unload),
            *(self.benchmark, self.measure, self.interleave),
        )
        return {each.__name__: each for each in own}

    def conditions(self, call: Call) -> Answer:
        """Say the facts about this machine at this moment."""
        return asdict(conditions())

    def version(self, call: Call) -> Answer:
        """Say the version of an engine."""
        return {"version": engine_named(call.values["engine"]).version()}

    def load(self, call: Call) -> Answer:
        """Load a file; answer with its number, its inputs and its outputs."""
        values = call.values
        runtime = engine_named(values["engine"]).load(Path(values["file"]), Options(**values["options"]))
        self._number += 1
        self._loaded[self._number] = runtime
        inputs, outputs = ([asdict(spec) for spec in specs] for specs in (runtime.inputs, runtime.outputs))
        return {"runtime": self._number, "inputs": inputs, "outputs": outputs}

    def run(self, call: Call) -> Answer:
        """Run a loaded file once."""
        return _with_arrays(self._runtime(call.values["runtime"]).run(_arrays(call)))

    def run_samples(self, call: Call) -> Answer:
        """Run a loaded file on samples, in chunks that its batch allows."""
        return _with_arrays(run_samples(self._runtime(call.values["runtime"]), _arrays(call), call.values["batch"]))

    def executed(self, call: Call) -> Answer:
        """Say what a loaded file executes; ``inputs`` are random where none are given."""
        inputs = _arrays(call) if call.values["arrays"] is not None else None
        with pinned(call.values["cores"]):
            graph = self._runtime(call.values["runtime"]).executed_graph(inputs, runs=call.values["runs"])
        return {"nodes": None if graph is None else [asdict(node) for node in graph.nodes]}

    def unload(self, call: Call) -> Answer:
        """Free the memory of a loaded file."""
        runtime = self._loaded.pop(call.values["runtime"], None)
        if runtime is not None:
            runtime.close()
        return {}

    def benchmark(self, call: Call) -> Answer:
        """Measure files; what has been taken so far is sent meanwhile."""
        measurements = benchmark(
            [Path(file) for file in call.values["files"]],
            Request.from_json(call.values["request"]),
            engine=call.values["engines"],
            inputs=_feeds(call, len(call.values["files"])),
            progress=_progress(call),
            listener=_Listener(call),
        )
        return {"measurements": [plain(each) for each in measurements]}

    def measure(self, call: Call) -> Answer:
        """Do a piece of work; each part of what it says is sent as soon as it is known."""
        values = call.values
        feeds, request = _feeds(call, len(values["files"])), Request.from_json(values["request"])
        subject = Subject.of(values["files"], request, engines=values["engines"], inputs=feeds)
        with closing(work_of(values["work"]).parts(subject, _progress(call))) as parts:
            for part in parts:
                call.event("part", part=part)
        return {}

    def interleave(self, call: Call) -> Answer:
        """Time runs of loaded files in turn, and nothing else."""
        values, feeds = call.values, _feeds(call, len(call.values["runtimes"])) or []
        works = [_work(self._runtime(number), feed) for number, feed in zip(values["runtimes"], feeds, strict=True)]
        with pinned(values["cores"]):
            samples = interleave(works, preset_of(values["preset"]), sentinel(), _progress(call))
        return asdict(samples)

    def close(self) -> None:
        """Free all."""
        for runtime in self._loaded.values():
            runtime.close()
        self._loaded.clear()

    def _runtime(self, number: int) -> Runtime:
        runtime = self._loaded.get(number)
        if runtime is None:
            raise InvalidInputs("the file is not loaded")
        return runtime


def plain(measurement: Measurement) -> dict[str, Any]:
    """Return the fields of a measurement, as JSON holds them; figures are computed where it arrives."""
    return asdict(measurement)


class _Listener:
    """Sends what a loop takes, in parts."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self._sent: list[int] = []
        self._guards = 0
        self._told_s = 0.0

    def began(self, measurements: Sequence[Measurement]) -> None:
        """Tell all that is known before the first sample."""
        self._sent = [0] * len(measurements)
        self._call.event("began", measurements=[plain(each) for each in measurements])

    def took(self, rows_ms: Sequence[Sequence[float]], sentinel_ms: Sequence[float]) -> None:
        """Tell the samples that have come since the last time, unless that was a moment ago."""
        now = time.monotonic()
        if now - self._told_s < STREAMED_S:
            return
        self._told_s = now
        fresh = [list(row[sent:]) for row, sent in zip(rows_ms, self._sent, strict=True)]
        self._call.event("took", rows_ms=fresh, sentinel_ms=list(sentinel_ms[self._guards :]))
        self._sent, self._guards = [len(row) for row in rows_ms], len(sentinel_ms)


def _progress(call: Call) -> Callable[..., None]:
    told: list[tuple[str, int, str]] = [("", -1, "")]

    def progress(task: str, done: int, total: int, note: str = "") -> None:
        if told[0] != (task, done, note):
            told[0] = (task, done, note)
            call.event("progress", task=task, done=done, total=total, note=note)

    return progress


def _arrays(call: Call) -> Arrays:
    return unpacked(call.values["arrays"], call.body)


def _with_arrays(arrays: Mapping[str, Any]) -> Answer:
    index, body = packed(arrays)
    return {"arrays": index}, body


def _feeds(call: Call, count: int) -> list[Arrays] | None:
    """The inputs of each file: their names begin with the file's number."""
    if call.values["arrays"] is None:
        return None
    feeds: list[dict[str, Any]] = [{} for _ in range(count)]
    for name, array in _arrays(call).items():
        number, _, own = name.partition("/")
        feeds[int(number)][own] = array
    return [dict(feed) for feed in feeds]


def _work(runtime: Runtime, feed: Arrays) -> Callable[[], object]:
    run = runtime.run
    return lambda: run(feed)
