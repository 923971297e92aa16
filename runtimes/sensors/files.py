"""Small files of the kernel (sysfs, procfs): text, numbers and lists of cores; None where there is nothing to read."""

from __future__ import annotations

import math
import re
from pathlib import Path

ROOT = Path("/")

_LONGEST = 2**16
_CORES = re.compile(r"\d{1,5}(-\d{1,5})?")


def text(file: Path) -> str | None:
    """Return what a file holds, without spaces and null bytes around it; None where it cannot be read or is empty."""
    try:
        with file.open("rb") as opened:
            content = opened.read(_LONGEST)
    except (OSError, ValueError):  # also EAGAIN of a sensor that sleeps
        return None
    return content.decode("utf-8", "replace").strip(" \t\r\n\0") or None


def number(file: Path, unit: float = 1.0) -> float | None:
    """Return the number in a file times ``unit``; None where there is none, or where it is not finite."""
    told = text(file)
    try:
        value = float(told) if told is not None else math.nan
    except ValueError:
        return None
    return value * unit if math.isfinite(value) else None


def cores_in(words: str | None) -> tuple[int, ...] | None:
    """Return the cores of a list as the kernel writes it, in order; None where it is no such list.

    >>> cores_in("0-2,5"), cores_in("0 1 2"), cores_in("many"), cores_in("")
    ((0, 1, 2, 5), (0, 1, 2), None, None)
    """
    parts = (words or "").replace(",", " ").split()
    if not parts or not all(_CORES.fullmatch(part) for part in parts):
        return None
    cores: set[int] = set()
    for part in parts:
        first, _, last = part.partition("-")
        cores.update(range(int(first), int(last or first) + 1))
    return tuple(sorted(cores)) or None


def numbered(folder: Path, pattern: str) -> list[Path]:
    """Return the entries of a folder that match, ordered by the numbers in their names: ``zone2`` before ``zone10``."""
    try:
        found = list(folder.glob(pattern))
    except OSError:
        return []
    return sorted(found, key=lambda path: [int(part) if part.isdigit() else part for part in _split(path.name)])


def _split(name: str) -> list[str]:
    return [part for part in re.split(r"(\d+)", name) if part]
