"""Debian for ARM in a folder, and wheels for it: made by apt and pip, beside the packages of this machine.

Only what Python itself comes with is imported: ``tests.versions`` runs before anything is installed.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ARCHITECTURE = "aarch64"
EMULATORS = ("qemu-aarch64-static", "qemu-aarch64")
_OLDEST_GLIBC, _DEBIAN_11 = 17, 31


class Failed(Exception):
    """A command ended with an error: its last lines."""


def emulator() -> Path | None:
    """The program that runs those for ARM here, where there is one: the one without libraries, if there are both."""
    places = (shutil.which(name) for name in EMULATORS)
    return next((Path(place) for place in places if place is not None), None)


def missing() -> tuple[str, ...]:
    """What this machine lacks to make such a system and to run its programs."""
    tools = {"apt-get": ("apt-get", "--version"), "dpkg-deb": ("dpkg-deb", "--version")}
    lacking = [name for name, command in tools.items() if not works(command)]
    return tuple(lacking if emulator() is not None else [*lacking, "qemu-user-static"])


def platforms() -> tuple[str, ...]:
    """Wheels that such a system can load, as pip calls their platforms: its glibc is that of this machine."""
    name, version = platform.libc_ver()
    newest = int(version.partition(".")[2] or _DEBIAN_11) if name == "glibc" else _DEBIAN_11
    minors = range(newest, _OLDEST_GLIBC - 1, -1)
    return (*(f"manylinux_2_{minor}_{ARCHITECTURE}" for minor in minors), f"manylinux2014_{ARCHITECTURE}")


def debian(system: Path, packages: Sequence[str]) -> None:
    """Unpack packages for ARM, and all that these depend on, of the Debian that this machine takes its own from.

    Nothing is configured: the scripts of packages do not run.

    Raises:
        Failed: apt cannot fetch them.
    """
    state = system / "apt"
    for name in ("lists/partial", "cache/archives/partial"):
        (state / name).mkdir(parents=True)
    (state / "status").touch()
    places = {
        "APT::Architecture": "arm64",
        "APT::Architectures": "arm64",
        "APT::Sandbox::User": "root",
        "Dir::State::lists": state / "lists",
        "Dir::State::status": state / "status",
        "Dir::Cache": state / "cache",
    }
    apt = ["apt-get", "-qq", *(text for key, value in places.items() for text in ("-o", f"{key}={value}"))]
    run([*apt, "update"], system)
    run([*apt, "--yes", "--no-install-recommends", "--download-only", "install", *packages], system)
    for package in sorted((state / "cache/archives").glob("*.deb")):
        run(["dpkg-deb", "-x", str(package), str(system)], system)
    shutil.rmtree(state)


def python_of(system: Path) -> Path:
    """The Python of a system, as ``usr/bin/python3.11``."""
    return next(path for path in sorted((system / "usr/bin").glob("python3.*")) if "-" not in path.name)


def wheels(command: Sequence[str], version: str, folder: Path) -> None:
    """Run a command of pip (as ``install --target X numpy``) here, for ARM and the Python of ``version``.

    Raises:
        Failed: pip does not find them.
    """
    wanted = [option for name in platforms() for option in ("--platform", name)]
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *command]
    run([*pip, "--only-binary=:all:", "--python-version", version, *wanted], folder)


def works(command: Sequence[str]) -> bool:
    """Whether a command is there and ends without an error."""
    if shutil.which(command[0]) is None:
        return False
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def run(command: Sequence[str], folder: Path) -> str:
    """What a command prints that runs in ``folder``, without what would show it the packages of this process.

    Raises:
        Failed: it ended with an error.
    """
    hidden = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        last = " / ".join((done.stderr.strip() or done.stdout.strip()).splitlines()[-3:])
        raise Failed(f"{' '.join(command)[-200:]} ended with {done.returncode}: {last[-600:]}")
    return done.stdout
