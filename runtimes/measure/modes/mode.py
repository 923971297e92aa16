"""Modes: kinds of measurements, each of which goes on any device in the same way."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

from ...devices.device import Device
from ...errors import DeviceError, Interrupted
from ..loop import Progress
from ..subject import Subject


class Result(Protocol):
    """What was measured of a file, or of several."""

    def to_json(self) -> dict[str, Any]:
        """Return a mapping of plain values."""
        ...


class Mode(Protocol):
    """A kind of measurement.

    ``NAME`` is its key in JSON, ``TITLE`` its name for people; ``IN_PYTHON`` says that this package must be where files
    run.
    """

    NAME: ClassVar[str]
    TITLE: ClassVar[str]
    IN_PYTHON: ClassVar[bool]

    def require(self, device: Device, subject: Subject) -> None:
        """Raise RuntimesError where a file or the device cannot be measured so; quick."""
        ...

    def results(self, device: Device, subject: Subject, progress: Progress | None = None) -> Iterator[Result]:
        """Measure, one result after the other.

        Raises:
            DeviceError, Interrupted: the device was lost, or the user wants no more; ``measurements`` of it are results
                of what was taken since the last one.
        """
        ...


@dataclass
class ModeResults:
    """What was measured on a device, as far as it came.

    Args:
        device: its name.
        modes: in order, each with its results.
    """

    device: str
    modes: list[tuple[Mode, list[Result]]] = field(default_factory=list)

    def measure(
        self, modes: Sequence[Mode], device: Device, subject: Subject, progress: Progress | None = None
    ) -> None:
        """Measure in these modes, one after the other; what was measured before an error is kept."""
        for mode in modes:
            results: list[Result] = []
            self.modes.append((mode, results))
            try:
                for result in mode.results(device, subject, progress):
                    results.append(result)  # noqa: PERF402 - those before an error are kept
            except (DeviceError, Interrupted) as error:
                results.extend(error.measurements)
                raise

    def to_json(self) -> dict[str, Any]:
        """Return a mapping of plain values: the device, and a list of results for each mode by its name."""
        return {"device": self.device, **{mode.NAME: [each.to_json() for each in of] for mode, of in self.modes}}
