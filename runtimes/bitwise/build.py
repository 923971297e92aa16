"""The library of the kernels: compiled where a C++ compiler is there, checked once, and kept in the user's cache.

The name of its folder is a digest of the sources, the compiler, its flags, the machine and ONNX Runtime. It is made in
a folder beside that one and renamed when it is whole and its results are right, so that of several processes any may
be the first. It is loaded only from folders that nobody else can write to, and only if it is what was made there.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import stat
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import onnxruntime as ort

from ..cache import FOLDER, folder

LIBRARY = "EDGEPRESS_BITWISE_LIBRARY"
NAME = "libedgepress_bitwise.so"
RECORD = NAME + ".sha256"
"""Beside the library: the name of its folder, and its digest."""
INSTALL = "install a C++ compiler (apt-get install g++)"
SECONDS = 300

_SOURCES = Path(__file__).parent
_COMMON = ("-std=c++17", "-O3", "-ffp-contract=off", "-fPIC", "-fvisibility=hidden", "-w")
_EVERYWHERE: dict[str, tuple[str, ...]] = {"library.cpp": (), "prepare.cpp": (), "scalar.cpp": ()}
_AVX512 = ("-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx512vpopcntdq")
_OF_MACHINE: dict[str, dict[str, tuple[str, ...]]] = {
    "x86_64": {"avx2.cpp": ("-mavx2",), "avx512.cpp": _AVX512},
    "aarch64": {"neon.cpp": ()},
    "arm64": {"neon.cpp": ()},
}


class BuildFailed(Exception):
    """There is no library: the message says in one line why, and what to do."""


def library() -> Path:
    """Return the library for this machine, compiled and checked if that has not been done before.

    Raises:
        BuildFailed: there is no compiler, it fails, what it makes does not compute what ONNX Runtime does, or others
            can write where the library is kept.
    """
    named = _named_library()
    if named is not None:
        return named
    cached = _place()
    _require_ours(cached)
    if not _is_whole(cached):
        _build(cached)
    return cached


def cached_library() -> Path | None:
    """Return the library if it is there already; nothing is compiled.

    Raises:
        BuildFailed: it could not be made, or is not loaded: there is no compiler, or others can write where it is kept.
    """
    named = _named_library()
    if named is not None:
        return named
    cached = _place()
    _require_ours(cached)
    return cached if _is_whole(cached) else None


def compiler() -> str:
    """Return the C++ compiler: that of the variable CXX, or the first that is there of c++, g++ and clang++.

    Raises:
        BuildFailed: there is none.
    """
    for name in (os.environ.get("CXX"), "c++", "g++", "clang++"):
        path = shutil.which(name) if name else None
        if path is not None:
            return path
    raise BuildFailed(f"no C++ compiler is here: {INSTALL}")


def choose(path: Path, name: str) -> str | None:
    """Return the name of the kernels that layers run with from now on, or None where these do not run here.

    ``name`` asks for some; "" takes the fastest.

    Raises:
        BuildFailed: the library cannot be loaded.
    """
    try:
        function = ctypes.CDLL(str(path)).bitwise_choose
    except (OSError, AttributeError) as error:
        raise BuildFailed(f"{path}: the library of kernels cannot be loaded ({error})") from error
    function.restype, function.argtypes = ctypes.c_char_p, [ctypes.c_char_p]
    chosen = function(name.encode())
    return None if chosen is None else chosen.decode()


def cache_folder() -> Path:
    """Return where libraries are kept: in the user's cache (:mod:`runtimes.cache`)."""
    return folder() / "bitwise"


def compiled(file: str) -> tuple[str, ...]:
    """Return the flags that a source is compiled with."""
    flags = {**_EVERYWHERE, **_OF_MACHINE.get(platform.machine(), {})}
    return (*_COMMON, *flags[file])


def _named_library() -> Path | None:
    """The library that the user names, if they do."""
    named = os.environ.get(LIBRARY)
    if not named:
        return None
    if not Path(named).is_file():
        raise BuildFailed(f"{LIBRARY} names {named}, which is no file")
    why = _why_foreign(Path(named).stat(), stat.S_IWOTH)
    if why:
        raise BuildFailed(f"{LIBRARY} names {named}, which {why}; make it yours alone (chmod go-w)")
    return Path(named)


