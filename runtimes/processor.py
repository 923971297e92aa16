"""The processor that runs here, and which files it computes otherwise than the device that they were made for.

x86 without VNNI multiplies 8-bit integers by VPMADDUBSW, which adds two products in 16 bits and clips the sum there
(Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2). ONNX Runtime and OpenVINO use it: with weights
of 8 bits the sum can be clipped, with weights of 7 bits it fits. LiteRT, ExecuTorch and ncnn add up in 32 bits. Which
targets this concerns is a fact of each (`runtimes.facts.TargetFacts.needs_vnni`).
"""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Collection
from pathlib import Path

from .facts import targets

X86 = ("x86_64", "amd64", "x86", "i686")
VNNI = ("avx512_vnni", "avx_vnni")
"""The instruction sets with sums of four products in 32 bits, as Linux names them."""
ARM = ("aarch64", "arm64")


def flags(cpuinfo: Path = Path("/proc/cpuinfo")) -> tuple[str, ...] | None:
    """Return the instruction sets of this processor as Linux names them; None where the system does not tell."""
    try:
        text = cpuinfo.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    hit = re.search(r"^(?:flags|Features)\s*:\s*(\S.*)$", text, re.MULTILINE)
    return None if hit is None else tuple(hit[1].split())


def dot_products(flags_: Collection[str] | None = None) -> str | None:
    """Return the instruction set that sums products of 8-bit integers in 32 bits, as Linux names it; None without one.

    With it, a network in integers runs some three times as fast as in floats; without it, hardly faster.

    Args:
        flags_: the instruction sets of a processor; left out, of this one.

    >>> dot_products(["avx2", "avx512_vnni"]), dot_products(["asimd", "asimddp"]), dot_products(["avx2"])
    ('avx512_vnni', 'asimddp', None)
    """
    present = flags() if flags_ is None else flags_
    return next((name for name in (*VNNI, "asimddp") if name in (present or ())), None)


def kinds(architecture: str, flags_: Collection[str] | None) -> tuple[str, ...]:
    """Return what a processor counts as, the narrowest first; what `runtimes.facts.TargetFacts.suits` names.

    Args:
        architecture: as ``platform.machine()`` tells it.
        flags_: its instruction sets as Linux names them; None where they are not known, which counts as none.

    >>> kinds("x86_64", ["avx2", "avx_vnni"]), kinds("aarch64", None), kinds("riscv64", None)
    (('x86-vnni', 'x86', 'any'), ('arm64', 'any'), ('any',))
    """
    if architecture.lower() in ARM:
        return ("arm64", "any")
    if architecture.lower() not in X86:
        return ("any",)
    return ("x86-vnni", "x86", "any") if any(name in (flags_ or ()) for name in VNNI) else ("x86", "any")


def described(architecture: str, flags_: Collection[str] | None) -> str:
    """Return in words what `kinds` went by.

    >>> described("AMD64", None)
    'amd64, and the system does not tell whether with VNNI'
    """
    name = architecture.lower()
    if name not in X86:
        return name or "unknown processor"
    if flags_ is None:
        return f"{name}, and the system does not tell whether with VNNI"
    present = [each for each in VNNI if each in flags_]
    return f"{name} with {present[0]}" if present else f"{name} without VNNI"


def is_exact(target: str, architecture: str | None = None, flags_: Collection[str] | None = None) -> bool:
    """Return whether a processor computes the integers of files for ``target`` as the target's own device does.

    Args:
        target: whose integers the file has; one that is not known here counts as exact.
        architecture: as ``platform.machine()`` tells it; left out, with ``flags_``, this processor.
        flags_: its instruction sets as Linux names them; None where they are not known, which counts as none.

    >>> is_exact("tensorrt", "x86_64", ["avx2"]), is_exact("ort-avx2", "x86_64", ["avx2"]), is_exact("ort-x86", "arm64")
    (False, True, True)
    """
    facts = targets().get(target)
    if facts is None or not facts.needs_vnni:
        return True
    if architecture is None:
        architecture, flags_ = platform.machine(), flags()
        if facts.by_onednn and not onednn_allows("VNNI", "BF16", "FP16", "AMX", "AVX10"):
            flags_ = ()
    return "x86" not in kinds(architecture, flags_) or "x86-vnni" in kinds(architecture, flags_)


def onednn_allows(*levels: str) -> bool:
    """Return whether oneDNN, by which torch and OpenVINO multiply, may use what comes with one of these levels.

    ``ONEDNN_MAX_CPU_ISA`` names the highest that it may, as AVX512_CORE_VNNI; unset, any that the processor has.
    """
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper()
    return limit in ("", "ALL", "DEFAULT") or any(level in limit for level in levels)


def warning(target: str) -> str | None:
    """Return one line where this processor computes files for ``target`` otherwise than its own device; else None."""
    return None if is_exact(target) else clipping(target)


def clipping(target: str) -> str:
    """Return one line on a processor that computes files for ``target`` otherwise than its own device."""
    return (
        f"this processor has no VNNI: it clips sums of 8-bit products that the device of {target} does not, so outputs "
        "are judged with the integers evaluated in floats, and are less accurate when the file is run here"
    )
