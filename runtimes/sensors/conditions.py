"""This machine: what it is, and the state it is in at a moment. What the system does not tell is None."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..stored import stored_fields
from . import clocks, cores, power_mode, throttling
from .emulation import is_emulated
from .files import ROOT, number, text
from .temperatures import temperatures_c

# Instruction sets that decide how fast int8 and half precision run, as /proc/cpuinfo names them.
_ISA = (
    *("fma", "avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16"),
    *("asimd", "asimdhp", "asimddp", "i8mm", "bf16", "sve", "sve2"),
)


@dataclass(frozen=True)
class Conditions:
    """Under what conditions a measurement was taken; a fact that the system does not tell is None.

    Args:
        board: the product's name where there is a device tree ("Raspberry Pi 4 Model B Rev 1.4").
        cores: the number of logical cores.
        affinity: those that this process may run on: all, or the ones that it is pinned to.
        governor: of the first core it may run on, and so are the clocks.
        temperatures_c: by thermal zone, in degrees Celsius.
        throttled: bits of ``vcgencmd get_throttled``: 0x1 under-voltage, 0x2 clock capped, 0x4 throttled, 0x8 too hot.
        isa: the instruction sets that matter for int8 and half precision.
        clusters: the cores of each cluster, by its name; see `runtimes.sensors.cores.clusters`.
        clocks_mhz: of each core that this process may run on (``cpu0``), of the GPU (``gpu``) and of the memory
            controller (``emc``).
        clocks_locked: whether the lowest allowed clock of these cores is the highest, as after ``jetson_clocks``.
        power_mode: of a Jetson, by name.
        cooling: states of cooling devices that hold clocks back, by name; 0 is at rest.
        throttle_counts: how often clocks were held back since the system started, by counter.
        emulated: whether the processor is emulated, so that times say nothing of it.
    """

    cpu: str | None
    board: str | None
    architecture: str
    isa: tuple[str, ...] | None
    cores: int | None
    affinity: tuple[int, ...] | None
    governor: str | None
    clock_mhz: float | None
    max_clock_mhz: float | None
    temperatures_c: dict[str, float] | None
    throttled: int | None
    load_average: tuple[float, float, float] | None
    os: str
    python: str
    clusters: dict[str, tuple[int, ...]] = field(default_factory=dict)
    clocks_mhz: dict[str, float] | None = None
    clocks_locked: bool | None = None
    power_mode: str | None = None
    cooling: dict[str, int] | None = None
    throttle_counts: dict[str, int] | None = None
    emulated: bool = False

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Conditions:
        """Return the conditions that were stored as a mapping of plain values; what is not known here is left out.

        Raises:
            InvalidInputs: a field is missing that has always been there.
        """
        facts = stored_fields(cls, stored, "conditions")
        facts["clusters"] = {name: tuple(members) for name, members in (facts.get("clusters") or {}).items()}
        return cls(**facts)


def conditions(root: Path = ROOT, architecture: str | None = None) -> Conditions:
    """Return the facts about this machine at this moment.

    Args:
        root: where ``proc`` and ``sys`` are.
        architecture: as ``platform.machine()`` tells it, which is the default.

    >>> conditions().python.count(".") >= 2
    True
    """
    machine = architecture or platform.machine()
    cpuinfo = text(root / "proc/cpuinfo") or ""
    affinity = cores.allowed()
    mine = affinity or (0,)
    cpufreq = root / f"sys/devices/system/cpu/cpu{mine[0]}/cpufreq"
    flags = _field(cpuinfo, "flags") or _field(cpuinfo, "Features")
    clock = number(cpufreq / "scaling_cur_freq", 1e-3)
    return Conditions(
        cpu=_field(cpuinfo, "model name"),
        board=text(root / "proc/device-tree/model"),
        architecture=machine,
        isa=None if flags is None else tuple(name for name in _ISA if name in flags.split()),
        cores=os.cpu_count(),
        affinity=affinity,
        governor=text(cpufreq / "scaling_governor"),
        clock_mhz=_reported_mhz(cpuinfo) if clock is None else clock,
        max_clock_mhz=number(cpufreq / "cpuinfo_max_freq", 1e-3),
        temperatures_c=temperatures_c(root),
        throttled=throttling.bits(root),
        load_average=_load_average(),
        os=platform.platform(),
        python=platform.python_version(),
        clusters=cores.clusters(root),
        clocks_mhz=clocks.clocks_mhz(mine, root),
        clocks_locked=clocks.are_locked(mine, root),
        power_mode=power_mode.mode_name(root),
        cooling=throttling.cooling(root),
        throttle_counts=throttling.counters(root),
        emulated=is_emulated(root, machine),
    )


def _reported_mhz(cpuinfo: str) -> float | None:
    """The clock that x86 reports where there is no cpufreq."""
    try:
        return float(_field(cpuinfo, "cpu MHz") or "none")
    except ValueError:
        return None


def _field(cpuinfo: str, name: str) -> str | None:
    hit = re.search(rf"^{re.escape(name)}\s*:\s*(\S.*)$", cpuinfo, re.MULTILINE)
    return None if hit is None else hit[1].strip()


def _load_average() -> tuple[float, float, float] | None:
    try:
        return os.getloadavg()
    except (AttributeError, OSError):
        return None
