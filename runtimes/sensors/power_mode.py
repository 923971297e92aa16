"""The power mode of a Jetson, which decides how many cores run and how fast.

Jetson Linux Developer Guide, "Power Management": ``nvpmodel`` sets a mode by its number and keeps it in
``/var/lib/nvpmodel/status``; ``/etc/nvpmodel.conf`` has the names. Unproven: no Jetson was there.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

from ..errors import InvalidInputs
from .files import ROOT, text

_MODE = re.compile(r"<\s*POWER_MODEL\s+ID=(\d+)\s+NAME=(\S+?)\s*>")
_STATUS = re.compile(r"pmode:(\d+)")


def modes(root: Path = ROOT) -> dict[int, str]:
    """Return the names of the modes that ``nvpmodel`` knows, by number; empty on machines that have none."""
    return {int(number): name for number, name in _MODE.findall(text(root / "etc/nvpmodel.conf") or "")}


def mode(root: Path = ROOT) -> int | None:
    """Return the number of the mode that is set; None where the system does not tell."""
    hit = _STATUS.search(text(root / "var/lib/nvpmodel/status") or "")
    return None if hit is None else int(hit[1])


def mode_name(root: Path = ROOT) -> str | None:
    """Return the name of the mode that is set, or its number where it has none; None where the system does not tell."""
    number = mode(root)
    return None if number is None else modes(root).get(number, str(number))


def numbered_mode(wanted: str, root: Path = ROOT) -> int:
    """Return the number of a mode that is named, or numbered.

    Raises:
        InvalidInputs: there is no such mode, or there are none.
    """
    known = modes(root)
    if not known:
        raise InvalidInputs(f"power mode {wanted}: this machine has none (no /etc/nvpmodel.conf); leave it out")
    for number, name in known.items():
        if wanted in (str(number), name):
            return number
    choices = ", ".join(f"{number} ({name})" for number, name in known.items())
    raise InvalidInputs(f"power mode {wanted}: expected one of {choices}")


def set_mode(number: int) -> None:
    """Set a mode by ``nvpmodel``.

    Raises:
        InvalidInputs: it cannot be set: there is no nvpmodel, it wants root, or the mode wants a restart.
    """
    tool = shutil.which("nvpmodel")
    if tool is None:
        raise InvalidInputs(f"power mode {number}: nvpmodel is not found; leave it out")
    try:
        done = subprocess.run(
            [tool, "-m", str(number)],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30, check=False,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError) as error:
        raise InvalidInputs(f"power mode {number}: nvpmodel failed ({error})") from error
    if done.returncode != 0:
        said = " ".join((done.stderr or done.stdout).split())[:200]
        raise InvalidInputs(f"power mode {number}: nvpmodel refuses it ({said or 'no reason'}); it may want root")
