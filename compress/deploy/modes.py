"""Beyond the latency of warm runs: files under load for minutes, started cold, over batches, threads and cores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field
from torch import Tensor

from ..core.settings import setting
from ..siblings import runtimes
from ..stage import Config, Progress, silent
from .deployed import Deployed


class Modes(Config):
    """What is measured besides, on this machine."""

    HEADING = "Modes"

    minutes: float | None = setting(
        None, "Run the files in turn for so long without a rest, and tell how they slow down.", gt=0, le=1440
    )
    cold_starts: int | None = setting(
        None, "Start so many fresh processes, and tell how long each takes to the first result.", ge=1, le=1000
    )
    batches: tuple[Annotated[int, Field(ge=1, le=2**16)], ...] = setting(
        (), "Measure batches of these sizes too, in turn.", max_length=64
    )
    sweep_threads: tuple[Annotated[int, Field(ge=1, le=1024)], ...] = setting(
        (), "Measure with each of these numbers of threads too.", max_length=64
    )
    sweep_cores: tuple[str, ...] = setting(
        (), "Measure them on each of these choices of cores: 0, 0-3, big, little+big.", max_length=64
    )

    @property
    def wanted(self) -> bool:
        """Whether anything is asked for."""
        return bool(self.minutes or self.cold_starts or self.batches or self.sweep_threads or self.sweep_cores)


@dataclass(frozen=True)
class ModeResults:
    """What was measured; empty where it was not asked for. Sweeps are by the name of the file.

    Args:
        sustained: of all files together.
        cold_starts: of each.
    """

    sustained: runtimes.measure.sustained.Sustained | None
    cold_starts: tuple[runtimes.measure.cold_start.ColdStart, ...]
    batches: dict[str, tuple[runtimes.measure.sweep.SweepPoint, ...]]
    sweeps: dict[str, tuple[runtimes.measure.sweep.SweepPoint, ...]]

    def to_json(self) -> dict[str, Any]:
        """A mapping of plain values, with what was measured alone."""
        told: dict[str, Any] = {}
        if self.sustained is not None:
            told["sustained"] = self.sustained.to_json()
        if self.cold_starts:
            told["cold_starts"] = [each.to_json() for each in self.cold_starts]
        for name, points in (("batches", self.batches), ("sweeps", self.sweeps)):
            if points:
                told[name] = {file: [each.to_json() for each in row] for file, row in points.items()}
        return told


def measure_modes(
    files: Sequence[Deployed],
    modes: Modes,
    request: runtimes.measure.request.Request,
    *,
    inputs: tuple[Tensor, ...] | None = None,
    progress: Progress = silent,
) -> ModeResults:
    """What ``modes`` ask for, one after the other.

    Args:
        request: how each is measured; its preset is that of every point of a sweep.
        inputs: of the networks; random where they are left out.

    Raises:
        InvalidInputs: a file does not take what is asked for, or the machine lacks it.
    """
    feeds = [None if inputs is None else _feed(file, inputs, request) for file in files]
    each = list(zip(files, feeds, strict=True))
    measure = runtimes.measure
    sustained = None
    if modes.minutes:
        engines = [file.engine for file in files]
        arrays = None if inputs is None else [feed for feed in feeds if feed is not None]
        paths = [file.path for file in files]
        sustained = measure.sustained.sustained(
            paths, modes.minutes, request, engine=engines, inputs=arrays, progress=progress
        )
    cold = tuple(
        measure.cold_start.cold_start(
            file.path, modes.cold_starts, request, engine=file.engine, inputs=feed, progress=progress
        )
        for file, feed in each
        if modes.cold_starts
    )
    batches = {
        file.name: measure.sweep.batch_sweep(
            file.path, modes.batches, request, engine=file.engine, inputs=feed, progress=progress
        )
        for file, feed in each
        if modes.batches
    }
    threads = modes.sweep_threads or (request.threads,)
    sweeps = {
        file.name: measure.sweep.threads_sweep(
            file.path,
            threads,
            modes.sweep_cores or (None,),
            request,
            engine=file.engine,
            inputs=feed,
            progress=progress,
        )
        for file, feed in each
        if modes.sweep_threads or modes.sweep_cores
    }
    return ModeResults(sustained, cold, batches, sweeps)


def _feed(
    file: Deployed, inputs: tuple[Tensor, ...], request: runtimes.measure.request.Request
) -> runtimes.runtime.Arrays:
    engine = runtimes.runtime.load(file.path, file.engine, request.options)
    try:
        return runtimes.bound.feed(engine, file.binding, [x.numpy() for x in inputs])
    finally:
        engine.close()
