"""Prove the versions that ``pyproject.toml`` allows: ``python -m tests.versions`` or ``make versions``.

For each Python of 3.11, 3.12 and 3.13 on this machine (by its name on PATH, of pyenv, or of uv), edgepress is installed
into fresh virtual environments, with the oldest torch and ONNX Runtime that it allows and with the newest; there a
network of the zoo is quantized, exported to ONNX and checked by the command, and checked again by ``runtimes`` alone.
For ARM, ``runtimes`` checks the same network in a container or under qemu, where there is one, with the newest ONNX
Runtime that runs there. What was not found is said and not proved.

An environment is several GB with the torch of PyPI, and takes minutes; there is one at a time, in a temporary folder
that goes with it. The exit code is 1 where something failed.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.support import arm_system
from tests.support.arm_system import Failed, run, works

ROOT = Path(__file__).resolve().parents[1]
PYTHONS = ("3.11", "3.12", "3.13")
BOUNDED = ("torch", "onnxruntime")
AGES = ("oldest", "newest")
PACKAGES = ("compress", "export", "runtimes", "models")
SAMPLES = (
    "import numpy as np; np.savez('x.npz', x_calib=np.random.default_rng(0).normal(size=(8, 3, 32, 32)).astype('f'))"
)
COMMANDS = (
    "compress quantize resnet20:width=4 --data x.npz --keep-slower -q -o int8",
    "compress export int8 --format onnx -q -o files",
    "compress check files",
    "compress export int8 --format onnx --target ort-arm -q -o arm",
    "python -m runtimes check files",
)
DEBIANS = ("python3-minimal", "libpython3-stdlib", "libstdc++6", "libgomp1")
"""What a system of Debian for ARM needs to run Python and ONNX Runtime, but for what these depend on."""


@dataclass(frozen=True)
class Outcome:
    """What became of one combination, in words."""

    what: str
    passed: bool | None
    detail: str

    def __str__(self) -> str:
        return f"{self.what:32} {({True: 'passed', False: 'FAILED', None: 'not proved'})[self.passed]}: {self.detail}"


def main() -> int:
    """Run what was asked for; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", nargs="+", default=PYTHONS, metavar="X.Y")
    parser.add_argument("--age", nargs="+", choices=AGES, default=AGES)
    parser.add_argument("--no-arm", action="store_true", help="leave ARM out")
    asked = parser.parse_args()
    found: list[Outcome] = []
    with tempfile.TemporaryDirectory(prefix="versions-") as name:
        folder = Path(name)
        for outcome in _outcomes(folder, asked.python, asked.age, not asked.no_arm):
            print(outcome, flush=True)
            found.append(outcome)
    return int(any(outcome.passed is False for outcome in found))


def _outcomes(folder: Path, pythons: Sequence[str], ages: Sequence[str], arm: bool) -> Iterator[Outcome]:
    files: Path | None = None
    for version in pythons:
        python = find(version)
        if python is None:
            yield Outcome(f"Python {version}", None, "not found on this machine")
            continue
        for age in ages:
            outcome, made = smoke(folder, python, version, age)
            files = made or files
            yield outcome
    if arm and files is not None:
        yield on_arm(folder, files)
    elif arm:
        yield Outcome("ARM", None, "there is no exported folder to check")


def find(version: str) -> str | None:
    """A Python of this version that runs here: of PATH, of pyenv, or of uv (which may fetch one)."""
    root = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    candidates = [f"python{version}", *map(str, sorted(root.glob(f"versions/{version}.*/bin/python")))]
    if shutil.which("uv"):
        told = subprocess.run(["uv", "python", "find", version], capture_output=True, text=True, check=False)
        candidates += [told.stdout.strip()] if told.returncode == 0 else []
    for candidate in filter(shutil.which, candidates):
        asked = "import sys, venv, ensurepip; print('%d.%d' % sys.version_info[:2])"
        told = subprocess.run([candidate, "-c", asked], capture_output=True, text=True, check=False)
        if told.stdout.strip() == version:
            return candidate
    return None


def requirements(age: str) -> list[str]:
    """The packages of :data:`BOUNDED`: at the bound that ``pyproject.toml`` names, or as new as there is.

    >>> requirements("newest")
    ['torch', 'onnxruntime']
    """
    if age == "newest":
        return list(BOUNDED)
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    bounds = {name: bound for name, _, bound in (text.partition(">=") for text in wanted)}
    return [f"{name}=={bounds[name]}" for name in BOUNDED]


