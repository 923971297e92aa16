"""Commands run in forks of a process that has everything imported, and what is asked of each, whatever its input."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from runtimes.ending import printable

ROOT = Path(__file__).resolve().parents[2]
SECONDS, BYTES = 20.0, 2 * 2**30
GATES = ("check", "analyze", "run")
"""Commands that end with 1 where a gate fails, of ``compress`` and of ``runtimes``."""
OF_ENGINES = (".ses",)
"""Files that engines leave in the folder for temporary files: ONNX Runtime."""


@dataclass(frozen=True)
class Ended:
    """How a command ended: its code (less than 0: minus the signal), what it said, what it took, why it was stopped."""

    code: int
    out: str
    err: str
    seconds: float
    bytes: int
    stopped: str


@dataclass(frozen=True)
class Command:
    """``words`` of the entry ``compress`` or ``runtimes``, in a folder."""

    words: tuple[str, ...]
    entry: str = "compress"

    @classmethod
    def of(cls, line: str) -> Command:
        """From a line as it is typed; ``runtimes`` before it stands for ``python -m runtimes``."""
        first, *rest = line.split()
        return cls(tuple(rest), "runtimes") if first == "runtimes" else cls((first, *rest))

    def __str__(self) -> str:
        return " ".join(("python -m runtimes" if self.entry == "runtimes" else "compress", *self.words))


class Worker:
    """The process of ``worker.py``; it is started when the first command comes, and again if it has ended."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._state = folder / "state"
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()

    def run(self, command: Command, folder: Path, **limits: Any) -> Ended:
        """Run a command in ``folder``, with the limits of :meth:`asked`."""
        return self.run_together([self.asked(command, folder, **limits)])[0]

    def asked(
        self,
        command: Command,
        folder: Path,
        *,
        seconds: float = SECONDS,
        size: int = BYTES,
        number: signal.Signals = signal.SIGKILL,
        file_bytes: int | None = None,
        dies_at: int | None = None,
    ) -> dict[str, Any]:
        """What the process is told of a command; its temporary files go into ``<folder>.tmp``.

        Args:
            seconds: after so many it gets the signal ``number``.
            size: of its memory; a command that takes more is killed.
            file_bytes: no file can be written larger than this.
            dies_at: it is killed when it is about to change a file for the time of this number; for 0 these changes
                are counted, for :meth:`writes`.
        """
        temporary = folder.with_name(folder.name + ".tmp")
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        return {
            "entry": command.entry,
            "arguments": list(command.words),
            "folder": str(folder),
            "environment": {
                "TMPDIR": str(temporary),
                "CANARY": str(folder / "ran"),
                "XDG_STATE_HOME": str(self._state),
            },
            "seconds": seconds,
            "bytes": size,
            "signal": int(number),
            "file_bytes": file_bytes,
            "dies_at": dies_at,
        }

    def writes(self, command: Command, folder: Path, seconds: float = 300.0) -> tuple[Ended, int]:
        """Run a command, and count how often it changes a file or a folder."""
        ended = self.run(command, folder, seconds=seconds, dies_at=0)
        return ended, int(folder.with_name(folder.name + ".tmp.writes").read_text())

    def run_together(self, asked: Sequence[Mapping[str, Any]]) -> list[Ended]:
        """Run commands at the same time."""
        process = self._running()
        assert process.stdin is not None and process.stdout is not None, "both are pipes"
        process.stdin.write(json.dumps(asked) + "\n")
        process.stdin.flush()
        return [Ended(**told) for told in json.loads(process.stdout.readline())]

    def _running(self) -> subprocess.Popen[str]:
        if self._process is None or self._process.poll() is not None:
            self._process = subprocess.Popen(
                [sys.executable, str(Path(__file__).with_name("worker.py")), str(ROOT)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env={**os.environ, "EDGEPRESS_CACHE": str(self._folder / "cache"), "OMP_NUM_THREADS": "1"},
                text=True,
            )
            assert self._process.stdout is not None and self._process.stdout.readline() == "ready\n"
        return self._process


def contents(folder: Path) -> dict[str, bytes]:
    """Every file in ``folder``, and every folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b""
        for path in sorted(folder.rglob("*"))
        if "__pycache__" not in path.parts
    }


def faults(
    command: Command, ended: Ended, folder: Path, before: Mapping[str, bytes], *, stays: Sequence[str] = ()
) -> list[str]:
    """What is wrong with how a command ended; nothing, if it did as every command must.

    Args:
        before: the :func:`contents` of ``folder`` before it.
        stays: beginnings of names that a command may leave or change, as an unfinished run.
    """
    found = []
    after = contents(folder)
    wrong = command.words[0] if command.entry == "compress" else "check" if "check" in command.words else ""
    allowed = {0, 2} | ({1} if wrong in GATES else set()) | ({5} if "bench" in command.words or not wrong else set())
    if ended.stopped:
        return [ended.stopped]
    if ended.code not in allowed:
        found.append(f"it ended with {ended.code}")
    if "Traceback" in ended.err + ended.out or "defect of this program" in ended.err:
        found.append("it shows its insides")
    errors = [line for line in ended.err.splitlines() if line.startswith("error: ")]
    if ended.code == 2 and (len(errors) != 1 or ended.err.splitlines()[-1] != errors[0]):
        found.append(f"its last words are not one error, but {ended.err.splitlines()[-2:]}")
    if any(len(line) > 1200 for line in errors):
        found.append("its error is longer than anyone reads")
    if printable(ended.err) != ended.err:
        found.append("it prints what a terminal obeys")
    if "ran" in after:
        found.append("code of the file was run")
    output = command.words[command.words.index("-o") + 1] if "-o" in command.words else ""
    made = sorted(name for name in after if name not in before and not name.startswith((*stays, "ran")))
    if (
        ended.code != 0
        and output
        and any(name.partition("/")[0] == output for name in made)
        and "run" not in command.words
    ):
        found.append("it left an output that it did not finish")
    if litter := [name for name in made if name.partition("/")[0] != (output or None)]:
        found.append(f"it left {', '.join(litter[:3])}")
    if lost := [
        name for name in before if after.get(name) != before[name] and not name.startswith(tuple(stays) or "\0")
    ]:
        found.append(f"it changed or removed {', '.join(lost[:3])}")
    temporary = folder.with_name(folder.name + ".tmp")
    if left := sorted(path.name for path in temporary.iterdir() if path.name not in OF_ENGINES):
        found.append(f"it left the temporary {', '.join(left[:3])}")
    if ended.code == 0 and output and output not in after:
        found.append("it wrote nothing")
    return found
