"""Time and memory of quantizing MobileNetV2 at 224x224 on 128 images: ours beside quantize_static, calibrated alike.

    python -m benchmarks.quantize_time --peers DIR [--network mobilenet_v2] [--samples 128]

Each side runs in processes of its own, in turn, one thread each: from the float network (ours: a torch module in
memory; quantize_static: an ONNX file, prepared as its documentation wants it) to the int8 file. Time and memory do not
count imports: both sides have exported the float file, and quantized a network of one layer, before they begin. Memory
is the peak of the process above what it held before.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys

import click

from benchmarks.common.frame import ROOT, Run, benchmark

SIDES = ("ours", "quantize_static")


@benchmark("quantize_time", __doc__, peers=True)
@click.option("--network", "name", default="mobilenet_v2", show_default=True)
@click.option("--samples", default=128, show_default=True)
@click.option("--method", type=click.Choice(["minmax", "entropy", "percentile"]), default="minmax", show_default=True)
@click.option("--runs", default=3, show_default=True)
def main(run: Run, name: str, samples: int, method: str, runs: int) -> None:
    from benchmarks.common.results import Column

    if run.quick:
        samples, runs = 4, 1
    rows: dict[str, list[dict[str, float]]] = {side: [] for side in SIDES}
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    for _ in range(runs):
        for side in SIDES:
            command = [sys.executable, "-m", "benchmarks.quantize_time.measure", side, name, str(samples), method]
            done = subprocess.run(
                [*command, str(run.peers)], capture_output=True, text=True, check=True,
                env={**os.environ, "PYTHONPATH": path},
            )  # fmt: skip
            rows[side].append(json.loads(done.stdout.rsplit("result:", 1)[1]))
    middle = {side: {key: statistics.median(r[key] for r in rows[side]) for key in rows[side][0]} for side in SIDES}
    run.table(
        (
            Column(key="side", title="side"),
            Column(key="seconds", title="by the clock", unit="s", decimals=1),
            Column(key="cpu_seconds", title="of the processor", unit="s", decimals=1),
            Column(key="mb", title="memory", unit="MB", decimals=0),
        ),
        ({"side": side, **took} for side, took in middle.items()),
        title=f"{name}, {samples} images, {method}, medians of {runs}",
    )
    ours, theirs = (middle[side] for side in SIDES)
    run.bar("seconds of the processor", ours["cpu_seconds"], theirs["cpu_seconds"], "at most", "s")
    run.bar("memory", ours["mb"], theirs["mb"], "at most", "MB")


if __name__ == "__main__":
    main()
