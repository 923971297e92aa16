"""Which code of a user's is called: what they named themselves, and nothing that a file alone names.

An artifact or a recipe says which Python function builds its network, and whoever wrote that file chose it. So code
that a file names is imported only where this user has named the same place before (``net.py:build`` on a command line
or in Python, kept as empty files in a private state folder), or says that they trust the file.
"""

from __future__ import annotations

import hashlib
import inspect
import os
import sys
from importlib.machinery import PathFinder
from pathlib import Path
from types import FunctionType
from typing import Any

from torch import nn

from .errors import InvalidInput

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
            os.close(os.open(folder / key, os.O_CREAT | os.O_WRONLY, 0o600))
    except (OSError, RuntimeError):
        pass  # no home folder, or one that cannot be written to


def is_known(kind: str, name: str, attribute: str) -> bool:
    """Whether this user named this place of code before."""
    key = _key(kind, name, attribute)
    if key in _named:
        return True
    try:
        folder = _state()
        return _private(folder) and (folder / key).is_file()
    except (OSError, RuntimeError):
        return False


def require_definition(target: Any, module: str, place: str) -> None:
    """Raise InvalidInput unless ``target`` may be called: a class of networks, or a function that the user's code
    defines. What it only imports (``os.system``) is not called.

    Args:
        module: the name of the user's module; functions of other modules in the same package are its own.
        place: how the user named it, for the message.
    """
    if inspect.isclass(target) and issubclass(target, nn.Module):
        return
    function = inspect.unwrap(target)
    function = function.__func__ if inspect.ismethod(function) else function
    package = module.partition(".")[0]
    if isinstance(function, FunctionType) and str(function.__module__).partition(".")[0] == package:
        return
    raise InvalidInput(
        f"{place}: expected a torch.nn.Module class or a function that is defined there, got "
        f"{type(target).__name__} {getattr(target, '__module__', None)}.{getattr(target, '__qualname__', target)!s}; "
        "wrap it in a function of your own"
    )


def _key(kind: str, name: str, attribute: str) -> str:
    return hashlib.sha256("\0".join((kind, _location(kind, name), name, attribute)).encode()).hexdigest()


def _location(kind: str, name: str) -> str:
    """The file behind a name, found without importing anything: a module of the same name elsewhere is another."""
    if kind == "file":
        return str(Path(name).resolve())
    try:
        spec = PathFinder.find_spec(name.partition(".")[0], [str(Path.cwd()), *sys.path])
    except (ImportError, ValueError):
        spec = None
    if spec is None:
        return ""
    return spec.origin or ":".join(spec.submodule_search_locations or ())


def _state() -> Path:
    root = os.environ.get("XDG_STATE_HOME")
    return (Path(root) if root else Path.home() / ".local" / "state") / "edgepress" / "named"


def _private(folder: Path) -> bool:
    """Whether only this user can write to ``folder``."""
    told = folder.stat()
    return not hasattr(os, "getuid") or (told.st_uid == os.getuid() and not told.st_mode & 0o022)
