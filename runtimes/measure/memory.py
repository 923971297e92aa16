"""Peak memory of a file, measured in a process of its own: ``python -m runtimes.measure.memory FILE`` prints it."""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from ..errors import InvalidModel, RuntimesError
from ..facts import engine_of
from ..files.untrusted import read_arrays
from ..own_process import environment, last_words, module_named
from ..runtime import Arrays, Options, engine_named, existing, load, random_inputs

_RUNS = 3


@dataclass(frozen=True)
class Memory:
    """Resident memory of a process that loads a file and runs it.

    Args:
        baseline_bytes: its peak with Python, numpy and the engine imported, and nothing loaded.
        peak_bytes: its peak after the file was loaded and run.
    """

    baseline_bytes: int
    peak_bytes: int


def peak_memory(
    file: Path | str, engine: str | None = None, options: Options | None = None, inputs: Arrays | None = None
) -> Memory:
    """Return the peak memory of ``file`` in a fresh process, whatever this process holds.

    Raises:
        InvalidModel: the process failed; the message has what it said.
    """
    path = existing(file)
    command = [sys.executable, "-P", "-m", module_named(__file__), str(path.resolve())]
    command += ["--engine", engine or engine_of(path)]
    command += ["--threads", str((options or Options()).threads)]
    with tempfile.TemporaryDirectory() as folder:
        if inputs is not None:
            given = Path(folder) / "inputs.npz"
            np.savez(given, allow_pickle=False, **inputs)
            command += ["--inputs", str(given)]
        done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise InvalidModel(f"{path}: the process that measures its memory failed: {last_words(done)}")
    told = json.loads(done.stdout)
    return Memory(int(told["baseline_bytes"]), int(told["peak_bytes"]))


def process_peak_bytes() -> int:
    """Return the highest resident memory that this process had.

    On Linux this is VmHWM and not ``ru_maxrss``: the latter keeps the peak of the process that started this one.
    """
    try:
        hit = re.search(r"^VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="utf-8"), re.MULTILINE)
    except OSError:
        hit = None
    if hit is not None:
        return int(hit[1]) * 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def main(arguments: list[str] | None = None) -> int:
    """Measure in this process and print the result."""
    parser = argparse.ArgumentParser(prog="python -m runtimes.measure.memory", description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--engine")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--inputs", type=Path, help="an .npz with an array for every input; random without it")
    asked = parser.parse_args(arguments)
    try:
        path = existing(asked.file)
        engine = asked.engine or engine_of(path)
        engine_named(engine).version()
        baseline = process_peak_bytes()
        runtime = load(path, engine, Options(asked.threads))
        inputs = random_inputs(runtime.inputs) if asked.inputs is None else read_arrays(asked.inputs)
        for _ in range(_RUNS):
            runtime.run(inputs)
        print(json.dumps(asdict(Memory(baseline, process_peak_bytes()))))
    except RuntimesError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
