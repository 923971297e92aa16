"""Latency of int8 files at 224x224 in ONNX Runtime, one thread: float, ours, and quantize_static in its best setting.

    python -m benchmarks.int8_latency --peers DIR [--network resnet18]

Networks have random weights and settled batch norms; values do not change what a kernel costs. ONNX Runtime's own
quantization gets five settings, which are timed first; the fastest one is timed again with the float file and ours, in
turn in one loop: medians. ``--as-quantized`` leaves in integers what is slower there. A minute or two per network.
"""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path
from typing import Literal

import click

from benchmarks.common.frame import Run, benchmark, chosen

NETWORKS = (
    "resnet18",
    "resnet50",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "mobilenet_v3_large",
    "squeezenet1_1",
    "shufflenet_v2_x1_0",
    "efficientnet_b0",
    "regnet_x_400mf",
    "densenet121",
)
BAR_PEER, BAR_FLOAT, BAR_MEAN = 0.90, 1.02, 2.2


@benchmark("int8_latency", __doc__, peers=True)
@click.option("--network", "names", multiple=True, type=click.Choice(NETWORKS), help="All ten by default.")
@click.option("--preset", type=click.Choice(["default", "quick"]), default="default", show_default=True)
@click.option("--revert/--as-quantized", default=True, show_default=True)
def main(run: Run, names: tuple[str, ...], preset: Literal["quick", "default"], revert: bool) -> None:
    from benchmarks.common.latency import geometric_mean
    from benchmarks.common.results import Column
    from benchmarks.int8_latency.measure import figures

    preset = "quick" if run.quick else preset
    settings = {"preset": preset, "revert": revert, "threads": run.threads}
    rows = []
    for name in chosen(names, NETWORKS, quick=run.quick):
        with tempfile.TemporaryDirectory() as folder:
            measure = partial(figures, name, Path(folder), preset, revert, run.threads)
            row = run.part(name, measure, **settings)
        rows.append({**row, "beside": row["ours_ms"] / row["peer_ms"], "faster": row["float_ms"] / row["ours_ms"]})
        run.say(f"{name}: {rows[-1]}")
    run.table(
        (
            Column(key="network", title="network"),
            Column(key="float_ms", title="float", unit="ms", decimals=2),
            Column(key="ours_ms", title="ours", unit="ms", decimals=2),
            Column(key="peer_ms", title="quantize_static", unit="ms", decimals=2),
            Column(key="setting", title="its setting"),
            Column(key="beside", title="ours / quantize_static", decimals=2),
            Column(key="faster", title="float / ours", decimals=2),
            Column(key="bytes", title="bytes of float", decimals=3),
            Column(key="nodes", title="integer / float nodes"),
            Column(key="spread_percent", title="widest spread", unit="%", decimals=0),
            Column(key="reverted", title="left in float, as it is faster"),
        ),
        rows,
    )
    beside = geometric_mean(row["beside"] for row in rows)
    run.bar("geometric mean of ours / quantize_static", beside, BAR_PEER, "at most")
    run.bar("slowest beside float", max(1 / row["faster"] for row in rows), BAR_FLOAT, "at most")
    run.bar("geometric mean of float / ours", geometric_mean(row["faster"] for row in rows), BAR_MEAN, "at least")


if __name__ == "__main__":
    main()
