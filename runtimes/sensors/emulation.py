"""Whether this process runs on an emulated processor, whose times say nothing of the processor that it imitates.

An emulator of single programs (QEMU's user mode, FEX, box64) is itself a program of the machine below, and answers
``uname`` and ``/proc/self/exe`` in place of the kernel. The kernel says otherwise in two places: its own machine in
``/proc/sys/kernel/arch`` (Linux 6.1, admin-guide/sysctl/kernel), and the file that it executes in
``/proc/self/task/ID/exe`` (proc_pid_exe(5)), whose ELF header has the machine that it is for (elf(5), ``e_machine``).
An emulator of whole machines shows only by the name of its processor.
"""

from __future__ import annotations

import os
import platform
import re
import threading
from pathlib import Path

from .files import ROOT, text

VARIABLE = "EDGEPRESS_EMULATED"
"""Set to 1, it says that the processor is emulated, to 0 that it is not, where that cannot be seen."""

_FAMILIES = {
    "x86": re.compile(r"x86_64|amd64|i[3-6]86"),
    "arm": re.compile(r"aarch64(_be)?|arm64|arm(v\d+\w*)?"),
    "riscv": re.compile(r"riscv(32|64)?"),
}
"""Machines as ``uname -m`` names them; processors of a family run programs of all its machines by themselves."""

_ELF_MACHINES = {3: "x86", 62: "x86", 40: "arm", 183: "arm", 243: "riscv"}
"""EM_386, EM_X86_64, EM_ARM, EM_AARCH64 and EM_RISCV of <elf.h>."""

_WHOLE_MACHINES = ("QEMU TCG", "QEMU Virtual CPU")


def is_emulated(root: Path = ROOT, architecture: str | None = None) -> bool:
    """Return whether the processor is emulated, as far as that shows.

    Args:
        architecture: as ``platform.machine()`` tells it, which is the default.
    """
    said = os.environ.get(VARIABLE, "")
    if said in ("0", "1"):
        return said == "1"
    own = _family(architecture or platform.machine())
    below = (_family(text(root / "proc/sys/kernel/arch") or ""), _executed_family(root))
    if own is not None and any(family not in (None, own) for family in below):
        return True
    cpuinfo = text(root / "proc/cpuinfo") or ""
    return any(name in cpuinfo for name in _WHOLE_MACHINES)


def executed(root: Path = ROOT) -> Path:
    """Return where the kernel has the file that it executes for this thread, whatever that one imitates."""
    return root / f"proc/self/task/{threading.get_native_id()}/exe"


def _family(machine: str) -> str | None:
    """The family of a machine; None where it is not known here."""
    return next((name for name, words in _FAMILIES.items() if words.fullmatch(machine.lower())), None)


def _executed_family(root: Path) -> str | None:
    """The family that the file is for which the kernel executes for this thread; None where that cannot be read."""
    try:
        with executed(root).open("rb") as opened:
            header = opened.read(20)
    except OSError:
        return None
    if len(header) < 20 or header[:4] != b"\x7fELF":
        return None
    return _ELF_MACHINES.get(int.from_bytes(header[18:20], "big" if header[5] == 2 else "little"))
