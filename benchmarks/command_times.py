"""CPU seconds of commands that people wait for, and of two that are refused: medians of interleaved runs, one thread.

python -m benchmarks.command_times [--runs 5]
"""

from __future__ import annotations

import os
import resource
import shutil
import statistics
import subprocess
import sys

import click

from benchmarks.common.frame import Run, benchmark

COMMANDS = {
    "compress --help": 0,
    "compress prune nothing --ratio 0.5 -o OUT": 2,
    "compress prune resnet20 --ratio 2 -o OUT": 2,
    "compress prune resnet20 --ratio 0.5 -o OUT": 0,
    "compress export resnet20 --format onnx -o OUT": 0,
}
"""Each with its exit code."""


@benchmark("command_times", __doc__)
@click.option("--runs", default=5, show_default=True)
def main(run: Run, runs: int) -> None:
    from benchmarks.common.results import Column

    run.work.mkdir(parents=True, exist_ok=True)
    output = run.work / "out"
    code = "import sys; from compress.cli import main; main()"
    seconds: dict[str, list[float]] = {line: [] for line in COMMANDS}
    for _ in range(2 if run.quick else runs):
        for line, expected in COMMANDS.items():
            shutil.rmtree(output, ignore_errors=True)
            words = [str(output) if word == "OUT" else word for word in line.split()[1:]]
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            done = subprocess.run(
                [sys.executable, "-c", code, *words], capture_output=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
            )
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            if done.returncode != expected:
                raise SystemExit(f"{line}: exit code {done.returncode}, not {expected}: {done.stderr.decode()[-500:]}")
            seconds[line].append(after.ru_utime - before.ru_utime)
    run.table(
        (
            Column(key="command", title="command"),
            Column(key="user_s", title="CPU time, median", unit="s", decimals=2),
        ),
        ({"command": f"`{line}`", "user_s": statistics.median(taken)} for line, taken in seconds.items()),
    )


if __name__ == "__main__":
    main()