def smoke(folder: Path, python: str, version: str, age: str) -> tuple[Outcome, Path | None]:
    """Install and try edgepress in an environment that is removed afterwards; returns what it exported for ARM too."""
    what, start = f"Python {version}, {age} engines", time.monotonic()
    environment, work = folder / "environment", folder / f"{version}-{age}"
    work.mkdir()
    binaries = environment / ("Scripts" if os.name == "nt" else "bin")
    try:
        run([python, "-m", "venv", str(environment)], folder)
        pip = [str(binaries / "python"), "-m", "pip", "--quiet", "--disable-pip-version-check"]
        run([*pip, "install", str(_wheel(folder, pip)), *requirements(age)], folder)
        run([str(binaries / "python"), "-c", SAMPLES], work)
        for command in COMMANDS:
            program, *arguments = command.split()
            run([str(binaries / program), *arguments], work)
        shown = "import torch, onnxruntime; print('torch', torch.__version__, 'onnxruntime', onnxruntime.__version__)"
        versions = run([str(binaries / "python"), "-c", shown], work).strip()
        return Outcome(what, True, f"{versions}, {time.monotonic() - start:.0f} s"), work / "arm"
    except Failed as error:
        return Outcome(what, False, str(error)), None
    finally:
        shutil.rmtree(environment, ignore_errors=True)


def _wheel(folder: Path, pip: Sequence[str]) -> Path:
    """edgepress as it is installed by others, built from a copy, so that nothing is left in the checkout."""
    built = sorted((folder / "wheel").glob("*.whl"))
    if not built:
        source = folder / "source"
        for package in PACKAGES:
            shutil.copytree(ROOT / package, source / package, ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("pyproject.toml", "README.md", "LICENSE"):
            shutil.copy(ROOT / name, source / name)
        run([*pip, "wheel", "--no-deps", "--wheel-dir", str(folder / "wheel"), str(source)], folder)
        built = sorted((folder / "wheel").glob("*.whl"))
    return built[0]


def on_arm(folder: Path, files: Path) -> Outcome:
    """``runtimes`` alone on ARM, by a container or by qemu, over an exported folder."""
    work = folder / "on-arm"
    work.mkdir()
    shutil.copytree(ROOT / "runtimes", work / "runtimes", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(files, work / "files")
    try:
        if works(["docker", "info"]):
            check = "pip install -q numpy onnxruntime && python -m runtimes check files"
            image = ["-v", f"{work}:/work", "-w", "/work", "python:3.12-slim", "sh", "-c", check]
            run(["docker", "run", "--rm", "--platform", "linux/arm64", *image], work)
            return Outcome("ARM", True, "runtimes in a container for linux/arm64")
        emulator, lacking = arm_system.emulator(), arm_system.missing()
        if emulator is None or lacking:
            return Outcome("ARM", None, f"needs docker with linux/arm64, or {', '.join(lacking)}")
        system = folder / "arm-system"
        arm_system.debian(system, DEBIANS)
        return _emulated(emulator, system, work)
    except Failed as error:
        return Outcome("ARM", False, str(error))


def _emulated(emulator: Path, system: Path, work: Path) -> Outcome:
    """With the newest ONNX Runtime, or the oldest where that does not run in the emulator."""
    python = arm_system.python_of(system)
    refused = ""
    for age in reversed(AGES):
        packages = work / age
        wanted = ["install", "--target", str(packages), "numpy", requirements(age)[-1]]
        arm_system.wheels(wanted, python.name.removeprefix("python"), work)
        settings = {"PYTHONPATH": f"{work}:{packages}", "PYTHONHOME": f"{system}/usr"}
        variables = [text for name, value in settings.items() for text in ("-E", f"{name}={value}")]
        check = [str(emulator), "-L", str(system), *variables, str(python), "-m", "runtimes", "check", "files"]
        version = next(packages.glob("onnxruntime-*.dist-info")).name.removesuffix(".dist-info")
        try:
            run(check, work)
        except Failed as error:
            refused += f"; {version} fails there ({str(error)[-120:].strip()})"
        else:
            return Outcome("ARM", True, f"runtimes, {python.name}, {version} under {emulator.name}{refused}")
    return Outcome("ARM", False, refused.removeprefix("; "))


if __name__ == "__main__":
    sys.exit(main())
