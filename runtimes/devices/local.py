"""The machine that this runs on, as a device."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from .. import processor
from ..measure.benchmark import benchmark
from ..measure.loop import Progress, Samples, interleave, sentinel
from ..measure.measurement import Measurement
from ..measure.modes.work import Work, done_here
from ..measure.presets import Preset
from ..measure.request import Request
from ..measure.subject import Subject
from ..runtime import Arrays, Options, Runtime, engine_named, existing
from ..sensors.conditions import Conditions, conditions
from .device import LOCAL, Need, R


class LocalDevice:
    """This machine; see :class:`runtimes.devices.device.Device`."""

    name = LOCAL

    def conditions(self) -> Conditions:
        """Return the facts about this machine at this moment."""
        return conditions()

    def is_exact(self, target: str) -> bool:
        """Return whether this processor computes files for ``target`` as the target's own device does."""
        return processor.is_exact(target)

    def require(self, request: Request, needs: Sequence[Need] = (), outputs_of: Sequence[str] = ()) -> None:
        """What this machine has not is told by what asks it."""

    def tells_outputs(self, engine: str) -> bool:
        """Return True: files are run by this package."""
        return True

    def version(self, engine: str) -> str:
        """Return the version of an engine; raises EngineMissing."""
        return engine_named(engine).version()

    def load(self, file: Path, engine: str, options: Options) -> Runtime:
        """Return a loaded file; raises InvalidModel or EngineMissing."""
        return engine_named(engine).load(existing(file), options)

    def benchmark(
        self,
        files: Sequence[Path | str],
        request: Request,
        *,
        engine: Sequence[str | None],
        inputs: Arrays | Sequence[Arrays] | None = None,
        progress: Progress | None = None,
    ) -> tuple[Measurement, ...]:
        """Return a measurement for each file."""
        return benchmark(files, request, engine=engine, inputs=inputs, progress=progress)

    def measure(self, work: Work[R], subject: Subject, progress: Progress | None = None) -> R:
        """Return what a piece of work says of this machine."""
        return done_here(work, subject, progress)

    def interleave(self, loaded: Sequence[tuple[Runtime, Arrays]], preset: Preset) -> Samples:
        """Return the times of loaded files, run in turn."""
        with _resting():
            return interleave([_work(runtime, feed) for runtime, feed in loaded], preset, sentinel())

    def close(self) -> None:
        """Nothing is open."""


def _work(runtime: Runtime, feed: Arrays) -> Callable[[], object]:
    run = runtime.run
    return lambda: run(feed)


@contextmanager
def _resting() -> Iterator[None]:
    """Python's garbage collector leaves what is there alone: going through a network's objects takes longer than the
    measuring.
    """
    ours = gc.get_freeze_count() == 0
    if ours:
        gc.freeze()
    try:
        yield
    finally:
        if ours:
            gc.unfreeze()
