"""This machine: what it is, the state it is in, and pinning to its cores. What the system does not tell is None."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from ..errors import InvalidInputs

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


def conditions(root: Path = Path("/")) -> Conditions:
    """Return the facts about this machine at this moment; ``root`` is where ``proc`` and ``sys`` are.

    >>> conditions().python.count(".") >= 2
    True
    """
    cpuinfo = _text(root / "proc/cpuinfo") or ""
    affinity = _affinity()
    cpufreq = root / f"sys/devices/system/cpu/cpu{affinity[0] if affinity else 0}/cpufreq"
    flags = _field(cpuinfo, "flags") or _field(cpuinfo, "Features")
    clock = _number(cpufreq / "scaling_cur_freq", 1e-3)
    reported = _field(cpuinfo, "cpu MHz")
    if clock is None and reported is not None:
        clock = float(reported)
    return Conditions(
        cpu=_field(cpuinfo, "model name"),
        board=_text(root / "proc/device-tree/model"),
        architecture=platform.machine(),
        isa=None if flags is None else tuple(name for name in _ISA if name in flags.split()),
        cores=os.cpu_count(),
        affinity=affinity,
        governor=_text(cpufreq / "scaling_governor"),
        clock_mhz=clock,
        max_clock_mhz=_number(cpufreq / "cpuinfo_max_freq", 1e-3),
        temperatures_c=_temperatures(root / "sys/class/thermal"),
        throttled=_throttled(),
        load_average=_load_average(),
        os=platform.platform(),
        python=platform.python_version(),
    )


@contextmanager
def pinned(cores: Sequence[int] | None) -> Iterator[None]:
    """Keep this thread, and the threads that it starts, on ``cores`` for the duration; None leaves them free.

    Raises:
        InvalidInputs: this process may not use these cores, or the system cannot pin.
    """
    if cores is None:
        yield
        return
    if not hasattr(os, "sched_setaffinity"):
        raise InvalidInputs(f"cores {list(cores)}: {platform.system()} cannot pin a process to cores; leave them out")
    before = os.sched_getaffinity(0)
    if not cores or not set(cores) <= before:
        raise InvalidInputs(f"cores {list(cores)}: expected some of {sorted(before)}, which this process may use")
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _text(file: Path) -> str | None:
    try:
        return file.read_text(encoding="utf-8", errors="replace").strip(" \n\0") or None
    except OSError:
        return None


def _number(file: Path, unit: float) -> float | None:
    text = _text(file)
    with suppress(ValueError):
        return None if text is None else float(text) * unit
    return None


def _field(cpuinfo: str, name: str) -> str | None:
    hit = re.search(rf"^{re.escape(name)}\s*:\s*(\S.*)$", cpuinfo, re.MULTILINE)
    return None if hit is None else hit[1].strip()


def _affinity() -> tuple[int, ...] | None:
    return tuple(sorted(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else None


def _temperatures(folder: Path) -> dict[str, float] | None:
    found: dict[str, float] = {}
    for zone in sorted(folder.glob("thermal_zone*")):
        celsius = _number(zone / "temp", 1e-3)
        if celsius is not None:
            name = _text(zone / "type") or zone.name
            found[name if name not in found else f"{name} {zone.name}"] = celsius
    return found or None


def _load_average() -> tuple[float, float, float] | None:
    try:
        return os.getloadavg()
    except (AttributeError, OSError):
        return None


def _throttled() -> int | None:
    tool = shutil.which("vcgencmd")
    if tool is None:
        return None
    try:
        told = subprocess.run([tool, "get_throttled"], capture_output=True, text=True, timeout=5, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    hit = re.fullmatch(r"throttled=0x([0-9a-fA-F]+)", told.strip())
    return None if hit is None else int(hit[1], 16)
