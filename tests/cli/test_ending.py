"""How commands end: one line that a terminal does not obey, an exit code, and nothing left of what was half done."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import click
import pytest

from compress import cli
from runtimes import ending
from tests.conftest import SMALL_NET

ROOT = Path(__file__).resolve().parents[2]
COMPRESS = (sys.executable, "-c", "from compress.cli import main; main()")
FOLD = "fold net.py:build --input-shape 1,8,8"


@pytest.fixture
def folder(tmp_path: Path, npz: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    assert npz.parent == tmp_path
    (tmp_path / "net.py").write_text(SMALL_NET)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def started(line: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*COMPRESS, *shlex.split(line)],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="surrogateescape",
    )


ERRORS: dict[str, tuple[Callable[[], BaseException], int, str]] = {
    "no more data": (lambda: EOFError("No data left in file"), 2, "a file ends too early: No data left in file"),
    "a file": (lambda: PermissionError(13, "Permission denied", "a.onnx"), 2, "a.onnx: Permission denied"),
    "two files": (
        lambda: OSError(18, "Invalid cross-device link", "a", None, "b"),
        2,
        "a: b: Invalid cross-device link",
    ),
    "no file": (lambda: OSError("cannot reshape"), 2, "cannot reshape"),
    "memory": (
        lambda: MemoryError("Unable to allocate 9 TiB"),
        2,
        "not enough memory for this (Unable to allocate 9 TiB)",
    ),
    "memory in torch": (
        lambda: RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"),
        2,
        "not enough memory",
    ),
    "nesting": (lambda: RecursionError("maximum recursion depth exceeded"), 2, "nested too deep"),
    "text": (lambda: UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"), 2, "not UTF-8"),
    "Ctrl-C": (KeyboardInterrupt, 130, "interrupted"),
    "control characters": (lambda: OSError(2, "gone", "\x1b]0;owned\x07\u202e"), 2, r"\x1b]0;owned\x07\u202e: gone"),
    "a defect": (lambda: KeyError("x"), 70, "a defect of this program"),
}


@pytest.mark.parametrize("kind", ERRORS)
def test_every_error_is_one_line_with_a_code(
    kind: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Through click, which by itself ends in silence after an EOFError."""
    make, code, says = ERRORS[kind]

    @click.command()
    def failing() -> None:
        raise make()

    monkeypatch.setattr(cli.cli, "get_command", lambda *_: failing)
    monkeypatch.setattr(sys, "argv", ["compress", "failing"])
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        with pytest.raises(SystemExit) as end:
            cli.main()
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    out, err = capfd.readouterr()
    assert end.value.code == code and out == ""
    assert err.startswith("error: ") and says in err and err.count("\n") == 1 and ending.printable(err) == err


def test_what_is_printable_stays() -> None:
    text = "né\tüber 層 a\u0301 👩\u200d🔬\n"
    assert ending.printable(text) == text


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, 130)])
def test_a_request_to_end_cleans_up(number: signal.Signals, code: int, folder: Path) -> None:
    long = "--data data.npz --epochs 100000 --batch-size 8 --precision fp32 --accelerator cpu"
    process = started(f"train net.py:build {long} -o out/deep/net")
    assert process.stderr is not None and process.stderr.readline().startswith("train")
    assert (folder / "out" / "deep" / ".net.compress-lock").exists()
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == code and err.splitlines()[-1] == "error: interrupted"
    assert sorted(path.name for path in folder.iterdir()) == ["data.npz", "net.py"]


def test_processes_that_share_a_training_end_with_it(folder: Path) -> None:
    long = "--data data.npz --epochs 100000 --batch-size 8 --precision fp32 --accelerator cpu --devices 2"
    process = started(f"train net.py:build {long} -o net")
    children: list[int] = []
    while len(children) < 2:
        assert process.poll() is None
        children = [pid for pid in descendants(process.pid) if b"spawn_main" in command_of(pid)]
        time.sleep(0.2)
    time.sleep(1)
    process.terminate()
    process.communicate(timeout=60)
    assert process.returncode == 143 and not [pid for pid in children if b"spawn_main" in command_of(pid)]


def descendants(pid: int) -> list[int]:
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in found]


def command_of(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def test_names_reach_no_terminal_as_control_characters(folder: Path) -> None:
    process = started(f"{FOLD} -o 'a[/]:x:\x1b[31m\x07'", FORCE_COLOR="1")
    out, err = process.communicate()
    assert process.returncode == 0 and r"written: a[/]:x:\x1b[31m" in out and "\x07" not in out, err
    missing = subprocess.run(
        [*COMPRESS, "report", b"gone\xff\x1b[2J"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        check=False,
    )
    assert missing.returncode == 2 and missing.stderr.count(b"\n") == 1
    assert rb"gone\udcff\x1b[2J" in missing.stderr and b"\x1b" not in missing.stderr


@pytest.mark.parametrize(
    "environment",
    [{"PYTHONIOENCODING": "ascii"}, {"HOME": "/nonexistent", "XDG_CACHE_HOME": ""}, {"COLUMNS": "10"}],
    ids=["ASCII", "no home", "narrow"],
)
def test_any_terminal_and_any_home_will_do(environment: dict[str, str], folder: Path) -> None:
    process = started(f"{FOLD} -o née", **environment)
    out, err = process.communicate()
    assert process.returncode == 0 and (folder / "née").is_dir() and "written" in out, err


def test_a_full_disk_is_told_of_the_output(folder: Path) -> None:
    limited = (
        "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (300, 300)); from compress.cli import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", limited, *shlex.split(FOLD), "-o", "deep/out", "-q"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2 and done.stderr.startswith("error: output deep/out: cannot be written"), done.stderr
    assert done.stderr.count("\n") == 1 and sorted(path.name for path in folder.iterdir()) == ["data.npz", "net.py"]


def test_the_package_of_boards_ends_alike(folder: Path) -> None:
    code = "import runtimes.__main__ as m, sys\ndef fail(_): raise EOFError('x')\nm._run = fail\nsys.exit(m.main([]))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (2, "error: a file ends too early: x\n")
