"""Files of one network for one engine: float, ours in int8, and int8 of the engine's own tool, timed in turn."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.common.latency import Timed, timed
from benchmarks.peers.engine_tools import TOOLS
from benchmarks.peers.networks import torchvision_network
from compress.data import Data, SampleSplit
from compress.quantize import Quantize
from compress.quantize.detect import detected
from compress.quantize.ranges.ranges import Ranges
from compress.stage import Context
from export.facts import formats
from export.format import Job, exporter
from runtimes.bound import Binding, one_feed
from runtimes.measure.presets import PresetName
from runtimes.runtime import Options, Runtime, available, engine_named

SAMPLES = 8


def layout_of(form: str) -> Literal["nchw", "nhwc"]:
    """The layout of images in files of this format."""
    return "nhwc" if form == "litert" else "nchw"


def files(model: nn.Module, images: Tensor, form: str, work: Path) -> dict[str, list[Path]]:
    """The float file, ours in int8 and the tool's, each once."""
    known = formats()[form]
    target = detected().target if form == "onnx" else known.targets[0]
    layout = layout_of(form)
    paths = {kind: work / f"{kind}{known.suffix}" for kind in ("float", "ours", "tool")}
    context = Context((images[:1],), Data("noise", {"calibration": SampleSplit(images, None)}))
    result = Quantize(ranges=Ranges(samples=SAMPLES)).apply(model, context)
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


def times(made: list[Path], image: Tensor, form: str, preset: PresetName, threads: int) -> list[Timed]:
    """The time of each file in its engine on the one image, run in turn."""

    def feed(file: Runtime) -> Mapping[str, NDArray[Any]]:
        layout: Literal["nchw", "nhwc"] = "nhwc" if file.inputs[0].shape[-1] == image.shape[1] else "nchw"
        return one_feed(file, Binding(layout=layout), [image.numpy()])

    return timed(made, formats()[form].engine, feed, preset, threads=threads)


def figures(name: str, form: str, work: Path, preset: PresetName, threads: int) -> dict[str, Any]:
    """A row of the table."""
    torch.manual_seed(0)
    model, inputs = torchvision_network(name)
    images = torch.randn(SAMPLES, *inputs[0].shape[1:], generator=torch.Generator().manual_seed(1))
    work.mkdir(parents=True, exist_ok=True)
    made = files(model, images, form, work)
    tool = made.get("tool", [])
    if len(tool) > 1:  # the fastest setting
        tried = times(tool, images[:1], form, "quick", threads)
        tool = [min(zip(tried, tool, strict=True), key=lambda pair: pair[0].p50_ms)[1]]
    order = [*made["float"], *made["ours"], *tool]
    medians = times(order, images[:1], form, preset, threads)
    runtime = engine_named(formats()[form].engine).load(made["ours"][0], Options())
    layout = layout_of(form)
    executed = runtime.executed_graph(one_feed(runtime, Binding(layout=layout), [images[:1].numpy()]))
    runtime.close()
    nodes = f"{executed.integer}, {executed.float}, {executed.other}" if executed else None
    return {
        "network": name,
        "engine": f"{form} {available(formats()[form].engine)[0]}",
        "float_ms": medians[0].p50_ms,
        "ours_ms": medians[1].p50_ms,
        "tool": TOOLS[form][0] if form in TOOLS else "not in its package",
        "tool_ms": medians[2].p50_ms if tool else None,
        "nodes": nodes,
        "bytes": made["ours"][0].stat().st_size,
        "spread_percent": 100 * max(each.spread for each in medians),
    }
