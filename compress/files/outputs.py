"""Outputs: files and folders that appear whole or not at all, and replace nothing unless that was asked for.

Everything is written beside its place, under a hidden name, and renamed at the end. While it is made, the output is
locked (:mod:`compress.files.lock`). What a killed process left behind is removed, or put back, when the same output is
written the next time. Files have the permissions that the user's umask leaves.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import secrets
import shutil
import stat
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from ..errors import InvalidInput
from . import lock

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
"""Errors of writing that may name no file."""

_NUMBERED = re.compile(r"\(os error (\d+)\)")
"""How libraries in Rust, as that of safetensors, tell such an error in an exception of their own."""

_UNKNOWN_RENAME = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EXDEV, errno.EPERM)
"""What a system or file system answers that cannot rename without replacing, or exchange two names."""

_KEEP, _EXCHANGE = (4, 2) if sys.platform == "darwin" else (1, 2)
"""Flags of renamex_np (macOS) and renameat2 (Linux)."""


def require_free(path: Path, *, overwrite: bool = False) -> None:
    """Raise InvalidInput if ``path`` exists and is not to be overwritten, or may not be."""
    if not os.path.lexists(path):
        return
    if not overwrite:
        raise InvalidInput(f"output {path}: it exists; give another -o, or --overwrite to replace it")
    for role, folder in _kept_folders().items():
        if path.is_dir() and not path.is_symlink() and folder.is_relative_to(path.resolve()):
            raise InvalidInput(f"output {path}: the {role} folder lies in it, so it is not replaced; give another -o")


def require_apart(output: Path, inputs: Iterable[str | Path], option: str = "output") -> None:
    """Raise InvalidInput if what is at ``output``, and would be replaced, is an input or holds one.

    Args:
        inputs: what people type for networks, data and files: paths, as such or in ``file.py:name`` or ``name=path``.
    """
    if not output.exists() or not (output.is_file() or output.is_dir()):
        return
    place = output.resolve()
    for words in map(str, inputs):
        for path in map(Path, dict.fromkeys((words, words.rpartition(":")[0], words.partition("=")[2]))):
            if path != Path() and path.exists() and path.resolve().is_relative_to(place):
                what = "it is read by this command" if path.resolve() == place else f"{path}, which is read, lies in it"
                raise InvalidInput(f"{option} {output}: {what}, so it is not replaced; give another name")


def _kept_folders() -> dict[str, Path]:
    """Folders that are lost to nobody's slip of the pen, by what they are called."""
    try:
        return {"current": Path.cwd(), "home": Path.home().resolve()}
    except RuntimeError:
        return {"current": Path.cwd()}


@contextmanager
def claim(path: Path, *, overwrite: bool = False) -> Iterator[None]:
    """Keep the name ``path`` for this process: what takes long holds it from before the work to the end.

    What killed processes left of earlier attempts is removed first, and what they had moved away is put back.

    Raises:
        InvalidInput: ``path`` exists and ``overwrite`` is not set, another process writes it, or its place cannot be
            written to.
    """
    require_free(path, overwrite=overwrite)
    place = _absolute(path)
    with ExitStack() as until_the_end:
        try:
            until_the_end.callback(_remove_empty, [folder for folder in place.parents if not folder.exists()])
            place.parent.mkdir(parents=True, exist_ok=True)
            until_the_end.enter_context(lock.held(place))
            _sweep(place)
        except OSError as error:
            raise _unwritable(path, error) from error
        require_free(path, overwrite=overwrite)
        yield


