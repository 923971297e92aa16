"""The emulated board itself: what it says it is, that it can be reached by ssh, and that nothing of it stays."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest

from tests.support.board import PYTHON, Board, board

MACHINE = "import platform; print(platform.machine(), platform.python_implementation())"


def ssh(made: Board, command: str, text: bytes = b"", code: int = 0) -> bytes:
    words = ["ssh", "-p", str(made.port), "-o", "BatchMode=yes", made.url.removeprefix("ssh://").rpartition(":")[0]]
    done = subprocess.run([*words, command], input=text, capture_output=True, env=os.environ | dict(made.environment))
    assert done.returncode == code, done.stderr.decode()
    return done.stdout


def test_sessions_run_on_arm_and_so_do_programs_that_they_start(arm_board: Board) -> None:
    told = ssh(arm_board, f'uname -m; {PYTHON} -c "{MACHINE}"; cat; exit 7', b"\x00\xff", code=7)
    assert told == b"aarch64\naarch64 CPython\n\x00\xff"
    assert b"asimddp" in ssh(arm_board, "cat /proc/cpuinfo")
    assert ssh(arm_board, "cat /sys/devices/system/cpu/online").startswith(b"0-")


def test_what_is_written_goes_with_it_and_what_runs_ends(arm_board: Board) -> None:
    with board() as other:
        ssh(other, "echo 1 > kept; sleep 1000 > /dev/null 2>&1 &")
        assert (other.changes / "root/kept").read_text() == "1\n"
        assert any("sleep 1000" in line for line in other.processes().values())
        assert not (arm_board.changes / "root/kept").exists()
        running = other.processes()
    assert not other.folder.exists()
    ends = time.monotonic() + 10
    while time.monotonic() < ends and any(Path(f"/proc/{pid}/exe").exists() for pid in running):
        time.sleep(0.01)
    assert not [pid for pid in running if Path(f"/proc/{pid}/exe").exists()]
    assert not (other.system.root / "root/kept").exists()


def test_a_host_that_is_not_known_is_refused(arm_board: Board, tmp_path: Path) -> None:
    (tmp_path / "known_hosts").write_text("")
    strict = [f"UserKnownHostsFile={tmp_path / 'known_hosts'}", "StrictHostKeyChecking=yes", "BatchMode=yes"]
    options = [word for option in strict for word in ("-o", option)]
    words = ["ssh", *options, "-p", str(arm_board.port), "root@127.0.0.1", "true"]
    done = subprocess.run(words, capture_output=True, env=os.environ | dict(arm_board.environment))
    assert done.returncode == 255 and b"verification failed" in done.stderr


@pytest.mark.parametrize("engine", ["onnxruntime", "litert", "ncnn", "openvino"])
def test_engines_are_there(arm_board: Board, engine: str) -> None:
    code = f"import {({'litert': 'ai_edge_litert'}).get(engine, engine)} as engine; print(engine.__version__)"
    done = arm_board.run(PYTHON, "-c", code)
    assert done.returncode == 0 and done.stdout, done.stderr.decode()
