"""Latency of each engine at 224x224, one thread: float, ours in int8, and int8 of the engine's own tool.

    python -m benchmarks.engine_latency --peers DIR [--network resnet18] [--format litert]

Networks have random weights and settled batch norms; values do not change what a kernel costs. The files of an engine
are run in turn in one loop: medians. Files are kept in ``--work`` and not written again. Five minutes per network,
most of them conversions.
"""

from __future__ import annotations

from functools import partial
from typing import Literal

import click

from benchmarks.common.frame import Run, benchmark, chosen

NETWORKS = ("mobilenet_v2", "resnet18")
FORMATS = ("onnx", "litert", "ncnn", "executorch", "openvino")
BAR_FLOAT, BAR_PEER = 1.8, 1.05


@benchmark("engine_latency", __doc__, peers=True)
@click.option("--network", "names", multiple=True, help="mobilenet_v2 and resnet18 by default.")
@click.option("--format", "wanted", multiple=True, type=click.Choice(FORMATS), help="All by default.")
@click.option("--preset", type=click.Choice(["quick", "default"]), default="default", show_default=True)
@click.option("--prepare", is_flag=True, help="Write the files only; time them in a later run, on a quiet machine.")
def main(
    run: Run, names: tuple[str, ...], wanted: tuple[str, ...], preset: Literal["quick", "default"], prepare: bool
) -> None:
    from benchmarks.common.latency import geometric_mean
    from benchmarks.common.results import Column
    from benchmarks.engine_latency.measure import figures

    preset = "quick" if run.quick or prepare else preset
    rows = []
    for name in chosen(names, NETWORKS, quick=run.quick):
        for form in chosen(wanted, FORMATS, quick=run.quick):
            measure = partial(figures, name, form, run.work / name / form, preset, run.threads)
            row = run.part(f"{name} {form}", measure, preset=preset, threads=run.threads, prepare=prepare)
            beside = row["ours_ms"] / row["tool_ms"] if row["tool_ms"] else None
            rows.append({**row, "faster": row["float_ms"] / row["ours_ms"], "beside": beside})
            run.say(f"{name} {form}: {rows[-1]}")
    if prepare:
        return
    run.table(
        (
            Column(key="network", title="network"),
            Column(key="engine", title="engine"),
            Column(key="float_ms", title="float", unit="ms", decimals=2),
            Column(key="ours_ms", title="int8, ours", unit="ms", decimals=2),
            Column(key="faster", title="float / ours", decimals=2),
            Column(key="tool_ms", title="int8, the engine's own tool", unit="ms", decimals=2),
            Column(key="tool", title="the tool"),
            Column(key="beside", title="ours / tool", decimals=2),
            Column(key="nodes", title="integer, float, other nodes"),
            Column(key="bytes", title="bytes of ours"),
            Column(key="spread_percent", title="widest spread", unit="%", decimals=0),
        ),
        rows,
        title="batch 1, 224x224, medians of interleaved runs",
    )
    fast = sum(row["faster"] >= BAR_FLOAT for row in rows)
    beside = [row["beside"] for row in rows if row["beside"] is not None]
    close = sum(ratio <= BAR_PEER for ratio in beside)
    run.note(
        f"{fast} of {len(rows)} are at least {BAR_FLOAT} times faster than float; {close} of {len(beside)} within 5 % "
        f"of the engine's own tool (geometric mean {geometric_mean(beside):.2f})."
    )


if __name__ == "__main__":
    main()
