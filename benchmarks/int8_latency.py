"""Latency of int8 files at 224x224 in ONNX Runtime, one thread: float, ours, and quantize_static in its best setting.

python benchmarks/int8_latency.py --peers DIR [--network resnet18] [-o out/int8_latency.json]

Networks have random weights and settled batch norms; values do not change what a kernel costs. ONNX Runtime's own
quantization gets five settings, which are timed first; the fastest one is timed again with the float file and ours, in
turn in one loop: medians. ``--as-quantized`` leaves in integers what is slower there. A minute or two per network.

The networks come from a folder: make peers, or pip install --no-deps --target DIR torchvision==0.28.0 timm==1.0.31
torch-pruning==1.6.1 pillow huggingface-hub
"""

from __future__ import annotations

import json
import math
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from int8_peers import SETTINGS, prepared, quantized
from peers import make_importable, torchvision_network
from torch import Tensor

import compress.data
from compress.fold import Fold
from compress.quantize import Quantize
from compress.stage import Context
from export.onnx.exporter import export_onnx
from runtimes.benchmark import PRESETS, PresetName, interleave, sentinel
from runtimes.runtime import Options, engine_named

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
SAMPLES = 16
BAR_PEER, BAR_FLOAT, BAR_MEAN = 0.90, 1.02, 2.2


def times(files: list[Path], x: Tensor, preset: PresetName) -> list[tuple[float, float]]:
    """The median of each file in ms and its spread (p90 - p10) / p50; run in turn in one loop."""
    engine = engine_named("onnxruntime")
    runtimes = [engine.load(file, Options(threads=1)) for file in files]
    try:
        works = [partial(each.run, {each.inputs[0].name: x.numpy()}) for each in runtimes]
        samples = interleave(works, PRESETS[preset], sentinel())
    finally:
        for each in runtimes:
            each.close()
    low, middle, high = np.percentile(np.asarray(samples.rows_ms), (10, 50, 90), axis=1)
    return [(float(m), float((h - a) / m)) for a, m, h in zip(low, middle, high, strict=True)]


def row(name: str, folder: Path, preset: PresetName, revert: bool) -> dict[str, Any]:
    """The figures of one network."""
    model, inputs = torchvision_network(name)
    samples = torch.randn(SAMPLES, *inputs[0].shape[1:], generator=torch.Generator().manual_seed(2))
    calibration = folder / "calibration.npz"
    np.savez(calibration, x_calib=samples.numpy())
    context = Context(inputs, data=compress.data.load(str(calibration)), clock=compress.MachineClock())
    plain, ours = folder / "float.onnx", folder / "ours.onnx"
    export_onnx(Fold().apply(model, context).model, inputs, plain)
    result = Quantize(samples=SAMPLES, revert_slower=revert).apply(model, context)
    export_onnx(result.model, inputs, ours, encodings=dict(result.encodings))

    ready = prepared(plain, folder)
    theirs = {}
    for number, setting in enumerate(SETTINGS):
        try:
            theirs[setting] = quantized(ready, folder / f"{number}.onnx", [x[None].numpy() for x in samples], setting)
        except Exception as error:  # noqa: BLE001 - a setting that the peer cannot do is no candidate
            print(f"  quantize_static, {setting}: {error}")
    first = dict(zip(theirs, times(list(theirs.values()), inputs[0], "quick"), strict=True))
    best = min(first, key=lambda setting: first[setting][0])
    found = times([plain, ours, theirs[best]], inputs[0], preset)
    engine = engine_named("onnxruntime").load(ours, Options())
    executed = engine.executed_graph()
    engine.close()
    return {
        "network": name,
        "float_ms": found[0][0],
        "ours_ms": found[1][0],
        "peer_ms": found[2][0],
        "spread": max(spread for _, spread in found),
        "setting": best,
        "settings_ms": {setting: ms for setting, (ms, _) in first.items()},
        "bytes": [file.stat().st_size for file in (plain, ours, theirs[best])],
        "integer_nodes": executed.integer,
        "float_nodes": executed.float,
        "reverted": sorted({skip.layer for skip in result.skipped if "its region takes" in skip.reason}),
    }


def mean(values: list[float]) -> float:
    """The geometric mean."""
    return math.exp(sum(math.log(value) for value in values) / len(values))


@click.command()
@click.option("--network", "names", multiple=True, type=click.Choice(NETWORKS), help="All ten by default.")
@click.option("--preset", type=click.Choice(["standard", "quick"]), default="standard", show_default=True)
@click.option("--revert/--as-quantized", default=True, show_default=True)
@click.option("--peers", help="Folder with torchvision.")
@click.option("-o", "--output", type=click.Path(path_type=Path), default="out/int8_latency.json", show_default=True)
def main(names: tuple[str, ...], preset: PresetName, revert: bool, peers: str | None, output: Path) -> None:
    """Print a row per network, and whether the bars hold."""
    make_importable(peers)
    torch.set_num_threads(1)
    output.parent.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    for name in names or NETWORKS:
        with tempfile.TemporaryDirectory() as folder:
            found = row(name, Path(folder), preset, revert)
        rows.append(found)
        output.write_text(json.dumps(rows, indent=1))
        bytes_ratio = found["bytes"][1] / found["bytes"][0]
        print(
            f"{name:<19} float {found['float_ms']:7.2f}  ours {found['ours_ms']:7.2f}  quantize_static "
            f"{found['peer_ms']:7.2f} ms ({found['setting']})  ours/peer {found['ours_ms'] / found['peer_ms']:.2f}  "
            f"float/ours {found['float_ms'] / found['ours_ms']:.2f}  bytes {bytes_ratio:.3f}  "
            f"nodes {found['integer_nodes']}/{found['float_nodes']}  spread {found['spread']:.0%}  "
            f"reverted: {', '.join(found['reverted']) or 'none'}",
            flush=True,
        )
    beside = mean([r["ours_ms"] / r["peer_ms"] for r in rows])
    slowest = max(r["ours_ms"] / r["float_ms"] for r in rows)
    speedup = mean([r["float_ms"] / r["ours_ms"] for r in rows])
    print(f"geometric mean of ours / quantize_static: {beside:.3f} (bar {BAR_PEER}: {beside <= BAR_PEER})")
    print(f"slowest beside float: {slowest:.2f} (bar {BAR_FLOAT}: {slowest <= BAR_FLOAT})")
    print(f"geometric mean of float / ours: {speedup:.2f} (bar {BAR_MEAN}: {speedup >= BAR_MEAN})")


if __name__ == "__main__":
    main()
