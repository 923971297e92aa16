"""Power: rails that a machine tells of, and the energy that work takes on one of them.

- ina3221 of Jetson boards and other monitors (Documentation/hwmon/sysfs-interface.rst): ``in*_label``, ``in*_input`` in
  mV and ``curr*_input`` in mA; ``power*_input`` or ``power*_average`` in uW; ``energy*_input`` in uJ.
- RAPL of x86 (Documentation/power/powercap/powercap.rst): ``intel-rapl:*/{name,energy_uj,max_energy_range_uj}``, a
  counter that begins again after its range. Root alone reads it.
- A battery that is discharged (Documentation/ABI/testing/sysfs-class-power): ``current_now`` in uA, ``voltage_now`` in
  uV.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Literal

from ..errors import InvalidInputs
from .files import ROOT, number, numbered, text

EVERY_S = 0.02
"""Between two readings of a rail that tells watts."""

WHOLE = ("VDD_IN", "POM_5V_IN", "VDD_5V_IN", "SYS_VIN", "psys", "package-0")
"""Names of rails that have most of a machine on them, the widest first."""

_AS_ASKED = "battery"


@dataclass(frozen=True)
class Rail:
    """A place where power is measured.

    Args:
        name: as the board calls it ("VDD_IN"), or of the monitor.
        source: the file that is read.
        kind: ``watts`` is power at a moment, ``joules`` a counter.
        read: the value now; None where it cannot be read.
        wraps_j: where a counter begins again; 0 where it does not.
    """

    name: str
    source: str
    kind: Literal["watts", "joules"]
    read: Callable[[], float | None] = field(compare=False)
    wraps_j: float = 0.0


@dataclass(frozen=True)
class Energy:
    """What a file's runs took on a rail.

    Args:
        rail: its name.
        source: the file that was read.
        joules: of all the runs, with what the machine takes at rest.
        seconds: that they took.
        runs: their number.
        idle_watts: of the machine at rest, just before; None where that was not measured.
    """

    rail: str
    source: str
    joules: float
    seconds: float
    runs: int
    idle_watts: float | None = None

    @property
    def per_run_mj(self) -> float:
        """Return the millijoules of a run, with what the machine takes at rest."""
        return 1e3 * self.joules / self.runs

    @property
    def per_run_above_idle_mj(self) -> float | None:
        """Return the millijoules of a run beyond what the machine takes at rest meanwhile."""
        if self.idle_watts is None:
            return None
        return 1e3 * (self.joules - self.idle_watts * self.seconds) / self.runs


def rails(root: Path = ROOT) -> tuple[Rail, ...]:
    """Return the rails that can be read now, those with most of the machine on them first."""
    found = [*_monitors(root), *_rapl(root), *_battery(root)]
    readable = [rail for rail in found if rail.read() is not None]

    def place(rail: Rail) -> int:
        return WHOLE.index(rail.name) if rail.name in WHOLE else len(WHOLE) + (rail.name == _AS_ASKED)

    return tuple(sorted(readable, key=place))


def rail_named(name: str | None, root: Path = ROOT) -> Rail:
    """Return the rail of that name; for None the one that has most of the machine on it.

    Raises:
        InvalidInputs: there is none.
    """
    known = rails(root)
    if not known:
        raise InvalidInputs(
            "energy: this machine tells of no power rail that may be read "
            "(hwmon, powercap which wants root, a battery); leave energy out"
        )
    chosen = known[0] if name is None else next((rail for rail in known if rail.name == name), None)
    if chosen is None:
        raise InvalidInputs(f"power rail {name!r}: expected one of {', '.join(rail.name for rail in known)}")
    return chosen


class Meter:
    """Joules on a rail while something runs: a counter's difference, or watts read in a thread and added up."""

    def __init__(self, rail: Rail, every_s: float = EVERY_S) -> None:
        self._rail = rail
        self._every_s = every_s
        self._told: list[tuple[float, float]] = []
        self.joules = 0.0
        self.seconds = 0.0

    @contextmanager
    def measuring(self) -> Iterator[None]:
        """Within: something runs; afterwards `joules` and `seconds` are what it took.

        Raises:
            InvalidInputs: the rail cannot be read any more.
        """
        done = threading.Event()
        reader = threading.Thread(target=self._follow, args=(done,), daemon=True)
        self._told = []
        self._look()
        reader.start()
        try:
            yield
        finally:
            done.set()
            reader.join()
            self._look()
        if len(self._told) < 2:
            raise InvalidInputs(f"power rail {self._rail.name}: {self._rail.source} cannot be read any more")
        self.seconds = self._told[-1][0] - self._told[0][0]
        self.joules = counted(self._told, self._rail.wraps_j) if self._rail.kind == "joules" else integrated(self._told)

    def _look(self) -> None:
        value = self._rail.read()
        if value is not None:
            self._told.append((time.perf_counter(), value))

    def _follow(self, done: threading.Event) -> None:
        # A counter is looked at too, so that it cannot begin again twice in between; once a second is enough for that.
        every_s = self._every_s if self._rail.kind == "watts" else 1.0
        while not done.wait(every_s):
            self._look()


