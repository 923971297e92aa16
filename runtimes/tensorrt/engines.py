"""Engines that are built from ONNX files where they run, and kept: one for each file, library and GPU."""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from pathlib import Path

from .. import cache
from .builder import Built, Wishes, build
from .library import Library


def engine_for(library: Library, gpu: str, file: Path, *, again: bool = False) -> Path:
    """Return the engine of the ONNX file ``file`` for this library and GPU: the one that is kept, or a new one.

    An engine is for one version of the library and one GPU alone, so that their names are in its name, with the digest
    of the file. What the builder learns of its kernels' times is kept beside it, for the next build.

    Args:
        gpu: as `runtimes.devices.cuda.Cuda.gpu` names it.
        again: build it anew, in place of one that does not load.

    Raises:
        Refused: the parser does not take the file.
        BuildFailed: the build failed.
    """
    folder = cache.folder() / "tensorrt"
    place = re.sub(r"[^A-Za-z0-9.]+", "-", f"{library.title} {library.version} {gpu}").strip("-")
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    engine, times = folder / f"{digest[:32]}-{place}.engine", folder / f"{place}.timing_cache"
    if engine.is_file() and not again:
        return engine
    made: Built = build(library, file, Wishes(timing_cache=times.read_bytes() if times.is_file() else b""))
    folder.mkdir(parents=True, exist_ok=True)
    _put(engine, made.engine)
    if made.timing_cache:
        _put(times, made.timing_cache)
    return engine


def _put(file: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    handle, name = tempfile.mkstemp(dir=file.parent)
    try:
        with os.fdopen(handle, "wb") as scratch:
            scratch.write(content)
        Path(name).replace(file)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
