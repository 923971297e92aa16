"""How commands end: one line that a terminal does not obey, an exit code, and nothing left of what was half done."""

from __future__ import annotations

import os
import resource
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest

from compress import cli
from compress.errors import InvalidInput
from compress.tasks.built_in import classification
from runtimes import ending
from tests.support.small_classifier import SMALL_NET

ROOT = Path(__file__).resolve().parents[2]
COMPRESS = (sys.executable, "-c", "from compress.cli import main; main()")
FOLD = "fold net.py:build --input-shape 1,8,8"


@pytest.fixture
def folder(tmp_path: Path, npz: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    assert npz.parent == tmp_path
    (tmp_path / "net.py").write_text(SMALL_NET)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def ended(ending_signals: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., int]]:
    """Run a command line in this process, whose handling of signals is put back; returns its exit code."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}

    def run(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["compress", *arguments])
        with pytest.raises(SystemExit) as end:
            cli.main()
        assert isinstance(end.value.code, int)
        return end.value.code

    yield run
    for number, handler in handlers.items():
        signal.signal(number, handler)


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
    "a long value": (lambda: InvalidInput(f"net: got {[1] * 9999}; make it again"), 2, "1, 1]; make it again"),
    "a defect": (lambda: KeyError("x"), 70, "a defect of this program"),
}


@pytest.mark.parametrize("kind", ERRORS)
def test_every_error_is_one_line_with_a_code(
    kind: str, ended: Callable[..., int], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Through click, which by itself ends in silence after an EOFError."""
    make, code, says = ERRORS[kind]

    @click.command()
    def failing() -> None:
        raise make()

    monkeypatch.setattr(cli.cli, "get_command", lambda *_: failing)
    assert ended("failing") == code
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith("error: ") and says in err and err.count("\n") == 1 and ending.printable(err) == err
    assert len(err) < 1100


def test_what_is_printable_stays() -> None:
    text = "né\tüber 層 a\u0301 👩\u200d🔬\n"
    assert ending.printable(text) == text


LONG = "train net.py:build --data data.npz --epochs 100000 --batch-size 8 --precision fp32 --accelerator cpu"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, 130)])
def test_a_request_to_end_cleans_up(
    number: signal.Signals,
    code: int,
    folder: Path,
    ended: Callable[..., int],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    lock = folder / "out" / "deep" / ".net.compress-lock"
    locked: list[bool] = []

    def asked(*_: object, **__: object) -> None:
        locked.append(lock.exists())
        os.kill(os.getpid(), number)
        time.sleep(60)

    monkeypatch.setattr(classification, "cross_entropy", asked)  # in a step of the training
    assert ended(*LONG.split(), "-o", "out/deep/net") == code
    assert locked == [True] and capfd.readouterr().err.splitlines()[-1] == "error: interrupted"
    assert sorted(path.name for path in folder.iterdir() if path.name != "__pycache__") == ["data.npz", "net.py"]


def test_processes_that_share_a_training_end_with_it(folder: Path) -> None:
    process = started(f"{LONG} --devices 2 -o out/deep/net")
    children: list[int] = []
    while len(children) < 2:
        assert process.poll() is None
        children = [pid for pid in descendants(process.pid) if b"spawn_main" in command_of(pid)]
        time.sleep(0.2)
    assert (folder / "out" / "deep" / ".net.compress-lock").exists()
    time.sleep(1)
    process.terminate()
    _, err = process.communicate(timeout=60)
    assert process.returncode == 143 and err.splitlines()[-1] == "error: interrupted"
    assert not [pid for pid in children if b"spawn_main" in command_of(pid)]
    assert sorted(path.name for path in folder.iterdir()) == ["data.npz", "net.py"]


def descendants(pid: int) -> list[int]:
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in found]


def command_of(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def test_names_reach_no_terminal_as_control_characters(
    folder: Path, ended: Callable[..., int], monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert ended(*FOLD.split(), "-o", "a[/]:x:\x1b[31m\x07") == 0
    out, err = capfdbinary.readouterr()
    assert rb"written: a[/]:x:\x1b[31m" in out and b"\x07" not in out, err
    assert ended("report", os.fsdecode(b"gone\xff\x1b[2J")) == 2
    _, err = capfdbinary.readouterr()
    assert err.count(b"\n") == 1 and rb"gone\udcff\x1b[2J" in err and b"\x1b" not in err


def test_any_terminal_and_any_home_will_do(folder: Path) -> None:
    """Narrow, ASCII alone, and a home in which nothing can be kept."""
    environment = {"PYTHONIOENCODING": "ascii", "HOME": "/nonexistent", "XDG_CACHE_HOME": "", "COLUMNS": "10"}
    process = started(f"{FOLD} -o née", **environment)
    out, err = process.communicate()
    assert process.returncode == 0 and (folder / "née").is_dir() and "written" in out, err


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_stream_that_is_closed_is_written_to_nowhere(
    stream: str, ended: Callable[..., int], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, stream, None)
    assert ended("fold", "gone.onnx", "-o", "out") == 2
    assert ended("--version") == 0


def test_a_current_folder_that_is_gone_is_told(
    ended: Callable[..., int], folder: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "gone").mkdir()
    monkeypatch.chdir(folder / "gone")
    (folder / "gone").rmdir()
    assert ended("doctor") == 2
    assert capfd.readouterr().err == "error: the current folder is gone; go to another one\n"


def test_a_full_disk_is_told_of_the_output(
    folder: Path, ended: Callable[..., int], capfd: pytest.CaptureFixture[str]
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300, hard))
    try:
        code = ended(*FOLD.split(), "-o", "deep/out", "-q")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    err = capfd.readouterr().err
    assert code == 2 and err.startswith("error: output deep/out: cannot be written"), err
    assert err.count("\n") == 1 and [path.name for path in folder.iterdir() if path.is_dir()] in ([], ["__pycache__"])


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
