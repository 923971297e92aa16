"""The processor that runs here, and which files it computes otherwise than the device that they were made for.

x86 without VNNI multiplies 8-bit integers by VPMADDUBSW, which adds two products in 16 bits and clips the sum there
(Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2). ONNX Runtime and OpenVINO use it: with weights
of 8 bits the sum can be clipped, with weights of 7 bits it fits. LiteRT, ExecuTorch and ncnn add up in 32 bits.
"""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Collection
from pathlib import Path

X86 = ("x86_64", "amd64", "x86", "i686")
VNNI = ("avx512_vnni", "avx_vnni")
"""The instruction sets with sums of four products in 32 bits, as Linux names them."""
FULL_WEIGHTS = ("ort-x86", "ort-arm", "tensorrt", "openvino")
"""Targets whose files have weights of 8 bits and are run, where they are run on a CPU, by one of these two engines."""


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


def is_exact(target: str, architecture: str | None = None, flags_: Collection[str] | None = None) -> bool:
    """Return whether a processor computes the integers of files for ``target`` as the target's own device does.

    Args:
        target: whose integers the file has.
        architecture: as ``platform.machine()`` tells it; left out, with ``flags_``, this processor.
        flags_: its instruction sets as Linux names them; None where they are not known, which counts as none.

    >>> is_exact("tensorrt", "x86_64", ["avx2"]), is_exact("ort-avx2", "x86_64", ["avx2"]), is_exact("ort-x86", "arm64")
    (False, True, True)
    """
    if architecture is None:
        architecture, flags_ = platform.machine(), flags()
        if target == "openvino" and not onednn_allows("VNNI", "BF16", "FP16", "AMX", "AVX10"):
            flags_ = ()
    if target not in FULL_WEIGHTS or architecture.lower() not in X86:
        return True
    return any(name in (flags_ or ()) for name in VNNI)


def onednn_allows(*levels: str) -> bool:
    """Return whether oneDNN, by which torch and OpenVINO multiply, may use what comes with one of these levels.

    ``ONEDNN_MAX_CPU_ISA`` names the highest that it may, as AVX512_CORE_VNNI; unset, any that the processor has.
    """
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper()
    return limit in ("", "ALL", "DEFAULT") or any(level in limit for level in levels)


def warning(target: str) -> str | None:
    """Return one line where this processor computes files for ``target`` otherwise than its own device; else None."""
    if is_exact(target):
        return None
    return (
        f"this processor has no VNNI: it clips sums of 8-bit products that the device of {target} does not, so outputs "
        "are judged with the integers evaluated in floats, and are less accurate when the file is run here"
    )
