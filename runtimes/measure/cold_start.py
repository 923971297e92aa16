"""Cold starts: processes that import an engine, load a file, and run it once.

The clock is the system's monotonic one, which processes share.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InvalidInputs, InvalidModel, RuntimesError
from ..facts import engine_of
from ..files.untrusted import read_arrays
from ..runtime import Arrays, Options, engine_named, existing, load, random_inputs
from ..sensors.cores import pinned
from .loop import Progress
from .request import Request

MOST_PROCESSES = 1000


@dataclass(frozen=True)
class ColdStart:
    """What fresh processes took from their start to the first result of a file, in ms, each in its order.

    Args:
        total_ms: from the start of the process to the first result.
        start_ms: of that, until Python runs the first line of ours.
        import_ms: to import numpy and the engine.
        load_ms: from the file to a runtime.
        first_ms: the first run.
        second_ms: the second, which finds everything in place; not part of the total.
    """

    file: str
    engine: str
    threads: int
    total_ms: tuple[float, ...]
    start_ms: tuple[float, ...]
    import_ms: tuple[float, ...]
    load_ms: tuple[float, ...]
    first_ms: tuple[float, ...]
    second_ms: tuple[float, ...]

    def to_json(self) -> dict[str, Any]:
        """Return a mapping of plain values, with the median of each part under ``p50_ms``."""
        facts = asdict(self)
        medians = {name: float(np.median(value)) for name, value in facts.items() if name.endswith("_ms")}
        return facts | {"p50_ms": medians}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> ColdStart:
        """Return what `to_json` gave."""
        names = cls.__dataclass_fields__
        told = {name: stored[name] for name in names}
        facts: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in told.items()
        }
        return cls(**facts)


def cold_start(
    file: Path | str,
    processes: int = 10,
    request: Request | None = None,
    *,
    engine: str | None = None,
    inputs: Arrays | None = None,
    progress: Progress | None = None,
) -> ColdStart:
    """Return what so many fresh processes took to the first result, one after the other.

    The system's file cache is as it is: warm, from the second process on. Only threads, seed and cores of the request
    take part.

    Raises:
        InvalidInputs: no process is asked for.
        InvalidModel: a process failed; the message has what it said.
    """
    if not 1 <= processes <= MOST_PROCESSES:
        raise InvalidInputs(f"processes: expected 1 to {MOST_PROCESSES}, got {processes}")
    asked, path = request or Request(), existing(file)
    name = engine or engine_of(path)
    command, environment = _command(path, name, asked)
    told: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        if inputs is not None:
            given = Path(folder) / "inputs.npz"
            np.savez(given, allow_pickle=False, **inputs)
            command += ["--inputs", str(given)]
        for number in range(processes):
            if progress is not None:
                progress("start cold", number, processes, path.name)
            told.append(_one(command, environment, path))
    if progress is not None:
        progress("start cold", processes, processes)
    parts: dict[str, Any] = {part: tuple(each[part] for each in told) for part in told[0]}
    return ColdStart(str(file), name, asked.threads, **parts)


def _command(path: Path, engine: str, request: Request) -> tuple[list[str], dict[str, str]]:
    # The names come from the files: this package may have been imported here under another name.
    here = Path(__file__).resolve()
    module = ".".join((*here.parts[-3:-1], here.stem))
    code = f"import time; began = time.monotonic(); from {module} import main; raise SystemExit(main(began))"
    command = [sys.executable, "-P", "-c", code, str(path.resolve()), "--engine", engine]
    command += ["--threads", str(request.threads), "--seed", str(request.seed)]
    if request.cores is not None:
        command += ["--cores", ",".join(map(str, request.cores))]
    paths = [str(here.parents[2]), os.environ.get("PYTHONPATH", "")]
    return command, os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}


def _one(command: Sequence[str], environment: Mapping[str, str], path: Path) -> dict[str, float]:
    began = time.monotonic()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = done.stderr.strip().splitlines()[-1:] or [f"exit status {done.returncode}"]
        raise InvalidModel(f"{path}: the process that starts cold failed: {said[0]}")
    told = json.loads(done.stdout)
    return {
        "total_ms": 1e3 * (told["ended"] - began),
        "start_ms": 1e3 * (told["started"] - began),
        **{part: float(told[part]) for part in ("import_ms", "load_ms", "first_ms", "second_ms")},
    }


def main(started: float, arguments: list[str] | None = None) -> int:
    """Start cold in this process, which began at ``started``, and print what it took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--engine")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cores")
    parser.add_argument("--inputs", type=Path, help="an .npz with an array for every input; random without it")
    asked = parser.parse_args(arguments)
    try:
        with pinned(None if asked.cores is None else asked.cores.split(",")):
            path = existing(asked.file)
            engine = asked.engine or engine_of(path)
            engine_named(engine).version()
            imported = time.monotonic()
            runtime = load(path, engine, Options(asked.threads))
            loaded = time.monotonic()
            inputs = random_inputs(runtime.inputs, asked.seed) if asked.inputs is None else read_arrays(asked.inputs)
            ready = time.monotonic()
            runtime.run(inputs)
            ended = time.monotonic()
            runtime.run(inputs)
            again = time.monotonic()
            runtime.close()
    except RuntimesError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    made = ready - loaded  # the inputs are no part of the start
    spans = {"import_ms": imported - started, "load_ms": loaded - imported, "first_ms": ended - ready}
    spans["second_ms"] = again - ended
    told = {part: 1e3 * seconds for part, seconds in spans.items()}
    print(json.dumps(told | {"started": started, "ended": ended - made}))
    return 0
