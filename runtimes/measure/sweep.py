"""A file measured over batch sizes, and over numbers of threads and choices of cores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InvalidInputs
from ..runtime import Arrays, load, random_inputs
from .benchmark import benchmark
from .loop import Progress
from .measurement import Measurement
from .request import Request

MOST_BATCH = 2**16


@dataclass(frozen=True)
class SweepPoint:
    """What was measured at one point of a sweep.

    Args:
        batch: samples of a run.
        cores: as they were named; None where the process was free.
    """

    batch: int
    threads: int
    cores: str | None
    measurement: Measurement

    @property
    def samples_per_s(self) -> float:
        """Return how many samples a second are run, by the median."""
        return 1e3 * self.batch / self.measurement.p50_ms

    def to_json(self) -> dict[str, Any]:
        """Return a mapping of plain values."""
        point = {"batch": self.batch, "threads": self.threads, "cores": self.cores, "samples_per_s": self.samples_per_s}
        return point | {"measurement": self.measurement.to_json()}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> SweepPoint:
        """Return what `to_json` gave."""
        measurement = Measurement.from_json(stored["measurement"])
        return cls(stored["batch"], stored["threads"], stored["cores"], measurement)


def batch_sweep(
    file: Path | str,
    batches: Sequence[int],
    request: Request | None = None,
    *,
    engine: str | None = None,
    inputs: Arrays | None = None,
    progress: Progress | None = None,
) -> tuple[SweepPoint, ...]:
    """Return a point for each batch size, all run in turn in one loop.

    Args:
        inputs: the first sample of each is repeated; random without any.

    Raises:
        InvalidInputs: a batch is none, or the file's is fixed; and as :func:`runtimes.measure.benchmark.benchmark`.
    """
    if not batches or not all(1 <= batch <= MOST_BATCH for batch in batches):
        raise InvalidInputs(
            f"batches: expected sizes of 1 to {MOST_BATCH}, got {', '.join(map(str, batches)) or 'none'}"
        )
    asked = request or Request()
    runtime = load(file, engine, asked.options)
    try:
        fixed = [spec for spec in runtime.inputs if not spec.shape or spec.shape[0] is not None]
        if fixed and set(batches) != {1}:
            raise InvalidInputs(f"{file}: input {fixed[0]} has a fixed batch; export it with an open one")
        sample = random_inputs(runtime.inputs, asked.seed) if inputs is None else inputs
    finally:
        runtime.close()
    feeds = [{name: np.repeat(value[:1], batch, axis=0) for name, value in sample.items()} for batch in batches]
    measured = benchmark([file] * len(batches), asked, engine=engine, inputs=feeds, progress=progress)
    cores = _words(asked.cores)
    return tuple(SweepPoint(batch, asked.threads, cores, each) for batch, each in zip(batches, measured, strict=True))


def threads_sweep(
    file: Path | str,
    threads: Sequence[int],
    cores: Sequence[str | None] = (None,),
    request: Request | None = None,
    *,
    engine: str | None = None,
    inputs: Arrays | None = None,
    progress: Progress | None = None,
) -> tuple[SweepPoint, ...]:
    """Return a point for each number of threads on each choice of cores, one after the other.

    They cannot be run in turn, since a process is pinned as a whole; peak memory is measured once, at the first.

    Args:
        cores: each as ``Request.cores`` has them, joined by ``+``: ``0``, ``0-3``, ``big``, ``little+big``; None leaves
            the process free.
    """
    if not threads or not cores:
        raise InvalidInputs("sweep: expected one number of threads, and one choice of cores, at least")
    asked = request or Request()
    points: list[SweepPoint] = []
    for choice in cores:
        for count in threads:
            chosen = None if choice is None else tuple(choice.split("+"))
            here = replace(asked, threads=count, cores=chosen, memory=asked.memory and not points)
            (measured,) = benchmark([file], here, engine=engine, inputs=inputs, progress=progress)
            points.append(SweepPoint(_batch(inputs), count, choice, measured))
    return tuple(points)


def _batch(inputs: Arrays | None) -> int:
    return 1 if not inputs else max(len(value) for value in inputs.values() if value.ndim)


def _words(cores: Sequence[int | str] | None) -> str | None:
    return None if cores is None else "+".join(map(str, cores))
