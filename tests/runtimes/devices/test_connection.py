"""The command that starts Python on a device, and what is made of addresses and of what ``ssh`` says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from runtimes.devices.connection import COMMAND, GREETING, NO_PYTHON
from runtimes.devices.ssh import SshConnection
from runtimes.errors import InvalidInputs

SOURCE = b"import sys; print(repr(sys.stdin.buffer.read()))"


def started(python: str, path: str, home: Path, shell: str = "/bin/sh") -> subprocess.CompletedProcess[bytes]:
    sent = python.encode() + b"\n%d\n" % len(SOURCE) + SOURCE + b"rest"
    environment = {"PATH": path, "HOME": str(home)}
    return subprocess.run([shell, "-c", COMMAND], input=sent, capture_output=True, env=environment, check=False)


def python_called(name: str, folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    script = folder / name
    script.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    script.chmod(0o755)
    return script


@pytest.mark.parametrize("named", ["", "~/own python", "ABSOLUTE"])
def test_it_greets_and_runs_what_is_sent(named: str, tmp_path: Path) -> None:
    own = python_called("own python", tmp_path)
    python_called("python3", tmp_path / "bin")
    (tmp_path / "bin" / "sh").symlink_to("/bin/sh")
    done = started(str(own) if named == "ABSOLUTE" else named, str(tmp_path / "bin"), tmp_path)
    greeting, _, rest = done.stdout.partition(b"\n")
    assert greeting == GREETING + b"%d %d %d" % sys.version_info[:3]
    assert rest == b"b'rest'\n" and done.returncode == 0


@pytest.mark.parametrize(
    ("works", "taken"),
    [(("python3", "python3.12"), b"python3"), (("python3.11", "python3.12"), b"python3.12"), ((), b"")],
)
def test_the_first_python_that_is_new_enough_is_taken(works: tuple[str, ...], taken: bytes, tmp_path: Path) -> None:
    """One that is there and does not start, as those of version managers do, is no Python."""
    for name in ("python3", "python3.13", "python3.12", "python3.11"):
        (tmp_path / name).write_text("#!/bin/sh\n" + (f"echo {name}\n" if name in works else "exit 1\n"))
        (tmp_path / name).chmod(0o755)
    (tmp_path / "sh").symlink_to("/bin/sh")
    said = started("", str(tmp_path), tmp_path).stdout
    assert said == (taken or NO_PYTHON) + b"\n"


@pytest.mark.parametrize("named", ["", "/none/python3", "$(touch injected)", "; touch injected;", "'"])
def test_no_python_is_told_and_names_are_no_shell(named: str, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "sh").symlink_to("/bin/sh")
    before = set(Path().iterdir())
    done = started(named, str(tmp_path / "bin"), tmp_path)
    assert done.stdout == NO_PYTHON + b"\n" and done.returncode == 127 and done.stderr == b""
    assert set(Path().iterdir()) == before


@pytest.mark.parametrize(
    ("url", "place", "where"),
    [
        ("ssh://board", "ssh://board", ["--", "board"]),
        ("ssh://pi@Board:2222", "ssh://pi@Board:2222", ["-l", "pi", "-p", "2222", "--", "Board"]),
        ("ssh://[::1]:22", "ssh://[::1]:22", ["-p", "22", "--", "::1"]),
    ],
)
def test_addresses(url: str, place: str, where: list[str]) -> None:
    connection = SshConnection.of(url)
    assert connection.place == place
    argv = list(connection.argv("COMMAND"))
    connection.close()
    assert argv[-len(where) - 1 :] == [*where, "COMMAND"]
    assert {"BatchMode=yes", "StrictHostKeyChecking=yes"} <= set(argv)


@pytest.mark.parametrize(
    "url",
    [
        *(
            "ssh://",
            "ssh://-oProxyCommand=x",
            "ssh://a b",
            "ssh://pi:secret@board",
            "ssh://board/path",
            "ssh://board:x",
            "ssh://board:0",
            "ssh://pi:@board",
        ),
        *("ssh://board:99999", "ssh://-l@board", "adb:1", "ssh://a;b", "ssh://[::1", "ssh://$(x)"),
    ],
)
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(InvalidInputs, match="expected ssh://") as caught:
        SshConnection.of(url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("No ED25519 host key is known for b and you have requested strict checking.\nHost key ver", "is not known"),
        (
            "@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!\nHost key verification failed.",
            "another than the known",
        ),
        ("pi@board: Permission denied (publickey,password).", "the login is refused"),
        ("ssh: connect to host board port 22: Connection refused", "nothing answers at port 22"),
        ("ssh: Could not resolve hostname board: Name or service not known", "no host of that name"),
        ("kex: something else", "ssh failed: kex: something else"),
        ("", "the connection was lost, or what ran there was killed"),
    ],
)
def test_reasons(said: str, told: str) -> None:
    assert told in SshConnection("board", "pi").explain(255, said)


def test_what_a_program_there_says_is_no_reason_of_ssh() -> None:
    said = "PermissionError: [Errno 13] Permission denied: '/dev/dri'"
    assert SshConnection("board").explain(1, said) == f"its program ended with 1: {said}"
