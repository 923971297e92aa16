"""How long ``compress --help`` takes beside a bare ``import click``: medians of interleaved runs.

python benchmarks/startup.py [--runs 30]
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path

import click


@click.command()
@click.option("--runs", default=30)
def main(runs: int) -> None:
    """Print both medians and their ratio."""
    command = str(Path(sys.executable).with_name("compress"))
    lines = {"python -c 'import click'": [sys.executable, "-c", "import click"], "compress --help": [command, "--help"]}
    seconds: dict[str, list[float]] = {name: [] for name in lines}
    for _ in range(runs):
        for name, line in lines.items():
            start = time.perf_counter()
            subprocess.run(line, check=True, stdout=subprocess.DEVNULL)
            seconds[name].append(time.perf_counter() - start)
    medians = [statistics.median(samples) for samples in seconds.values()]
    for name, median in zip(lines, medians, strict=True):
        click.echo(f"{name}: {1000 * median:.0f} ms")
    click.echo(f"ratio: {medians[1] / medians[0]:.2f}")


if __name__ == "__main__":
    main()
