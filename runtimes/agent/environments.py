"""Virtual environments on a device, by what is in them: numpy and engines at exact versions, from wheels alone.

Only what Python itself comes with is used.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .store import Refused, Store

READY = "ready.json"


def facts() -> dict[str, Any]:
    """Return what decides which wheels fit here, and whether environments can be made."""
    libc, version = platform.libc_ver()
    return {
        "python": platform.python_version(),
        "implementation": platform.python_implementation(),
        "executable": sys.executable,
        "system": sys.platform,
        "machine": platform.machine(),
        "libc": f"{libc} {version}".strip(),
        "platform": sysconfig.get_platform(),
        "venv": importlib.util.find_spec("venv") is not None,
        "pip": _how_pip() is not None,
    }


def environment(store: Store, requirements: Sequence[str], constraints: Sequence[str], wheels: Path | None) -> Path:
    """Return the Python of the environment with these requirements, made now if it is not there.

    Args:
        requirements: as pip takes them.
        constraints: exact versions of these and of what they need.
        wheels: a folder to take everything from; left out, the index of this device's pip.

    Raises:
        Refused: it cannot be made; says what is missing.
    """
    told = json.dumps(
        [list(requirements), list(constraints), wheels.name if wheels else None, sys.version, platform.machine()]
    )
    name = hashlib.sha256(told.encode()).hexdigest()
    folder = store.folder / "environments" / name
    python = folder / "bin" / "python"
    if _is_ready(folder, python):
        return python
    with store.alone(name):
        if _is_ready(folder, python):  # another one made it meanwhile
            return python
        shutil.rmtree(folder, ignore_errors=True)
        try:
            _make(folder)
            _install(store, python, requirements, constraints, wheels)
            ready = {"requirements": list(requirements), "python": platform.python_version()}
            written = folder / f"{READY}.partial"
            written.write_text(json.dumps(ready), encoding="utf-8")
            written.rename(folder / READY)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
    return python


def _is_ready(folder: Path, python: Path) -> bool:
    return (folder / READY).is_file() and python.exists()


def _make(folder: Path) -> None:
    if importlib.util.find_spec("venv") is None:
        raise Refused("environment", "its Python has no venv; install it there (Debian: sudo apt install python3-venv)")
    done = _ran([sys.executable, "-m", "venv", "--without-pip", str(folder)])
    if done.returncode:
        raise Refused("environment", f"no virtual environment can be made there: {_last(done)}")


def _how_pip() -> str | None:
    """How pip comes into an environment: from this Python's own, or from what Python is shipped with."""
    if importlib.util.find_spec("pip") is not None:
        return "pip"
    return "ensurepip" if importlib.util.find_spec("ensurepip") is not None else None


def _install(
    store: Store, python: Path, requirements: Sequence[str], constraints: Sequence[str], wheels: Path | None
) -> None:
    command = [str(python), "-m", "pip"]
    how = _how_pip()
    if how == "ensurepip":
        done = _ran([str(python), "-m", "ensurepip", "--default-pip"])
        if done.returncode:
            raise Refused("environment", f"pip cannot be set up there: {_last(done)}")
    elif how == "pip":
        command = [sys.executable, "-m", "pip", "--python", str(python)]
    else:
        raise Refused(
            "environment", "its Python has no pip; install it there (Debian: sudo apt install python3-pip python3-venv)"
        )
    pins = store.temporary("constraints.txt")
    others = [line for line in constraints if line not in requirements]  # of the same version twice, pip says less
    pins.write_text("".join(f"{line}\n" for line in others), encoding="utf-8")
    space = store.temporary("pip")
    space.mkdir(exist_ok=True)
    source = ["--no-index", "--find-links", str(wheels)] if wheels is not None else []
    options = [*source, "--constraint", str(pins), "--only-binary", ":all:", "--no-cache-dir", "--no-input"]
    try:
        words = [*command, "install", "--disable-pip-version-check", "--progress-bar", "off", *options, *requirements]
        done = _ran(words, space, alone=wheels is not None)
    finally:
        shutil.rmtree(space, ignore_errors=True)
        pins.unlink(missing_ok=True)
    if done.returncode:
        raise Refused(*_why(done, requirements, wheels))


def _why(done: subprocess.CompletedProcess[str], requirements: Sequence[str], wheels: Path | None) -> tuple[str, str]:
    said = done.stderr + done.stdout
    wanted = re.search(r"(?:No matching distribution found for|available for your environment:)\s+(\S+)", said)
    if "No space left on device" in said or "Disk quota exceeded" in said:
        return "disk full", "No space left on device"
    if wanted is not None:
        origin = "in the wheelhouse" if wheels is not None else "at the index of its pip"
        return "wheel", f"no wheel of {wanted[1]} {origin} fits it"
    conflict = re.search(r"Cannot install (.+?) because", said)
    if conflict is not None:
        lacking = re.search(r"requested \(constraint\) (\S+)", said)
        what = f"{conflict[1]} with {lacking[1]}" if lacking is not None else conflict[1]
        return "wheel", f"wheels of {what[:200]} are not all there, or do not fit together"
    if re.search(r"Temporary failure in name resolution|NewConnectionError|Network is unreachable|timed out", said):
        return "network", f"its pip does not reach an index for {', '.join(requirements)}"
    return "environment", f"pip fails there: {_last(done)}"


def _ran(command: Sequence[str], space: Path | None = None, alone: bool = False) -> subprocess.CompletedProcess[str]:
    own = {"PIP_CONSTRAINT", "PIP_REQUIRE_VIRTUALENV", "PIP_TARGET", "PIP_USER", "PYTHONPATH", "PYTHONHOME"}
    environment_ = {name: value for name, value in os.environ.items() if name not in own}
    if alone:  # from a wheelhouse: no index and no folder that this device's pip knows
        environment_ = {name: value for name, value in environment_.items() if not name.startswith("PIP_")}
        environment_["PIP_CONFIG_FILE"] = os.devnull
    if space is not None:
        environment_["TMPDIR"] = str(space)
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        errors="replace",
        env=environment_,
        stdin=subprocess.DEVNULL,
        check=False,
    )


def _last(done: subprocess.CompletedProcess[str]) -> str:
    lines = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR")]
    return (errors or lines or [f"exit status {done.returncode}"])[-1][:300]
