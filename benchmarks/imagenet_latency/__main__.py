"""Networks of ImageNet's size with 2.5 times fewer multiply-adds, as files that run: ours beside Torch-Pruning.

    python -m benchmarks.imagenet_latency --peers DIR [--network resnet50] [--macs 2.5]

All files (the network, ours in several settings, Torch-Pruning's in three with its ratio found by bisection) are made
with random weights, folded and exported the same way, and timed in turn in one loop in ONNX Runtime on one thread at
224x224; medians. Weights do not change what a dense convolution costs. Only files within 5 % of the multiply-adds asked
for are compared. ``--clock processor`` takes the time that the thread ran, for a machine that others use too.
"""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path
from typing import Literal

import click

from benchmarks.common.frame import Run, benchmark, chosen

NETWORKS = ("resnet50", "resnet18", "mobilenet_v2")
BAR = 1.9


@benchmark("imagenet_latency", __doc__, peers=True)
@click.option("--network", "names", multiple=True, type=click.Choice(NETWORKS), help="All three by default.")
@click.option("--macs", "factor", default=2.5, show_default=True, help="Times fewer multiply-adds.")
@click.option("--preset", type=click.Choice(["default", "quick"]), default="default", show_default=True)
@click.option("--clock", type=click.Choice(["wall", "processor"]), default="wall", show_default=True)
def main(
    run: Run,
    names: tuple[str, ...],
    factor: float,
    preset: Literal["default", "quick"],
    clock: Literal["wall", "processor"],
) -> None:
    from benchmarks.common.results import Column
    from benchmarks.imagenet_latency.measure import OURS, PEER, fastest, figures

    preset = "quick" if run.quick else preset
    settings = {"factor": factor, "preset": preset, "clock": clock}
    rows = []
    for name in chosen(names, NETWORKS[::-1], quick=run.quick):
        with tempfile.TemporaryDirectory() as folder:
            files = run.part(name, partial(figures, name, factor, Path(folder), preset, clock), **settings)
        rows += files
        best, peer = fastest(files, OURS, factor), fastest(files, PEER, factor)
        run.bar(f"{name}, {best['file']}, times as fast as the original", best["speedup"], BAR, "at least", "x")
        run.bar(f"{name}, {best['file']} beside {peer['file']}", best["p50_ms"], peer["p50_ms"], "at most", "ms")
    run.table(
        (
            Column(key="network", title="network"),
            Column(key="file", title="file"),
            Column(key="macs_ratio", title="multiply-adds, times fewer", unit="x", decimals=2),
            Column(key="params_ratio", title="parameters, times fewer", unit="x", decimals=2),
            Column(key="p50_ms", title="p50", unit="ms", decimals=2),
            Column(key="spread_percent", title="spread", unit="%", decimals=0),
            Column(key="speedup", title="times faster", unit="x", decimals=2),
        ),
        rows,
        title=f"by the {clock} clock" if clock == "wall" else "seconds of the processor",
    )


if __name__ == "__main__":
    main()
