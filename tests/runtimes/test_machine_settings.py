"""Governors and power modes, set while something runs and put back: at the end, after errors, signals and kills."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from runtimes.errors import InvalidInputs
from runtimes.sensors import settings
from runtimes.sensors.settings import held, journal_file, put_back_left
from tests.support import boards

HOLDING = """
import sys, time
from pathlib import Path
from runtimes import ending
from runtimes.sensors.settings import held
ending.prepare()
with held("performance", None, (0,), Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGEPRESS_CACHE", str(tmp_path / "cache"))
    return boards.jetson_orin(tmp_path / "board")


def governors(board: Path) -> list[str]:
    return [(board / f"{boards.CPU}/cpufreq/policy{n}/scaling_governor").read_text().strip() for n in (0, 4)]


def test_a_governor_is_set_on_the_cores_that_are_meant_and_put_back(board: Path) -> None:
    with held("performance", None, (5,), board):
        assert governors(board) == ["schedutil", "performance"]
        told = json.loads(journal_file().read_text())
        assert told["governors"] == {"4": "schedutil"} and told["pid"] == os.getpid()
    assert governors(board) == ["schedutil", "schedutil"] and not journal_file().exists()
    with held("powersave", None, None, board):
        assert governors(board) == ["powersave", "powersave"]
    assert governors(board) == ["schedutil", "schedutil"]


def test_nothing_is_touched_unless_asked(board: Path) -> None:
    with held(None, None, None, board):
        assert not journal_file().exists() and governors(board) == ["schedutil", "schedutil"]


def test_an_error_puts_back(board: Path) -> None:
    with pytest.raises(ZeroDivisionError), held("performance", None, None, board):
        raise ZeroDivisionError
    assert governors(board) == ["schedutil", "schedutil"] and not journal_file().exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_a_signal_puts_back(board: Path, ending_signals: None, number: signal.Signals) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDING, str(board)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert process.stdout is not None and process.stdout.readline() == b"held\n"
    assert governors(board) == ["performance", "schedutil"]
    process.send_signal(number)
    process.wait(timeout=30)
    process.stdout.close()
    for _ in range(300):  # the guard of one that was killed has a moment to see it
        if not journal_file().exists():
            break
        time.sleep(0.1)
    assert governors(board) == ["schedutil", "schedutil"] and not journal_file().exists()


def ended() -> int:
    """The number of a process that is no more."""
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    return done.pid


def test_the_next_run_puts_back_what_a_dead_one_left(board: Path) -> None:
    left = {"pid": ended(), "started": "1", "governors": {"0": "schedutil"}, "power_mode": None, "root": str(board)}
    boards.write(board, {f"{boards.CPU}/cpufreq/policy0/scaling_governor": "performance"})
    journal_file().parent.mkdir()
    journal_file().write_text(json.dumps(left))
    with held(None, None, None, board):
        assert governors(board) == ["schedutil", "schedutil"]
    assert not journal_file().exists() and put_back_left() is False


def test_what_cannot_be_put_back_is_told_and_not_forgotten(
    board: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The journal is all that knows how it was: it stays until somebody who may put it back measures."""
    left = {"pid": ended(), "started": "1", "governors": {"0": "schedutil"}, "power_mode": 0, "root": str(board)}
    boards.write(board, {f"{boards.CPU}/cpufreq/policy0/scaling_governor": "performance"})
    (board / "var/lib/nvpmodel/status").write_text("pmode:0001\n")
    journal_file().parent.mkdir()
    journal_file().write_text(json.dumps(left))
    monkeypatch.setenv("PATH", str(board))
    told = pytest.warns(UserWarning, match="the power mode was not put back: .*remove .*machine-settings")
    with told, held(None, None, None, board):
        assert governors(board) == ["schedutil", "schedutil"]
    with pytest.raises(settings.NotPutBack), held("powersave", None, None, board):
        pass
    assert governors(board) == ["schedutil", "schedutil"] and journal_file().exists()
    nvpmodel(board, tmp_path / "tools")
    monkeypatch.setenv("PATH", f"{tmp_path / 'tools'}{os.pathsep}/usr/bin{os.pathsep}/bin")
    assert put_back_left() and not journal_file().exists()
    assert (board / "var/lib/nvpmodel/status").read_text() == "pmode:0000\n"


def test_a_run_that_still_holds_settings_is_not_disturbed(board: Path) -> None:
    parent = os.getppid()
    journal_file().parent.mkdir()
    told: dict[str, object] = {
        "pid": parent,
        "started": settings._started(parent),
        "governors": {},
        "power_mode": None,
        "root": str(board),
    }
    journal_file().write_text(json.dumps(told))
    with pytest.raises(InvalidInputs, match=f"process {parent} measures"), held("performance", None, None, board):
        pass
    assert governors(board) == ["schedutil", "schedutil"]


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        '{"pid": 1}',
        '{"pid": 1, "started": null, "governors": {"0": "/etc/x y"}, "power_mode": null, "root": "/"}',
    ],
)
def test_a_journal_that_is_none_is_removed(board: Path, content: str) -> None:
    journal_file().parent.mkdir()
    journal_file().write_text(content)
    assert put_back_left() is False and governors(board) == ["schedutil", "schedutil"]
    with held("performance", None, None, board):
        assert governors(board) == ["performance", "performance"]


@pytest.mark.parametrize(
    ("governor", "mode", "reason"),
    [
        ("turbo", None, "expected one of performance, powersave, schedutil"),
        (None, "MAXN", r"expected one of 0 \(15W\)"),
        (None, "1", "nvpmodel is not found"),
    ],
)
def test_what_cannot_be_set_is_told_before_anything_is(
    board: Path, governor: str | None, mode: str | None, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(board))
    with pytest.raises(InvalidInputs, match=reason), held(governor, mode, None, board):
        pass
    assert governors(board) == ["schedutil", "schedutil"] and not journal_file().exists()


def test_machines_without_cpufreq_or_modes(board: Path, tmp_path: Path) -> None:
    for governor, mode in (("performance", None), (None, "1")):
        with pytest.raises(InvalidInputs, match="leave it out"), held(governor, mode, None, tmp_path / "none"):
            pass


def nvpmodel(board: Path, tools: Path, line: str = "") -> None:
    """A tool that keeps the mode as the real one does."""
    tools.mkdir()
    tool = tools / "nvpmodel"
    tool.write_text(f"#!/bin/sh\n{line}\nprintf 'pmode:%04d\\n' \"$2\" > '{board}/var/lib/nvpmodel/status'\n")
    tool.chmod(0o755)


def test_a_power_mode_is_set_and_put_back(board: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nvpmodel(board, tmp_path / "tools")
    monkeypatch.setenv("PATH", f"{tmp_path / 'tools'}{os.pathsep}{os.environ['PATH']}")
    status = board / "var/lib/nvpmodel/status"
    with held("performance", "7W", None, board):
        assert status.read_text() == "pmode:0001\n" and governors(board) == ["performance", "performance"]
    assert status.read_text() == "pmode:0000\n" and governors(board) == ["schedutil", "schedutil"]


def test_a_mode_that_is_refused_is_told(board: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nvpmodel(board, tmp_path / "tools", "[ $2 = 1 ] && echo 'reboot required' >&2 && exit 1")
    monkeypatch.setenv("PATH", f"{tmp_path / 'tools'}{os.pathsep}{os.environ['PATH']}")
    with pytest.raises(InvalidInputs, match="reboot required"), held(None, "7W", None, board):
        pass
    assert not journal_file().exists()
