"""Modules of this package in processes of their own, whatever name it was imported here under."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def module_named(file: str) -> str:
    """Return the name that a module of this package has in a process of its own, from its ``__file__``.

    >>> module_named(__file__)
    'runtimes.own_process'
    """
    return ".".join((_PACKAGE.name, *Path(file).resolve().relative_to(_PACKAGE).with_suffix("").parts))


def environment() -> dict[str, str]:
    """Return the environment of this process, in which Python finds this package."""
    paths = [str(_PACKAGE.parent), os.environ.get("PYTHONPATH", "")]
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}


def last_words(done: subprocess.CompletedProcess[str]) -> str:
    """Return the last line that a process wrote to stderr, or what it ended with."""
    return (done.stderr.strip().splitlines()[-1:] or [f"exit status {done.returncode}"])[0]
