"""Whether this process runs on an emulated processor, whose times say nothing of the processor that it imitates."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path

from .files import ROOT, text

VARIABLE = "EDGEPRESS_EMULATED"
"""Set to 1, it says that the processor is emulated, to 0 that it is not, where that cannot be seen."""

_X86_ONLY = ("proc/mtrr", "sys/devices/system/cpu/cpu0/microcode")


def is_emulated(root: Path = ROOT, architecture: str | None = None) -> bool:
    """Return whether the processor is emulated, as far as that shows.

    QEMU's user mode translates paths below ``/proc/self`` but not those of its threads, where its own name stands. A
    kernel of x86 below a process of another architecture shows too, as do processors that QEMU calls its own.

    Args:
        architecture: as ``platform.machine()`` tells it, which is the default.
    """
    told = os.environ.get(VARIABLE, "")
    if told in ("0", "1"):
        return told == "1"
    try:
        if (root / "proc/thread-self/exe").readlink().name.startswith("qemu-"):
            return True
    except OSError:
        pass
    name = (architecture or platform.machine()).lower()
    if re.fullmatch(r"x86_64|amd64|i[3-6]86", name):
        return "QEMU TCG" in (text(root / "proc/cpuinfo") or "") or "QEMU Virtual CPU" in (
            text(root / "proc/cpuinfo") or ""
        )
    return any((root / file).exists() for file in _X86_ONLY)
