"""Files that are sent to a device by their digest: what is there already is not sent."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import DeviceError, InvalidInputs
from .link import Link

_PIECES_BYTES = 2**22
"""Of a frame."""

PACKAGE = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Sent:
    """A file of this machine and its place in a folder of the device."""

    source: Path
    path: str
    size: int
    sha256: str

    @classmethod
    def of(cls, source: Path, path: str) -> Sent:
        """Return the file with its digest; raises InvalidInputs where it cannot be read."""
        try:
            with source.open("rb") as file:
                return cls(source, path, source.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest())
        except OSError as error:
            raise InvalidInputs(f"{source}: {error.strerror or error}") from error


def package() -> list[Sent]:
    """Return the files of this package that run on a device."""
    paths = sorted(path for path in PACKAGE.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return [Sent.of(path, f"runtimes/{path.relative_to(PACKAGE).as_posix()}") for path in paths]


def wheels(folder: Path) -> list[Sent]:
    """Return the wheels in a folder; raises InvalidInputs where there are none."""
    if not folder.is_dir():
        raise InvalidInputs(f"wheelhouse {folder}: expected a folder of wheels")
    paths = sorted(folder.glob("*.whl"))
    if not paths:
        raise InvalidInputs(f"wheelhouse {folder}: there are no wheels in it")
    return [Sent.of(path, path.name) for path in paths]


def send(link: Link, files: Sequence[Sent], progress: Callable[[int, int], None]) -> tuple[str, int]:
    """Return the folder of the device that holds these files, and how many bytes were sent for it.

    Args:
        progress: told how many of how many bytes are there.

    Raises:
        DeviceError: the device is lost, or has no room.
    """
    told = [[file.path, file.size, file.sha256] for file in files]
    with link.during("sending files"):
        answer, _ = link.ask("missing", files=told)
        with link.understood():
            missing = {str(digest) for digest in answer["digests"]}
        wanted = list({file.sha256: file for file in files if file.sha256 in missing}.values())
        total, sent = sum(file.size for file in wanted), 0
        for pieces, body in _frames(wanted):
            link.ask("write", body, pieces=pieces)
            sent += len(body)
            progress(sent, total)
        answer, _ = link.ask("tree", files=told)
        with link.understood():
            return str(answer["folder"]), sent


def _frames(files: Sequence[Sent]) -> Iterator[tuple[list[list[object]], bytes]]:
    """Contents in pieces: small files together, large ones in parts."""
    pieces: list[list[object]] = []
    body = bytearray()
    for file in files:
        left = file.size
        with file.source.open("rb") as opened:
            while left or not file.size:
                part = opened.read(min(left, _PIECES_BYTES - len(body)))
                if len(part) == 0 and left:
                    raise DeviceError(f"{file.source}: it changes while it is sent; try again")
                pieces.append([file.sha256, len(part), file.size])
                body += part
                left -= len(part)
                if len(body) >= _PIECES_BYTES:
                    yield pieces, bytes(body)
                    pieces, body = [], bytearray()
                if not file.size:
                    break
    if pieces:
        yield pieces, bytes(body)