@contextmanager
def new_folder(path: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """A folder to fill that takes the name ``path`` only when all went well; nothing is left otherwise.

    With ``overwrite``, what is there stays until the new one takes its place.

    Raises:
        InvalidInput: as :func:`claim` says, or there is no room to write.
    """
    with _made_beside(path, overwrite) as made:
        yield made
        _follow_umask(made)
        _put(made, _absolute(path), overwrite)


@contextmanager
def resumable_folder(path: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """As :func:`new_folder`, a folder that may hold what an earlier attempt wrote, and stays after a failure.

    Whoever fills it tells by what is in it whether it goes on from there, and empties it where it does not.

    Raises:
        InvalidInput: as :func:`claim` says, or there is no room to write.
    """
    with claim(path, overwrite=overwrite):
        place = _absolute(path)
        work = place.with_name(f".{place.name}.unfinished")
        with _writing(path, work):
            if work.is_symlink():
                raise InvalidInput(f"output {path}: {work.name} beside it is a link, and is to be a folder; remove it")
            work.mkdir(exist_ok=True)
            _sweep_within(work)
            try:
                yield work
                _follow_umask(work)
                _put(work, place, overwrite)
            finally:
                with suppress(OSError):
                    work.rmdir()  # nothing to go on from


@contextmanager
def new_files(path: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """A folder to fill with the file ``path.name`` and what belongs beside it, moved there when all went well.

    ``path`` itself comes last. Without ``overwrite`` none of them replaces anything.

    Raises:
        InvalidInput: as :func:`claim` says, one of the files exists, or there is no room to write.
    """
    with _made_beside(path, overwrite) as made:
        yield made
        _follow_umask(made)
        place = _absolute(path)
        files = sorted(made.iterdir(), key=lambda file: (file.name == place.name, file.name))
        for file in files:
            require_free(path.with_name(file.name), overwrite=overwrite)
        placed: list[Path] = []
        try:
            for file in files:
                _put(file, place.with_name(file.name), overwrite)
                placed.append(place.with_name(file.name))
        except BaseException:
            for done in placed if not overwrite else ():
                _remove(done)
            raise


@contextmanager
def new_file(path: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Where to write a file that takes the name ``path`` only when all went well.

    A device or a pipe, such as /dev/stdout, is written to as it is.

    Raises:
        InvalidInput: as :func:`claim` says, ``path`` is a folder, or there is no room to write.
    """
    if path.is_dir():
        raise InvalidInput(f"output {path}: expected a file to write, and this is a folder; give another name")
    if path.exists() and not path.is_file():
        with _read_by_another(path), _writing(path, _absolute(path)):
            yield path
        return
    with new_files(path, overwrite=overwrite) as folder:
        yield folder / path.name


@contextmanager
def _read_by_another(path: Path) -> Iterator[None]:
    """Raise InvalidInput if ``path`` is a pipe that no process reads: opening it would wait for one."""
    if not path.is_fifo():
        yield
        return
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
    except OSError as error:
        raise InvalidInput(f"output {path}: a pipe that nobody reads; start its reader first") from error
    try:
        yield
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str, *, overwrite: bool = False) -> None:
    """Write one file of text in UTF-8; raises as :func:`new_file`."""
    with new_file(path, overwrite=overwrite) as file:
        file.write_text(text, encoding="utf-8")


def write_folder(path: Path, texts: Mapping[str, str], *, overwrite: bool = False) -> None:
    """Write files of text by name, in a folder that appears whole; raises as :func:`new_folder`."""
    with new_folder(path, overwrite=overwrite) as folder:
        for name, text in texts.items():
            (folder / name).write_text(text, encoding="utf-8")


@contextmanager
def _made_beside(path: Path, overwrite: bool) -> Iterator[Path]:
    """A new folder in the folder of ``path``, under a name that is swept, gone at the end."""
    place = _absolute(path)
    with claim(path, overwrite=overwrite):
        made = _hidden(place, "partial")
        with _writing(path, made):
            try:
                made.mkdir()
                yield made
            finally:
                _remove(made)


@contextmanager
def _writing(path: Path, made: Path) -> Iterator[None]:
    """Errors of writing to ``made``, or of want of room that name no file, are told of the output ``path``."""
    try:
        yield
    except OSError as error:
        named = error.filename
        if _absolute(Path(os.fsdecode(named))).is_relative_to(made) if named else error.errno in _NO_ROOM:
            raise _unwritable(path, error) from error
        raise
    except Exception as error:
        number = _NUMBERED.search(str(error))
        if number is not None and int(number[1]) in _NO_ROOM:
            raise _unwritable(path, OSError(int(number[1]), os.strerror(int(number[1])))) from error
        raise


def _unwritable(path: Path, error: OSError) -> InvalidInput:
    return InvalidInput(f"output {path}: cannot be written ({error.strerror or error}); give another -o")


def _absolute(path: Path) -> Path:
    return Path(os.path.abspath(path))  # noqa: PTH100 - a link at the end is a name of its own, not what it leads to


def _remove_empty(folders: Sequence[Path]) -> None:
    """Remove folders that were made for an output that did not come to be, the innermost first."""
    with suppress(OSError):
        for folder in folders:
            folder.rmdir()


def _hidden(place: Path, suffix: str) -> Path:
    return place.with_name(f".{place.name}.{secrets.token_hex(4)}.{suffix}")


def _sweep(place: Path) -> None:
    """Remove what ended processes left beside ``place``, whose lock is held; put back what they had moved away."""
    left = re.compile(rf"\.{re.escape(place.name)}\.[a-z0-9_]{{8}}\.(partial|old)")
    for entry in sorted(place.parent.iterdir()):
        if left.fullmatch(entry.name) is None:
            continue
        if entry.suffix == ".old" and not os.path.lexists(place):
            entry.rename(place)
        else:
            _remove(entry)


def _sweep_within(folder: Path) -> None:
    """Remove what killed processes left of outputs in ``folder``, whatever these were called."""
    left = re.compile(rf"\..*(\.[a-z0-9_]{{8}}\.(partial|old)|{re.escape(lock.SUFFIX)})")
    for entry in folder.iterdir():
        if left.fullmatch(entry.name):
            _remove(entry)


def _remove(path: Path) -> None:
    """Remove a file, a link or a folder; what cannot be removed stays."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink(missing_ok=True)


def _follow_umask(made: Path) -> None:
    """Give all within ``made`` the permissions that it got itself: some tools make files for their owner alone."""
    granted = stat.S_IMODE(made.stat().st_mode)
    for path in made.rglob("*"):
        if not path.is_symlink():
            path.chmod(granted if path.is_dir() else granted & 0o666)


def _put(made: Path, place: Path, overwrite: bool) -> None:
    """Give ``made`` the name ``place``: at every moment either what was there or ``made`` is whole."""
    if overwrite and os.path.lexists(place):
        _replace(made, place)
    else:
        _rename_to_free(made, place)


def _rename_to_free(made: Path, place: Path) -> None:
    try:
        if _rename(made, place, _KEEP):
            return
        if not made.is_dir():
            os.link(made, place, follow_symlinks=False)
            made.unlink()
        elif os.path.lexists(place):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(place))
        else:
            made.rename(place)  # a folder replaces an empty folder at most
    except FileExistsError as error:
        raise InvalidInput(
            f"output {place}: it was made by another program meanwhile; give another -o, or --overwrite to replace it"
        ) from error


def _replace(made: Path, place: Path) -> None:
    if not made.is_dir() and (place.is_symlink() or not place.is_dir()):
        made.replace(place)
        return
    if _rename(made, place, _EXCHANGE):
        _remove(made)  # by now the old one
        return
    aside = _hidden(place, "old")
    place.rename(aside)
    try:
        made.rename(place)
    except BaseException:
        aside.rename(place)
        raise
    _remove(aside)


def _rename(old: Path, new: Path, flag: int) -> bool:
    """Rename as ``flag`` says; False where this system or file system cannot.

    Raises:
        OSError: it was not done, as for an ``new`` that exists and is to be kept.
    """
    names = os.fsencode(old), os.fsencode(new)
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        if sys.platform == "darwin":
            failed = libc.renamex_np(*names, ctypes.c_uint(flag))
        else:
            here = -100  # AT_FDCWD
            failed = libc.renameat2(here, names[0], here, names[1], ctypes.c_uint(flag))
    except (AttributeError, TypeError, OSError):
        return False
    if not failed:
        return True
    number = ctypes.get_errno()
    if number in _UNKNOWN_RENAME:
        return False
    raise OSError(number, os.strerror(number), str(old), None, str(new))
