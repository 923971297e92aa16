"""Clocks in MHz: of cores (cpufreq), of GPUs and other devices (devfreq), of a Jetson's memory controller (EMC).

Kernel, Documentation/admin-guide/pm/cpufreq.rst (kHz) and Documentation/ABI/testing/sysfs-class-devfreq (Hz). The EMC
clock is in debugfs, which root alone reads (Jetson Linux Developer Guide, "Clocks").
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from .files import ROOT, cores_in, number, numbered, text

_EMC = ("sys/kernel/debug/bpmp/debug/clk/emc/rate", "sys/kernel/debug/clk/emc/clk_rate")
_GPU = re.compile(r"gpu|ga10b|gv11b|gp10b|mali|g3d|v3d", re.IGNORECASE)


def policies(root: Path = ROOT) -> list[Path]:
    """Return the folders of cpufreq, one for each group of cores that share a clock, in order."""
    return numbered(root / "sys/devices/system/cpu/cpufreq", "policy[0-9]*")


def cores_of(policy: Path) -> tuple[int, ...]:
    """Return the cores of a policy."""
    return cores_in(text(policy / "related_cpus")) or cores_in(text(policy / "affected_cpus")) or ()


def core_mhz(core: int, root: Path = ROOT) -> float | None:
    """Return the clock of a core now; None where the system does not tell it."""
    return number(root / f"sys/devices/system/cpu/cpu{core}/cpufreq/scaling_cur_freq", 1e-3)


def device_clocks_mhz(root: Path = ROOT) -> dict[str, float]:
    """Return the clocks of the GPU (``gpu``) and of the memory controller (``emc``), as far as they are told."""
    told: dict[str, float] = {}
    for device in numbered(root / "sys/class/devfreq", "*"):
        mhz = number(device / "cur_freq", 1e-6)
        if mhz is not None and _GPU.search(device.name):
            told.setdefault("gpu", mhz)
    emc = next((mhz for mhz in (number(root / file, 1e-6) for file in _EMC) if mhz is not None), None)
    return told if emc is None else told | {"emc": emc}


def clocks_mhz(cores: Sequence[int], root: Path = ROOT) -> dict[str, float] | None:
    """Return the clock of each core that is named (``cpu0``), of the GPU and of the EMC; None where none is told."""
    told = {f"cpu{core}": mhz for core in cores if (mhz := core_mhz(core, root)) is not None}
    return (told | device_clocks_mhz(root)) or None


def are_locked(cores: Sequence[int], root: Path = ROOT) -> bool | None:
    """Return whether these cores may have one clock only, as after ``jetson_clocks``; None where it is not told."""
    limits = []
    for core in cores:
        cpufreq = root / f"sys/devices/system/cpu/cpu{core}/cpufreq"
        limits.append((number(cpufreq / "scaling_min_freq"), number(cpufreq / "scaling_max_freq")))
    if not limits or any(low is None or high is None for low, high in limits):
        return None
    return all(low == high for low, high in limits)
