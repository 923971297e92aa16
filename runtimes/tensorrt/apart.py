"""A build in a process of its own: ``python -m runtimes.tensorrt.apart REQUEST.json``.

A build of TensorRT for RTX that fails leaves the library as it was then: the next one in that process is for the GPU of
the one that failed. A process of its own also ends alone where the builder crashes.
"""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..errors import EngineMissing, RuntimesError
from ..own_process import environment, last_words, module_named
from .builder import BuildFailed, Built, Profile, Refused, Wishes, build
from .layers import Layer
from .library import Library

_ERRORS: dict[str, type[RuntimesError]] = {each.__name__: each for each in (Refused, BuildFailed, EngineMissing)}


def build_apart(library: Library, source: Path, wishes: Wishes) -> Built:
    """As :func:`runtimes.tensorrt.builder.build`, without a timing cache; a crash is a BuildFailed."""
    with tempfile.TemporaryDirectory() as folder:
        request, result, engine = (Path(folder, name) for name in ("request.json", "result.json", "engine"))
        asked = {
            "module": library.api.__name__,
            "title": library.title,
            "ahead_of_time": library.ahead_of_time,
            "source": str(source.resolve()),
            "shapes": {name: asdict(profile) for name, profile in (wishes.shapes or {}).items()},
            "gpus": wishes.gpus,
            "engine": str(engine),
            "result": str(result),
        }
        request.write_text(json.dumps(asked), encoding="utf-8")
        command = [sys.executable, "-P", "-m", module_named(__file__), str(request)]
        done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)
        if not result.is_file():
            raise BuildFailed(f"the process of {library}'s builder ended without a result: {last_words(done)}")
        answer = json.loads(result.read_text(encoding="utf-8"))
        if "error" in answer:
            raise _ERRORS[answer["error"]](answer["message"])
        return Built(engine.read_bytes(), layers=_layers(answer["layers"]))


def _layers(records: list[dict[str, Any]] | None) -> tuple[Layer, ...] | None:
    if records is None:
        return None
    return tuple(Layer(each["name"], each["type"], tuple(each["read"]), tuple(each["nodes"])) for each in records)


def main(request: Path) -> int:
    """Build what ``request`` asks for, and leave the engine and the result where it says."""
    asked = json.loads(request.read_text(encoding="utf-8"))
    library = Library(importlib.import_module(asked["module"]), asked["title"], asked["ahead_of_time"])
    shapes = {
        name: Profile(tuple(each["least"]), tuple(each["best"]), tuple(each["most"]))
        for name, each in asked["shapes"].items()
    }
    answer: dict[str, Any]
    try:
        built = build(library, Path(asked["source"]), Wishes(shapes, tuple(asked["gpus"])))
        Path(asked["engine"]).write_bytes(built.engine)
        answer = {"layers": None if built.layers is None else [asdict(layer) for layer in built.layers]}
    except RuntimesError as error:
        answer = {"error": type(error).__name__, "message": str(error)}
    Path(asked["result"]).write_text(json.dumps(answer), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
