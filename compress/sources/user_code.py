"""Which code of a user's is called: what they named themselves, and nothing that a file alone names.

An artifact or a recipe says which Python function builds its network, and whoever wrote that file chose it. So code
that a file names is imported only where this user has named the same place before (``net.py:build`` on a command line
or in Python) and its file is still the one that they named, or where they say that they trust the file. What was named
is kept in a private state folder: a file for each place, with the digest of the code's file in it.
"""

from __future__ import annotations

import hashlib
import inspect
import os
import sys
import sysconfig
from functools import cache, partial
from importlib.machinery import PathFinder
from pathlib import Path
from types import FunctionType
from typing import Any, Literal

from torch import nn

from ..errors import InvalidInput

_named: set[str] = set()


def remember(kind: str, name: str, attribute: str) -> None:
    """Note that the user named this place of code; without a folder to keep it in, for this process alone."""
    key = _key(kind, name, attribute)
    if key in _named:
        return
    _named.add(key)
    try:
        folder = _state()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if _private(folder):
            descriptor = os.open(folder / key, os.O_CREAT | os.O_WRONLY | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
            with os.fdopen(descriptor, "w", encoding="ascii") as stream:
                stream.write(_digest(kind, name))
    except (OSError, RuntimeError):
        pass  # no home folder, or one that cannot be written to


def known(kind: str, name: str, attribute: str) -> Literal["named", "changed", "unnamed"]:
    """Whether this user named this place of code before, and its file is still the one that it was then."""
    key = _key(kind, name, attribute)
    if key in _named:
        return "named"
    try:
        folder = _state()
        if not _private(folder) or not (folder / key).is_file():
            return "unnamed"
        return "named" if (folder / key).read_text(encoding="ascii") == _digest(kind, name) else "changed"
    except (OSError, RuntimeError, UnicodeDecodeError):
        return "unnamed"


def require_definition(target: Any, module: str, place: str) -> None:
    """Raise InvalidInput unless ``target`` may be called: a class of networks, or a function or class that the user's
    code defines. What it only imports from elsewhere (``os.system``) is not called.

    Args:
        module: the name of the user's module; what other modules of the same package define is its own, and so is what
            files beside it or in folders there define, but for what is installed there.
        place: how the user named it, for the message.
    """
    if inspect.isclass(target) and issubclass(target, nn.Module):
        return
    made = target
    while isinstance(made, partial):
        made = made.func
    made = inspect.unwrap(made)
    made = made.__func__ if inspect.ismethod(made) else made
    if isinstance(made, (FunctionType, type)) and _is_of(module, made):
        return
    raise InvalidInput(
        f"{place}: expected a torch.nn.Module class or a function that is defined there, got "
        f"{type(target).__name__} {getattr(target, '__module__', None)}.{getattr(target, '__qualname__', target)!s}; "
        "wrap it in a function of your own"
    )


def _is_of(module: str, made: FunctionType | type) -> bool:
    """Whether the user's module, its package or a file beside it defines this."""
    package = module.partition(".")[0]
    if str(made.__module__).partition(".")[0] == package and package not in sys.stdlib_module_names:
        return True
    own = getattr(sys.modules.get(module), "__file__", None)
    code = made.__code__.co_filename if isinstance(made, FunctionType) else None
    file = code or getattr(sys.modules.get(made.__module__), "__file__", None)
    if own is None or file is None or not Path(file).is_file():
        return False
    defined = Path(file).resolve()
    if {"site-packages", "dist-packages"} & set(defined.parts) or any(map(defined.is_relative_to, _not_theirs())):
        return False
    return defined.is_relative_to(Path(own).resolve().parent)


@cache
def _not_theirs() -> tuple[Path, ...]:
    """The folders of Python's own modules and of this program."""
    return (
        *(Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib")),
        Path(__file__).parent.parent,
    )


def _key(kind: str, name: str, attribute: str) -> str:
    return hashlib.sha256("\0".join((kind, _location(kind, name), name, attribute)).encode()).hexdigest()


def _location(kind: str, name: str) -> str:
    """The file behind a name, found without importing anything: a module of the same name elsewhere is another."""
    if kind == "file":
        return str(Path(name).resolve())
    return _origin_of(name.partition(".")[0])


def _origin_of(module: str) -> str:
    """The file of a module, or the folders of a package without one, found without importing anything."""
    folders, whole, origin = [str(Path.cwd()), *sys.path], "", ""
    for part in module.split("."):
        whole = f"{whole}.{part}" if whole else part
        try:
            spec = PathFinder.find_spec(whole, folders)
        except (ImportError, ValueError):
            spec = None
        if spec is None:
            return ""
        folders = list(spec.submodule_search_locations or ())
        origin = spec.origin or ":".join(folders)
    return origin


def _digest(kind: str, name: str) -> str:
    """SHA-256 of the file of this code; "-" where it has none."""
    file = Path(name if kind == "file" else _origin_of(name))
    try:
        return hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError:
        return "-"


def _state() -> Path:
    root = os.environ.get("XDG_STATE_HOME")
    return (Path(root) if root else Path.home() / ".local" / "state") / "edgepress" / "named"


def _private(folder: Path) -> bool:
    """Whether only this user can write to ``folder``."""
    status = folder.stat()
    return not hasattr(os, "getuid") or (status.st_uid == os.getuid() and not status.st_mode & 0o022)
