"""Copies of the project's packages, for tests that put files of users among them."""

from __future__ import annotations

import shutil
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("compress", "export", "runtimes", "models")


def copy_packages(folder: Path, *names: str) -> None:
    """Copy ``names`` of the project, by default its packages, to ``folder``.

    What Python compiled comes along, as it holds for files of the same time of change; what another process is just
    compiling does not.
    """
    for name in names or PACKAGES:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("*.pyc.*"))