def integrated(told: Sequence[tuple[float, float]]) -> float:
    """Return the joules of (second, watts) readings, straight lines between them.

    >>> integrated([(0.0, 2.0), (1.0, 4.0), (3.0, 4.0)])
    11.0
    """
    return sum((later - earlier) * (first + last) / 2 for (earlier, first), (later, last) in pairwise(told))


def counted(told: Sequence[tuple[float, float]], wraps_j: float) -> float:
    """Return the joules of (second, counter) readings; a counter that fell has begun again.

    >>> counted([(0.0, 90.0), (1.0, 5.0), (2.0, 6.0)], wraps_j=100.0)
    16.0
    """
    steps = (last[1] - first[1] for first, last in pairwise(told))
    return sum(step if step >= 0 else step + wraps_j for step in steps)


def _monitors(root: Path) -> Iterator[Rail]:
    for monitor in numbered(root / "sys/class/hwmon", "hwmon*"):
        name = text(monitor / "name") or monitor.name
        for current in numbered(monitor, "curr*_input"):
            channel = current.name.removeprefix("curr").removesuffix("_input")
            volts = monitor / f"in{channel}_input"
            label = text(monitor / f"in{channel}_label") or text(monitor / f"curr{channel}_label")
            if volts.exists() and label != "sum of shunt voltages":
                yield Rail(label or f"{name} {channel}", str(current), "watts", _product(volts, current, 1e-6))
        for pattern in ("power*_input", "power*_average"):
            for file in numbered(monitor, pattern):
                yield Rail(_label(monitor, name, file), str(file), "watts", _reader(file, 1e-6))
        for file in numbered(monitor, "energy*_input"):
            yield Rail(_label(monitor, name, file), str(file), "joules", _reader(file, 1e-6))


def _rapl(root: Path) -> Iterator[Rail]:
    for zone in numbered(root / "sys/class/powercap", "*-rapl:*"):
        name, wraps = text(zone / "name"), number(zone / "max_energy_range_uj", 1e-6)
        if name is not None and wraps is not None:
            yield Rail(name, str(zone / "energy_uj"), "joules", _reader(zone / "energy_uj", 1e-6), wraps)


def _battery(root: Path) -> Iterator[Rail]:
    for supply in numbered(root / "sys/class/power_supply", "*"):
        current = supply / "current_now"
        if text(supply / "type") == "Battery" and text(supply / "status") == "Discharging":
            yield Rail(_AS_ASKED, str(current), "watts", _product(supply / "voltage_now", current, 1e-12))


def _label(monitor: Path, name: str, file: Path) -> str:
    channel = file.name.rpartition("_")[0]
    return text(monitor / f"{channel}_label") or f"{name} {channel}"


def _reader(file: Path, unit: float) -> Callable[[], float | None]:
    return lambda: number(file, unit)


def _product(volts: Path, current: Path, unit: float) -> Callable[[], float | None]:
    def read() -> float | None:
        first, second = number(volts), number(current)
        return None if first is None or second is None else abs(first * second) * unit

    return read
