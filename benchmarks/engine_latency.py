"""Latency of each engine at 224x224, one thread: float, ours in int8, and int8 of the engine's own tool.

python benchmarks/engine_latency.py --peers DIR [--network resnet18] [--format litert] [-o out/engine_latency.md]

Networks have random weights and settled batch norms; values do not change what a kernel costs. The files of an engine
are run in turn in one loop: medians. Files are kept in ``--work`` and not written again. Networks and NNCF come from a
folder; see int8_accuracy.py and int8_latency.py. About five minutes per network, most of them conversions.
"""

from __future__ import annotations

import json
import math
import platform
import statistics
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import click
import torch
from engine_peers import TOOLS
from peers import make_importable, torchvision_network
from torch import Tensor, nn

from compress.data import Data, SampleSplit
from compress.quantize import Quantize
from compress.quantize.detect import detected
from compress.stage import Context
from export.facts import formats
from export.format import Job, exporter
from runtimes.benchmark import PRESETS, PresetName, interleave, sentinel
from runtimes.bound import Binding, one_feed
from runtimes.runtime import Options, available, engine_named

NETWORKS = ("mobilenet_v2", "resnet18")
FORMATS = ("onnx", "litert", "ncnn", "executorch", "openvino")
SAMPLES = 8
BAR_FLOAT, BAR_PEER = 1.8, 1.05


def files(model: nn.Module, images: Tensor, form: str, work: Path) -> dict[str, list[Path]]:
    """The float file, ours in int8 and the tool's, each once."""
    known = formats()[form]
    target = detected().target if form == "onnx" else known.targets[0]
    layout = "nhwc" if form == "litert" else "nchw"
    paths = {kind: work / f"{kind}{known.suffix}" for kind in ("float", "ours", "tool")}
    context = Context((images[:1],), Data("noise", {"calibration": SampleSplit(images, None)}))
    result = Quantize(samples=SAMPLES).apply(model, context)
    for kind, encodings in (("float", {}), ("ours", dict(result.encodings))):
        if not paths[kind].exists():
            job = Job(result.model, (images[:1],), target, encodings, dynamic_batch=False, layout=layout)
            exporter(form).export(job, paths[kind])
    made = {kind: [paths[kind]] for kind in ("float", "ours")}
    if form in TOOLS:
        made["tool"] = sorted(work.glob(f"tool*{known.suffix}"))
        if not made["tool"]:
            made["tool"] = TOOLS[form][1](result.model, paths["float"], list(images.split(1)), paths["tool"])
    return made


def timed(made: list[Path], image: Tensor, form: str, preset: PresetName) -> list[tuple[float, float]]:
    """The median of each file in ms and its spread (p90 - p10) / p50; run in turn in one loop."""
    engine = engine_named(formats()[form].engine)
    runtimes = [engine.load(file, Options(threads=1)) for file in made]
    layout = [("nhwc" if r.inputs[0].shape[-1] == image.shape[1] else "nchw") for r in runtimes]
    feeds = [one_feed(r, Binding(layout=order), [image.numpy()]) for r, order in zip(runtimes, layout, strict=True)]
    try:
        works = [partial(r.run, feed) for r, feed in zip(runtimes, feeds, strict=True)]
        rows = interleave(works, PRESETS[preset], sentinel()).rows_ms
    finally:
        for each in runtimes:
            each.close()
    found = []
    for row in rows:
        tenths = statistics.quantiles(row, n=10)
        found.append((statistics.median(row), (tenths[8] - tenths[0]) / statistics.median(row)))
    return found


