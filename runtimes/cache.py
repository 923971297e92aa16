"""The folder in which this user's caches are kept, also for users without a home."""

from __future__ import annotations

import atexit
import os
import shutil
import sys
import tempfile
from pathlib import Path

FOLDER = "EDGEPRESS_CACHE"


def folder() -> Path:
    """Return the folder of EDGEPRESS_CACHE, or "edgepress" in the user's folder for caches; it need not exist.

    That folder is ``$XDG_CACHE_HOME`` or ~/.cache, ~/Library/Caches on macOS, %LOCALAPPDATA% on Windows. Who has no
    home gets a private temporary folder, which the processes that this one starts share and which ends with it.
    """
    own = os.environ.get(FOLDER)
    if own:
        return Path(own)
    stated = os.environ.get("LOCALAPPDATA" if sys.platform == "win32" else "XDG_CACHE_HOME")
    if stated and sys.platform != "darwin" and Path(stated).is_absolute():
        return Path(stated) / "edgepress"
    try:
        home = Path.home()
    except RuntimeError:
        return _temporary()
    if sys.platform == "win32":
        return home / "AppData" / "Local" / "edgepress"
    return home / ("Library/Caches" if sys.platform == "darwin" else ".cache") / "edgepress"


def _temporary() -> Path:
    made = tempfile.mkdtemp(prefix="edgepress-")
    os.environ[FOLDER] = made
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    return Path(made)
