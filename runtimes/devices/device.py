"""A device: where files run, here or far, and what can be asked of it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

from ..errors import InvalidInputs
from ..measure.loop import Progress, Samples
from ..measure.measurement import Measurement
from ..measure.modes.work import Work
from ..measure.presets import Preset
from ..measure.request import Request
from ..measure.subject import Subject
from ..runtime import Arrays, Options, Runtime
from ..sensors.conditions import Conditions

LOCAL = "local"
"""The place of the machine that this runs on."""

R = TypeVar("R")

_VERSION = re.compile(r"[0-9][0-9A-Za-z.+!-]*")
_PACKAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class Settings:
    """How a device is used.

    Args:
        python: that runs there, used as it is; left out, an environment is made with what is needed.
        wheelhouse: a folder here of wheels to make it from; left out, the device's pip asks its index.
        packages: exact versions there, by package; those of this machine where they are left out.
        cache: a folder there to keep files in; left out, ``EDGEPRESS_CACHE`` or the user's folder for caches.
        cores: that runs are pinned to, where a request names none: numbers, ranges as ``0-3``, names of clusters.
        silence_s: a device that says nothing for so long is gone.
    """

    python: str | None = None
    wheelhouse: Path | None = None
    packages: Mapping[str, str] = field(default_factory=dict)
    cache: str | None = None
    cores: tuple[int | str, ...] | None = None
    silence_s: float = 120.0

    def __post_init__(self) -> None:
        for name, version in self.packages.items():
            if not _PACKAGE.fullmatch(name) or not _VERSION.fullmatch(version):
                raise InvalidInputs(f"packages: expected a name and an exact version, got {name[:40]}: {version[:40]}")
        for what, text in (("python", self.python), ("cache", self.cache)):
            if text is not None and (not text.strip() or any(ord(letter) < 32 for letter in text)):
                raise InvalidInputs(f"{what}: expected a path on the device, got {text[:80]!r}")


class Need(Protocol):
    """Something that may be measured: ``TITLE`` for people, and whether this package is needed where files run."""

    @property
    def TITLE(self) -> str: ...  # noqa: N802 - a constant of each mode
    @property
    def IN_PYTHON(self) -> bool: ...  # noqa: N802


class Device(Protocol):
    """Where files run. What is far is reached when it is first asked."""

    @property
    def name(self) -> str:
        """What the user calls it."""
        ...

    def conditions(self) -> Conditions:
        """Return the facts about it at this moment."""
        ...

    def is_exact(self, target: str) -> bool:
        """Return whether it computes the integers of files for ``target`` as the target's own device does."""
        ...

    def require(self, request: Request, needs: Sequence[Need] = (), outputs_of: Sequence[str] = ()) -> None:
        """Raise DeviceError where it is known that it cannot measure so; it is not reached for that.

        Args:
            needs: what is measured besides.
            outputs_of: engines whose files are to give their outputs, and not how long they take alone.
        """
        ...

    def tells_outputs(self, engine: str) -> bool:
        """Return whether files of an engine give their outputs there, or times alone; it is not reached for that."""
        ...

    def version(self, engine: str) -> str:
        """Return the version of an engine there.

        Raises:
            EngineMissing: it is not installed on this machine.
            DeviceError: the device cannot be reached, or lacks it.
        """
        ...

    def load(self, file: Path, engine: str, options: Options) -> Runtime:
        """Return a file of this machine, loaded there; raises InvalidModel, EngineMissing or DeviceError."""
        ...

    def benchmark(
        self,
        files: Sequence[Path | str],
        request: Request,
        *,
        engine: Sequence[str | None],
        inputs: Arrays | Sequence[Arrays] | None = None,
        progress: Progress | None = None,
    ) -> tuple[Measurement, ...]:
        """Return a measurement for each file; see `runtimes.measure.benchmark.benchmark`.

        Raises:
            DeviceError: the device was lost; ``measurements`` of it has what was taken until then.
        """
        ...

    def measure(self, work: Work[R], subject: Subject, progress: Progress | None = None) -> R:
        """Return what a piece of work says that it does by itself; see `runtimes.measure.modes`.

        Raises:
            DeviceError: the device was lost; ``measurements`` of it has the result of what was done until then.
        """
        ...

    def interleave(self, loaded: Sequence[tuple[Runtime, Arrays]], preset: Preset) -> Samples:
        """Return the times of files that `load` gave, on these inputs, run in turn in one loop."""
        ...

    def close(self) -> None:
        """Give back what was opened; may be called twice."""
        ...


def facts_of(device: Device) -> dict[str, Any]:
    """Return what a device is, as JSON holds it, with how many bytes of files were sent to it, where it is far."""
    facts: dict[str, Any] = json.loads(json.dumps(asdict(device.conditions())))
    sent = getattr(device, "sent_bytes", None)
    return {"name": device.name, **facts, **({} if sent is None else {"sent_bytes": sent})}
