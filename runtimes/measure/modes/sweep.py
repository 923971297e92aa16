"""A file measured over batch sizes, and over numbers of threads and choices of cores."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from ...devices.device import Device
from ...errors import DeviceError, Interrupted, InvalidInputs
from ...runtime import MOST_THREADS, Arrays, random_inputs
from ...sensors.cores import require_words, resolved
from ..loop import Progress
from ..measurement import Measurement
from ..request import Request
from ..subject import Subject

MOST_BATCH = 2**16


@dataclass(frozen=True)
class SweepPoint:
    """What was measured at one point of a sweep.

    Args:
        batch: samples of a run.
        cores: as they were named; None where none were: the process was free, or on cores of the device's settings.
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


@dataclass(frozen=True)
class BatchSweep:
    """Measure a file over batch sizes, all run in turn in one loop.

    Args:
        batches: sizes; the first sample of the inputs is repeated.

    Raises:
        InvalidInputs: a size is none.
    """

    NAME: ClassVar[str] = "batches"
    TITLE: ClassVar[str] = "batches"
    IN_PYTHON: ClassVar[bool] = False

    batches: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.batches or not all(1 <= batch <= MOST_BATCH for batch in self.batches):
            told = ", ".join(map(str, self.batches)) or "none"
            raise InvalidInputs(f"batches: expected sizes of 1 to {MOST_BATCH}, got {told}")

    def require(self, device: Device, subject: Subject) -> None:
        """Raise InvalidInputs where a file's batch is fixed."""
        for file in subject.each():
            self._sample(device, file)

    def results(self, device: Device, subject: Subject, progress: Progress | None = None) -> Iterator[SweepPoint]:
        """Measure each file; see :class:`runtimes.measure.modes.mode.Mode`."""
        for file in subject.each():
            sample = self._sample(device, file)
            feeds = tuple(
                {name: np.repeat(value[:1], batch, axis=0) for name, value in sample.items()} for batch in self.batches
            )
            count = len(self.batches)
            each = replace(
                file, names=file.names * count, paths=file.paths * count, engines=file.engines * count, inputs=feeds
            )
            points = [(batch, file.request.threads, _words(file.request.cores)) for batch in self.batches]
            yield from _points(points, device, each, progress)

    def _sample(self, device: Device, file: Subject) -> Arrays:
        """What one file is run on."""
        runtime = device.load(file.paths[0], file.engines[0], file.request.options)
        try:
            fixed = [spec for spec in runtime.inputs if not spec.shape or spec.shape[0] is not None]
            if fixed and set(self.batches) != {1}:
                raise InvalidInputs(f"{file.names[0]}: input {fixed[0]} has a fixed batch; export it with an open one")
            return random_inputs(runtime.inputs, file.request.seed) if file.inputs is None else file.inputs[0]
        finally:
            runtime.close()


@dataclass(frozen=True)
class CoresSweep:
    """Measure a file with each number of threads on each choice of cores, one after the other.

    They cannot be run in turn, since a process is pinned as a whole; peak memory is measured once, at the first.

    Args:
        threads: numbers; empty for that of the request.
        cores: each as ``Request.cores`` has them, joined by ``+``: ``0``, ``0-3``, ``big``, ``little+big``; empty for
            those of the request.

    Raises:
        InvalidInputs: there are no threads, or words that name no cores.
    """

    NAME: ClassVar[str] = "sweeps"
    TITLE: ClassVar[str] = "threads and cores"
    IN_PYTHON: ClassVar[bool] = False

    threads: tuple[int, ...] = ()
    cores: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.threads and not self.cores:
            raise InvalidInputs("sweep: expected one number of threads, or one choice of cores, at least")
        if not all(1 <= count <= MOST_THREADS for count in self.threads):
            raise InvalidInputs(f"threads: expected 1 to {MOST_THREADS}, got {', '.join(map(str, self.threads))}")
        for choice in self.cores:
            require_words(choice.split("+"))

    def require(self, device: Device, subject: Subject) -> None:
        """Raise InvalidInputs where the device has not these cores."""
        if self.cores:
            here = device.conditions()
            for choice in self.cores:
                try:
                    resolved(choice.split("+"), here.affinity or range(here.cores or 1), here.clusters)
                except InvalidInputs as error:
                    raise InvalidInputs(f"{device.name}: {error}") from None

    def results(self, device: Device, subject: Subject, progress: Progress | None = None) -> Iterator[SweepPoint]:
        """Measure each file; see :class:`runtimes.measure.modes.mode.Mode`."""
        for file in subject.each():
            for number, request in enumerate(self._requests(file.request)):
                here = replace(file, request=replace(request, memory=request.memory and not number))
                point = (_batch(file.inputs), request.threads, _words(request.cores))
                yield from _points([point], device, here, progress)

    def _requests(self, request: Request) -> Iterator[Request]:
        choices: list[tuple[int | str, ...] | None] = [tuple(choice.split("+")) for choice in self.cores]
        for cores in choices or [request.cores]:
            for threads in self.threads or (request.threads,):
                yield replace(request, cores=cores, threads=threads)


def _points(
    points: Sequence[tuple[int, int, str | None]], device: Device, subject: Subject, progress: Progress | None
) -> tuple[SweepPoint, ...]:
    """The points that a device measures in one loop: batch, threads and cores of each."""

    def made(measurements: Sequence[Measurement]) -> tuple[SweepPoint, ...]:
        named = zip(points, subject.names, measurements, strict=False)
        return tuple(SweepPoint(*point, replace(measured, file=name)) for point, name, measured in named)

    try:
        return made(
            device.benchmark(
                subject.paths, subject.request, engine=subject.engines, inputs=subject.inputs, progress=progress
            )
        )
    except (DeviceError, Interrupted) as error:
        error.measurements = made(error.measurements)
        raise


def _batch(inputs: Sequence[Arrays] | None) -> int:
    return 1 if not inputs else max(len(value) for value in inputs[0].values() if value.ndim)


def _words(cores: Sequence[int | str] | None) -> str | None:
    return None if cores is None else "+".join(map(str, cores))