def measure(name: str, form: str, work: Path, preset: PresetName) -> dict[str, Any]:
    """A row of the table."""
    torch.manual_seed(0)
    model, inputs = torchvision_network(name)
    images = torch.randn(SAMPLES, *inputs[0].shape[1:], generator=torch.Generator().manual_seed(1))
    work.mkdir(parents=True, exist_ok=True)
    made = files(model, images, form, work)
    tool = made.get("tool", [])
    if len(tool) > 1:  # the fastest setting
        tool = [min(zip(timed(tool, images[:1], form, "quick"), tool, strict=True))[1]]
    order = [*made["float"], *made["ours"], *tool]
    times = timed(order, images[:1], form, preset)
    runtime = engine_named(formats()[form].engine).load(made["ours"][0], Options())
    layout = "nhwc" if form == "litert" else "nchw"
    executed = runtime.executed_graph(one_feed(runtime, Binding(layout=layout), [images[:1].numpy()]))
    runtime.close()
    return {
        "network": name,
        "format": form,
        "version": available(formats()[form].engine)[0],
        "tool": TOOLS[form][0] if form in TOOLS else None,
        "float_ms": times[0][0],
        "ours_ms": times[1][0],
        "tool_ms": times[2][0] if tool else None,
        "spread": max(spread for _, spread in times),
        "nodes": [executed.integer, executed.float, executed.other] if executed else None,
        "bytes": made["ours"][0].stat().st_size,
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown, with the bars."""
    lines = [
        f"Printed by `python benchmarks/engine_latency.py`, {datetime.now(UTC):%Y-%m-%d}, {platform.machine()}, 1 "
        "thread, batch 1, 224x224, medians of interleaved runs.",
        "",
        "| network | engine | float | int8, ours | float / ours | the engine's own tool | ours / tool | integer, "
        "float, other nodes | widest spread |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for r in rows:
        tool = f"{r['tool_ms']:.2f} ms ({r['tool']})" if r["tool_ms"] else "not in its package"
        ratio = f"{r['ours_ms'] / r['tool_ms']:.2f}" if r["tool_ms"] else "-"
        nodes = ", ".join(map(str, r["nodes"])) if r["nodes"] else "not told"
        lines.append(
            f"| {r['network']} | {r['format']} {r['version']} | {r['float_ms']:.2f} ms | {r['ours_ms']:.2f} ms | "
            f"{r['float_ms'] / r['ours_ms']:.2f} | {tool} | {ratio} | {nodes} | {100 * r['spread']:.0f} % |"
        )
    fast = sum(r["float_ms"] / r["ours_ms"] >= BAR_FLOAT for r in rows)
    ratios = [r["ours_ms"] / r["tool_ms"] for r in rows if r["tool_ms"]]
    close = sum(ratio <= BAR_PEER for ratio in ratios)
    mean = math.exp(statistics.fmean(map(math.log, ratios))) if ratios else math.nan
    lines += [
        "",
        f"{fast} of {len(rows)} are at least {BAR_FLOAT} times faster than float; {close} of {len(ratios)} within 5 % "
        f"of the engine's own tool (geometric mean {mean:.2f}).",
    ]
    return "\n".join(lines) + "\n"


@click.command()
@click.option("--network", "names", multiple=True, help="mobilenet_v2 and resnet18 by default.")
@click.option("--format", "wanted", multiple=True, type=click.Choice(FORMATS), help="All by default.")
@click.option("--peers", help="Folder with torchvision and NNCF.")
@click.option("--preset", type=click.Choice(["quick", "standard"]), default="standard", show_default=True)
@click.option("--prepare", is_flag=True, help="Write the files only; time them in a later run, on a quiet machine.")
@click.option("--work", type=click.Path(path_type=Path), default="out/engine_latency", show_default=True)
@click.option("-o", "--output", type=click.Path(path_type=Path), default="out/engine_latency.md", show_default=True)
def main(
    names: tuple[str, ...],
    wanted: tuple[str, ...],
    peers: str | None,
    preset: PresetName,
    prepare: bool,
    work: Path,
    output: Path,
) -> None:
    """Print the table, and write it."""
    make_importable(peers)
    torch.set_num_threads(1)
    rows = []
    for name in names or NETWORKS:
        for form in wanted or FORMATS:
            rows.append(measure(name, form, work / name / form, "quick" if prepare else preset))
            print(json.dumps(rows[-1]), flush=True)
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(table(rows))
    print(table(rows))


if __name__ == "__main__":
    main()