def _require_ours(library_path: Path) -> None:
    """Raise BuildFailed if anybody else could have put there what is at ``library_path``."""
    for path, writers in (
        (library_path.parent.parent, stat.S_IWOTH),
        (library_path.parent, stat.S_IWOTH | stat.S_IWGRP),
        (library_path, stat.S_IWOTH | stat.S_IWGRP),
    ):
        try:
            status = path.lstat()
        except FileNotFoundError:
            return
        except OSError as error:
            raise _unusable(path, error) from error
        why = "is a symbolic link" if stat.S_ISLNK(status.st_mode) else _why_foreign(status, writers)
        if why:
            raise BuildFailed(
                f"{path}: {why}, so no library is loaded from there; remove it, or set {FOLDER} to a folder of your own"
            )


def _why_foreign(status: os.stat_result, writers: int) -> str:
    """Why something may be another user's work, as its owner and its mode tell; "" where it is not."""
    if hasattr(os, "getuid") and status.st_uid not in (os.getuid(), 0):
        return f"belongs to another user ({status.st_uid})"
    return "can be written to by others" if status.st_mode & writers else ""


def _unusable(path: Path, error: OSError) -> BuildFailed:
    why = error.strerror or str(error)
    return BuildFailed(
        f"{path}: the kernels cannot be compiled there ({why}); set {FOLDER} to a folder that can be written to"
    )


def _is_whole(library_path: Path) -> bool:
    """Whether the library is there as it was made."""
    try:
        return (library_path.parent / RECORD).read_text(encoding="ascii") == _record(
            library_path.parent.name, library_path
        )
    except (OSError, ValueError):
        return False


def _record(name: str, made: Path) -> str:
    return f"{name} {hashlib.sha256(made.read_bytes()).hexdigest()}\n"


def _place() -> Path:
    return cache_folder() / _digest(compiler()) / NAME


@cache
def _digest(path: str) -> str:
    version = subprocess.run([path, "--version"], capture_output=True, text=True, check=False).stdout
    facts = [RECORD, path, version, platform.machine(), ort.__version__]
    files = sorted([*_SOURCES.glob("*.cpp"), *_SOURCES.glob("*.h"), *_SOURCES.glob("*.inl"), *_SOURCES.glob("*.onnx")])
    facts += [shlex.join(compiled(name)) for name in _sources()]
    state = hashlib.sha256("\0".join(facts).encode())
    for file in files:
        state.update(file.name.encode() + b"\0" + file.read_bytes())
    return state.hexdigest()[:20]


def _sources() -> tuple[str, ...]:
    return (*_EVERYWHERE, *_OF_MACHINE.get(platform.machine(), {}))


def _build(library_path: Path) -> None:
    if sys.platform == "win32":
        raise BuildFailed("the kernels are for Linux, Android and macOS")
    import fcntl

    program = compiler()
    try:
        library_path.parent.parent.mkdir(parents=True, exist_ok=True)
        library_path.parent.mkdir(mode=0o700, exist_ok=True)
        _require_ours(library_path)
        with (library_path.parent / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # one process compiles, the others wait for what it makes
            if not _is_whole(library_path):
                _compile(program, library_path)
    except OSError as error:
        raise _unusable(library_path.parent, error) from error


def _compile(program: str, library_path: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="build-", dir=library_path.parent) as folder:
        work = Path(folder)
        objects = {source: str(work / f"{source}.o") for source in _sources()}
        with ThreadPoolExecutor() as pool:
            commands = [[program, *compiled(s), "-c", str(_SOURCES / s), "-o", o] for s, o in objects.items()]
            list(pool.map(_run, commands))
        made = work / NAME
        _run([program, "-shared", *objects.values(), "-o", str(made)])
        made.chmod(0o700)
        _check(made)
        record = work / RECORD
        record.write_text(_record(library_path.parent.name, made), encoding="ascii")
        record.replace(library_path.parent / RECORD)
        made.replace(library_path)


def _check(made: Path) -> None:
    """Run a network in a process of its own, which a wrong place in ONNX Runtime's table would end."""
    root = str(_SOURCES.parents[1])
    code = f"import sys; sys.path.insert(0, {root!r}); from runtimes.bitwise.known import main; main(sys.argv[1])"
    _run([sys.executable, "-c", code, str(made)], "the kernels do not work with this ONNX Runtime")


def _run(command: list[str], failed: str = "") -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=SECONDS)
    except subprocess.TimeoutExpired as error:
        raise BuildFailed(f"{command[0]} took more than {SECONDS} s") from error
    if done.returncode:
        lines = [line.strip() for line in done.stderr.splitlines() if "error" in line.lower()] or ["it said nothing"]
        failed = failed or f"{command[0]} cannot compile the kernels"
        raise BuildFailed(f"{failed} (exit code {done.returncode}: {lines[-1]})")
