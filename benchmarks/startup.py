"""How long ``compress --help`` takes beside a bare ``import click``: medians of interleaved runs.

python -m benchmarks.startup [--runs 30]
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

import click

from benchmarks.common.frame import Run, benchmark

COMMANDS = {
    "python -c 'import click'": ["-c", "import click"],
    "compress --help": ["-c", "import sys; from compress.cli import main; sys.argv = ['compress', '--help']; main()"],
}


@benchmark("startup", __doc__)
@click.option("--runs", default=30, show_default=True)
def main(run: Run, runs: int) -> None:
    from benchmarks.common.results import Column

    seconds: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(3 if run.quick else runs):
        for name, arguments in COMMANDS.items():
            start = time.perf_counter()
            subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
            seconds[name].append(time.perf_counter() - start)
    bare, _ = medians = [1000 * statistics.median(samples) for samples in seconds.values()]
    run.table(
        (
            Column(key="command", title="command"),
            Column(key="p50_ms", title="median", unit="ms", decimals=0),
            Column(key="ratio", title="times the first", unit="x", decimals=2),
        ),
        (
            {"command": f"`{name}`", "p50_ms": median, "ratio": median / bare}
            for name, median in zip(COMMANDS, medians, strict=True)
        ),
    )


if __name__ == "__main__":
    main()
