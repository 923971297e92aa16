"""Files on a device, by their digest, all below one folder: what is there already is never sent again.

``blobs/`` holds contents by SHA-256, ``trees/`` folders made of them, ``environments/`` virtual environments,
``caches/`` those of engines, ``partial/`` what is not whole yet, ``lock`` whom this folder serves. Every file gets its
name once it is whole, by one rename, so that several machines may send to one device at once. Only what Python itself
comes with is used.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import stat
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

VARIABLE = "EDGEPRESS_CACHE"
FOLDER = "device"
"""Of the user's cache, what machines keep on a device."""

MOST_BYTES = 2**32
"""Contents that are kept before the oldest go."""

_PARTS = ("blobs", "trees", "environments", "caches", "partial")
_LOCK = "lock"
_TRIES, _PAUSE_S = 50, 0.1
_DIGEST = re.compile(r"[0-9a-f]{64}")
_PARTIAL = re.compile(r"(\d+)-.*")


class Refused(Exception):
    """A request that cannot be met; ``kind`` tells which, for the other side."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


@dataclass(frozen=True)
class File:
    """A file of a tree: its place in it, its size and its digest."""

    path: str
    size: int
    sha256: str

    @classmethod
    def of(cls, told: Any) -> File:
        """Return the file that ``[path, size, sha256]`` tells; raises Refused where it is none, or lies elsewhere."""
        path, size, sha256 = told
        parts = PurePosixPath(path).parts
        if not parts or path.startswith("/") or ".." in parts or "\0" in path or not _DIGEST.fullmatch(sha256):
            raise Refused("protocol", f"{str(path)[:80]!r} is no file of a tree")
        return cls(str(PurePosixPath(path)), int(size), sha256)


class Request(Protocol):
    """What the other side asks: values, and bytes."""

    @property
    def values(self) -> Mapping[str, Any]: ...

    @property
    def body(self) -> bytes: ...


class Store:
    """The folder of a device.

    Args:
        folder: of the cache; left out, that of ``EDGEPRESS_CACHE``, or "edgepress" in the user's folder for caches.
    """

    def __init__(self, folder: str | None = None) -> None:
        self.folder = (Path(folder).expanduser() if folder else default_folder()) / FOLDER
        self.partial = self.folder / "partial"
        self.caches = self.folder / "caches"
        self._lock: int | None = None

    def open(self) -> None:
        """Make the folder, and keep it for this process and what it becomes.

        What dead processes left half done is removed, and so are the folders that were not used for longest, where
        there is more than `MOST_BYTES` and no other machine uses them.

        Raises:
            Refused: it cannot be written, is not this user's alone, has something else in it, or is being removed.
        """
        try:
            self._own()
            self._lock = self._locked()
            if size_of(self.folder / "blobs") > MOST_BYTES:
                self._make_room()
        except OSError as error:
            told = f"its cache {self.folder} cannot be written ({error.strerror or error}); name another by cache"
            raise Refused("cache", told) from None
        for left in self.partial.iterdir():
            hit = _PARTIAL.fullmatch(left.name)
            if hit is None or not _runs(int(hit[1])):
                _remove(left)

    def _own(self) -> None:
        """Make the folder; one that others may write to, or that was there with something else in it, is refused."""
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        self.folder.mkdir(mode=0o700, exist_ok=True)
        facts = self.folder.stat()
        if facts.st_uid != os.geteuid() or facts.st_mode & stat.S_IWOTH:
            told = f"its cache {self.folder} can be written by other users, who could change what runs"
            raise Refused("cache", f"{told}; name another by cache")
        if not (self.folder / _LOCK).exists() and any(self.folder.iterdir()):
            raise Refused("cache", f"{self.folder} there has other files in it; name another by cache")

    def _locked(self) -> int:
        """A descriptor that keeps the folder from being removed; raises Refused where that is under way for long."""
        for _ in range(_TRIES):
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            place = self.folder / _LOCK
            lock = os.open(place, os.O_RDWR | os.O_CREAT, 0o644)
            with suppress(BlockingIOError, FileNotFoundError):
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
                if os.fstat(lock).st_ino == place.stat().st_ino:  # else it was removed meanwhile
                    os.set_inheritable(lock, True)
                    for name in _PARTS:
                        (self.folder / name).mkdir(exist_ok=True)
                    return lock
            os.close(lock)
            time.sleep(_PAUSE_S)
        raise Refused("busy", f"{self.folder} is being removed; try again")

    def _make_room(self) -> None:
        """Remove folders until half of the room is free, those that were used last at the end."""
        assert self._lock is not None, "it is open"
        with suppress(BlockingIOError):
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for tree in sorted((self.folder / "trees").iterdir(), key=lambda path: path.stat().st_mtime):
                if size_of(self.folder / "blobs") <= MOST_BYTES // 2:
                    break
                _remove(tree)
                for blob in (self.folder / "blobs").iterdir():
                    if blob.stat().st_nlink == 1:
                        blob.unlink(missing_ok=True)
        fcntl.flock(self._lock, fcntl.LOCK_SH)

    def temporary(self, name: str) -> Path:
        """Return a place below ``partial/`` that belongs to this process, and ends with it."""
        return self.partial / f"{os.getpid()}-{name}"

    def missing(self, files: Sequence[File]) -> list[str]:
        """Return the digests of those files whose contents are not here."""
        return [file.sha256 for file in files if not self._has(file)]

    def write(self, pieces: Sequence[Any], body: bytes) -> None:
        """Append ``[sha256, bytes, size]`` pieces of ``body`` to what is partial; what is whole then gets its name.

        Raises:
            Refused: the contents have another digest.
        """
        start = 0
        for sha256, count, size in pieces:
            if not _DIGEST.fullmatch(sha256):
                raise Refused("protocol", f"{sha256!r} is no digest")
            partial = self.temporary(sha256)
            with partial.open("ab") as file:
                file.write(body[start : start + count])
                start += count
                if file.tell() >= size:
                    file.flush()
                    os.fsync(file.fileno())
            if partial.stat().st_size >= size:
                self._named(partial, sha256)

    def tree(self, files: Sequence[File]) -> Path:
        """Return the folder that holds these files, made now if it is not there.

        Raises:
            Refused: contents are missing.
        """
        told = json.dumps(sorted((file.path, file.sha256) for file in files))
        folder = self.folder / "trees" / hashlib.sha256(told.encode()).hexdigest()
        if all(_size(folder / file.path) == file.size for file in files):
            os.utime(folder)
            return folder
        made = self.temporary(f"tree-{folder.name}")
        _remove(made)
        for file in files:
            blob = self.folder / "blobs" / file.sha256
            if _size(blob) != file.size:
                raise Refused("missing", f"the contents of {file.path} are not there")
            target = made / file.path
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(blob, target)
            except OSError:  # a file system without links
                shutil.copyfile(blob, target)
        self._placed(made, folder)
        return folder

    def _placed(self, made: Path, folder: Path) -> None:
        """Give a folder its name; one of that name is damaged, or was made meanwhile by somebody else."""
        for _ in range(2):
            try:
                made.rename(folder)
                return
            except OSError as error:
                if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                    raise
                aside = self.temporary(f"aside-{folder.name}")
                with suppress(OSError):
                    folder.rename(aside)
                _remove(aside)
        made.rename(folder)

    def abandon(self) -> None:
        """Remove what this process has half done."""
        for left in self.partial.glob(f"{os.getpid()}-*"):
            _remove(left)

    def usage(self) -> dict[str, Any]:
        """Return the folder, its size in bytes, the free bytes of its disk, and the environments in it."""
        made = []
        for ready in sorted(self.folder.glob("environments/*/ready.json")):
            with suppress(OSError, ValueError):
                made.append(json.loads(ready.read_text(encoding="utf-8")))
        return {
            "folder": str(self.folder),
            "bytes": size_of(self.folder),
            "free_bytes": shutil.disk_usage(self.folder).free,
            "environments": made,
        }

    def clean(self) -> int:
        """Remove the folder; returns the bytes that it had.

        Raises:
            Refused: another machine uses it now.
        """
        assert self._lock is not None, "it is open"
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Refused("busy", f"{self.folder} is in use; end what runs there, then clean") from None
        count = size_of(self.folder)
        for name in _PARTS:
            shutil.rmtree(self.folder / name)
        (self.folder / _LOCK).unlink()
        with suppress(OSError):  # what somebody else put there stays, and so do the user's other caches
            self.folder.rmdir()
            self.folder.parent.rmdir()
        return count

    @contextmanager
    def alone(self, name: str) -> Iterator[None]:
        """Within, no other process of this device is within for the same ``name``."""
        with (self.folder / "environments" / f"{name}.lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _has(self, file: File) -> bool:
        return _size(self.folder / "blobs" / file.sha256) == file.size

    def _named(self, partial: Path, sha256: str) -> None:
        found = hashlib.sha256()
        with partial.open("rb") as file:
            while part := file.read(2**20):
                found.update(part)
        if found.hexdigest() != sha256:
            partial.unlink()
            raise Refused("protocol", "what arrived has another digest than what was sent")
        partial.chmod(0o444)
        partial.rename(self.folder / "blobs" / sha256)


class Requests:
    """The requests that send files, answered by a store once there is one."""

    def __init__(self, store: Store | None = None) -> None:
        self.store = store

    @property
    def opened(self) -> Store:
        """The store; raises Refused where there is none yet."""
        if self.store is None:
            raise Refused("protocol", "the cache is not open")
        return self.store

    def handlers(self) -> dict[str, Callable[[Request], dict[str, Any]]]:
        """Return what answers each request."""
        return {"missing": self.missing, "write": self.write, "tree": self.tree}

    def missing(self, call: Request) -> dict[str, Any]:
        """Say the digests of what is not here."""
        return {"digests": self.opened.missing([File.of(each) for each in call.values["files"]])}

    def write(self, call: Request) -> dict[str, Any]:
        """Take pieces of contents."""
        self.opened.write(call.values["pieces"], call.body)
        return {}

    def tree(self, call: Request) -> dict[str, Any]:
        """Say where a folder with these files is."""
        return {"folder": str(self.opened.tree([File.of(each) for each in call.values["files"]]))}


def default_folder() -> Path:
    """Return the folder of this user's caches, as `runtimes.cache.folder` does, for who has a home."""
    own = os.environ.get(VARIABLE)
    if own:
        return Path(own)
    told = os.environ.get("XDG_CACHE_HOME")
    if told and sys.platform != "darwin" and Path(told).is_absolute():
        return Path(told) / "edgepress"
    try:
        return Path.home() / ("Library/Caches" if sys.platform == "darwin" else ".cache") / "edgepress"
    except RuntimeError:
        raise Refused("cache", "its user has no home to keep files in; name a folder by cache") from None


def size_of(folder: Path) -> int:
    """Return the bytes of all files below a folder; those with several names there count once."""
    seen: dict[tuple[int, int], int] = {}
    for place, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                facts = os.lstat(Path(place, name))
                seen[facts.st_dev, facts.st_ino] = facts.st_size
    return sum(seen.values())


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()
