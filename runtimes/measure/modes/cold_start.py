"""Cold starts: processes that import an engine, load a file, and run it once.

The clock is the system's monotonic one, which processes share.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from ...devices.device import Device
from ...errors import InvalidInputs, InvalidModel, RuntimesError
from ...facts import engine_of
from ...files.untrusted import read_arrays
from ...own_process import environment, last_words, module_named
from ...runtime import Options, engine_named, existing, load, random_inputs
from ...sensors.cores import pinned
from ...stored import stored_fields
from ..benchmark import machine_set, too_warm
from ..loop import Progress
from ..request import Request
from ..subject import Subject
from .work import Part

MOST_PROCESSES = 1000

_SPANS = ("total_ms", "start_ms", "import_ms", "load_ms", "first_ms", "second_ms")


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
        disturbances: what speaks against it, in words, as in `runtimes.measure.modes.sustained.Sustained`.
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
    disturbances: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return a mapping of plain values, with the median of each part under ``p50_ms``."""
        medians = {span: float(np.median(getattr(self, span))) for span in _SPANS}
        return asdict(self) | {"p50_ms": medians}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> ColdStart:
        """Return what `to_json` gave."""
        return cls(**stored_fields(cls, stored, "cold start"))


@dataclass(frozen=True)
class ColdStarts:
    """Start so many fresh processes for each file, one after the other.

    The system's file cache is as it is: warm, from the second process on. Of the request, the preset, memory and
    energy take no part in this.

    Raises:
        InvalidInputs: no process is asked for.
    """

    NAME: ClassVar[str] = "cold_starts"
    TITLE: ClassVar[str] = "cold starts"
    IN_PYTHON: ClassVar[bool] = True

    processes: int = 10

    def __post_init__(self) -> None:
        if not 1 <= self.processes <= MOST_PROCESSES:
            raise InvalidInputs(f"processes: expected 1 to {MOST_PROCESSES}, got {self.processes}")

    def require(self, device: Device, subject: Subject) -> None:
        """Files that can be run can be started."""

    def results(self, device: Device, subject: Subject, progress: Progress | None = None) -> Iterator[ColdStart]:
        """Measure each file; see :class:`runtimes.measure.modes.mode.Mode`."""
        for file in subject.each():
            yield device.measure(self, file, progress)

    def parts(self, subject: Subject, progress: Progress | None = None) -> Generator[Part]:
        """Tell what speaks against measuring now, then the spans of each process.

        Raises:
            InvalidModel: a process failed; the message has what it said.
        """
        (path,) = subject.paths
        command = _command(path, subject.engines[0], subject.request)
        with tempfile.TemporaryDirectory() as folder, machine_set(subject.request):
            yield {"disturbances": too_warm(subject.request, progress)}
            if subject.inputs is not None:
                given = Path(folder) / "inputs.npz"
                np.savez(given, allow_pickle=False, **subject.inputs[0])
                command += ["--inputs", str(given)]
            for number in range(self.processes):
                if progress is not None:
                    progress("start cold", number, self.processes, path.name)
                yield _one(command, path)
        if progress is not None:
            progress("start cold", self.processes, self.processes)

    def result(self, subject: Subject, parts: Sequence[Part], disturbances: Sequence[str] = ()) -> ColdStart | None:
        """Return the processes that are there; None without any."""
        first, *processes = parts or ({},)
        if not processes:
            return None
        spans: dict[str, Any] = {span: tuple(process[span] for process in processes) for span in _SPANS}
        (name,), (engine,) = subject.names, subject.engines
        against = (*first["disturbances"], *disturbances)
        return ColdStart(name, engine, subject.request.threads, **spans, disturbances=against)


def _command(path: Path, engine: str, request: Request) -> list[str]:
    module = module_named(__file__)
    code = f"import time; began = time.monotonic(); from {module} import main; raise SystemExit(main(began))"
    command = [sys.executable, "-P", "-c", code, str(path.resolve()), "--engine", engine]
    command += ["--threads", str(request.threads), "--seed", str(request.seed)]
    if request.cores is not None:
        command += ["--cores", ",".join(map(str, request.cores))]
    return command


def _one(command: Sequence[str], path: Path) -> dict[str, float]:
    began = time.monotonic()
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise InvalidModel(f"{path}: the process that starts cold failed: {last_words(done)}")
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
