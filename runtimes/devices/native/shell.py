"""Programs and files on a device that has a shell and little else.

The command is one constant: the words of a program follow over its stdin, a line each, so that no shell reads them.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ...ending import brief, printable
from ...errors import DeviceError, InvalidInputs
from ...files.digest import digest
from ..adb import AdbConnection

COMMAND = (
    "exec sh -c '"
    'set --; while IFS= read -r word && [ -n "$word" ]; do set -- "$@" "$word"; done; '
    '"$@"; printf "\\000edgepress-ended %d\\n" $?'
    "'"
)
"""Reads words until an empty line, runs them, and says with what they ended; adb cut off ends with 0."""

_ENDED = b"\0edgepress-ended "
_SECONDS = 60.0


@dataclass(frozen=True)
class Ended:
    """What a program did."""

    status: int
    stdout: bytes
    stderr: str

    @property
    def said(self) -> str:
        """Return its last line, for people."""
        lines = [line.strip() for line in self.stderr.splitlines() if line.strip()]
        return printable(lines[-1])[:300] if lines else f"it ended with {self.status}"


class Shell:
    """The shell of a device, and the folder that is ours there.

    Args:
        name: of the device, for people: every error begins with it.
        folder: where files are kept there.
    """

    def __init__(self, connection: AdbConnection, name: str, folder: str) -> None:
        self.name, self.folder = name, folder
        self.sent_bytes = 0
        self._connection = connection
        self._there: set[str] = set()

    def run(self, words: Sequence[str], seconds: float = _SECONDS) -> Ended:
        """Return what a program did, which may take so many seconds.

        Raises:
            InvalidInputs: a word has a line end, or is empty.
            DeviceError: the device was lost, or the program did not end in time.
        """
        if any(not word or "\n" in word or "\0" in word for word in words):
            raise InvalidInputs(f"{self.name}: expected words without line ends, got {list(words)}")
        text = "".join(f"{word}\n" for word in words).encode() + b"\n"
        return self._ended(self._called(self._connection.argv(COMMAND), text, seconds), seconds)

    def require(self, words: Sequence[str], doing: str, seconds: float = _SECONDS) -> bytes:
        """Return what a program printed; raises DeviceError where it fails, which says what was being done."""
        done = self.run(words, seconds)
        if done.status:
            raise self._error(f"{doing}: {done.said}{self._room(done.stderr)}")
        return done.stdout

    def send(self, source: Path, executable: bool = False) -> str:
        """Return the place there of a file of this machine: sent, unless one with its digest is there already."""
        sha256 = digest([source])
        place = f"{self.folder}/files/{sha256}/file{source.suffix if source.suffix.isascii() else ''}"
        if place in self._there or self.run(["test", "-f", place]).status == 0:
            self._there.add(place)
            return place
        self.require(["mkdir", "-p", place.rpartition("/")[0]], "making its folder")
        part = f"{place}.{os.getpid()}"
        self._push(source, part)
        told = self.require(["sha256sum", part], f"sending {source.name}").split()
        if told[:1] != [sha256.encode()]:
            raise self._error(f"sending {source.name}: what is there is not what was sent; try again")
        if executable:
            self.require(["chmod", "755", part], "making it a program")
        self.require(["mv", part, place], f"sending {source.name}")
        self._there.add(place)
        return place

    def write(self, place: str, content: bytes) -> None:
        """Write a file there; raises DeviceError."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "file"
            path.write_bytes(content)
            self._push(path, place)

    def read(self, place: str) -> bytes:
        """Return the content of a file there; raises DeviceError."""
        return self.require(["cat", place], f"reading {place}")

    def lost(self, status: int | None, said: str) -> DeviceError:
        """Return the error of a connection that ended before its time."""
        return self._error(self._connection.explain(status, said))

    def _push(self, source: Path, place: str) -> None:
        done = self._called(self._connection.push(str(source), place), b"", max(_SECONDS, source.stat().st_size / 1e5))
        if done.returncode:
            said = done.stderr.decode("utf-8", "replace") + done.stdout.decode("utf-8", "replace")
            room = self._room(said)
            raise self._error(f"sending {source.name}: {said.strip()[-200:]}{room}") if room else self.lost(1, said)
        self.sent_bytes += source.stat().st_size

    def _called(self, words: Sequence[str], text: bytes, seconds: float) -> subprocess.CompletedProcess[bytes]:
        try:
            return subprocess.run(words, input=text, capture_output=True, timeout=seconds, check=False)
        except subprocess.TimeoutExpired:
            raise self._error(f"it says nothing for {seconds:.0f} s; check that it is in reach") from None
        except OSError as error:
            raise self._error(f"adb cannot be started here: {error}") from error

    def _ended(self, done: subprocess.CompletedProcess[bytes], seconds: float) -> Ended:
        stdout, mark, status = done.stdout.rpartition(_ENDED)
        said = done.stderr.decode("utf-8", "replace")
        if not mark or not status.strip().isdigit():
            raise self.lost(done.returncode, said)
        return Ended(int(status), stdout, said)

    def _room(self, said: str) -> str:
        return "; free some space there, or name another cache" if "No space left" in said else ""

    def _error(self, reason: str) -> DeviceError:
        return DeviceError(brief(printable(" ".join(f"{self.name}: {reason}".split()))))
