"""Networks of ImageNet's size with 2.5 times fewer multiply-adds, as files that run: ours beside Torch-Pruning.

python benchmarks/imagenet_latency.py --peers DIR [--network resnet50] [--macs 2.5] [-o out/imagenet_latency.json]

All files (the network, ours in several settings, Torch-Pruning's in three with its ratio found by bisection) are made
with random weights, folded and exported the same way, and timed in turn in one loop in ONNX Runtime on one thread at
224x224; medians. Weights do not change what a dense convolution costs. Only files within 5 % of the multiply-adds asked
for are compared. ``--clock processor`` takes the time that the thread ran, for a machine that others use too.

The peers come from a folder: pip install --no-deps --target DIR torchvision==0.28.0 timm==1.0.31 torch-pruning==1.6.1
pillow huggingface-hub
"""

from __future__ import annotations

import copy
import json
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal

import click
import numpy as np
import torch
from peers import macs, make_importable, parameters, torch_pruning, torchvision_network
from torch import Tensor, nn

from compress.deploy.clock import MachineClock
from compress.errors import InvalidInput
from compress.fold import Fold
from compress.prune import Prune
from compress.stage import Context
from export.onnx.exporter import export_onnx
from runtimes.benchmark import PRESETS, PresetName, interleave, sentinel
from runtimes.runtime import Options, engine_named, random_inputs

NETWORKS = ("resnet50", "resnet18", "mobilenet_v2")
BAR, SAME = 1.9, 0.05
Clock = Literal["wall", "processor"]
ORIGINAL, OURS, PEER = "original", "ours", "Torch-Pruning"
SETTINGS: dict[str, dict[str, Any]] = {
    f"{OURS}, {scope}, round_to={step}": {"scope": scope, "round_to": step}
    for scope in ("layer", "global")
    for step in (8, 16)
}
PEER_SETTINGS: dict[str, dict[str, Any]] = {
    PEER: {},
    f"{PEER}, round_to=8": {"round_to": 8},
    f"{PEER}, round_to=16": {"round_to": 16},
}
Make = Callable[[nn.Module, tuple[Tensor, ...], float], nn.Module]


def ours(options: dict[str, Any]) -> Make:
    """The network with ``factor`` times fewer multiply-adds, by the stage."""

    def make(model: nn.Module, inputs: tuple[Tensor, ...], factor: float) -> nn.Module:
        return Prune(macs=factor, **options).apply(model, Context(inputs, clock=MachineClock())).model

    return make


def theirs(options: dict[str, Any]) -> Make:
    """The network of the ratio that comes nearest to ``factor`` times fewer multiply-adds, by Torch-Pruning."""

    def make(model: nn.Module, inputs: tuple[Tensor, ...], factor: float) -> nn.Module:
        budget = macs(model, inputs) / factor
        low, high = 0.0, 0.9
        found: list[tuple[float, nn.Module]] = []
        for _ in range(9):
            middle = (low + high) / 2
            pruned = torch_pruning(copy.deepcopy(model), inputs, ratio=middle, **options)
            cost = macs(pruned, inputs)
            low, high = (low, middle) if cost <= budget else (middle, high)
            found = sorted([*found, (abs(cost / budget - 1), pruned)], key=lambda pair: pair[0])[:1]
        return found[0][1]

    return make


def medians(files: list[Path], preset: PresetName, clock: Clock) -> list[tuple[float, float]]:
    """The median latency of each file in milliseconds, and its spread (p90 - p10) / p50; run in turn in one loop."""
    engine = engine_named("onnxruntime")
    runtimes = [engine.load(file, Options(threads=1)) for file in files]
    try:
        works = [partial(runtime.run, random_inputs(runtime.inputs, seed=0)) for runtime in runtimes]
        ticks = time.perf_counter_ns if clock == "wall" else time.process_time_ns
        samples = interleave(works, PRESETS[preset], sentinel(), clock_ns=ticks)
    finally:
        for runtime in runtimes:
            runtime.close()
    found = []
    for taken in samples.rows_ms:
        low, middle, high = (float(value) for value in np.percentile(taken, (10, 50, 90)))
        found.append((middle, (high - low) / middle))
    return found


def row(name: str, factor: float, folder: Path, preset: PresetName, clock: Clock) -> list[dict[str, Any]]:
    """A record per file of one network: multiply-adds, parameters, median latency, the speed-up over the original."""
    model, inputs = torchvision_network(name)
    networks: dict[str, nn.Module] = {ORIGINAL: model}
    makers = {title: ours(options) for title, options in SETTINGS.items()}
    makers |= {title: theirs(options) for title, options in PEER_SETTINGS.items()}
    for title, make in makers.items():
        try:
            networks[title] = make(model, inputs, factor)
        except InvalidInput as error:
            print(f"  {title}: {error}")
    files = []
    for place, network in enumerate(networks.values()):
        files.append(folder / f"{name}_{place}.onnx")
        folded = Fold().apply(network, Context(inputs)).model
        export_onnx(folded, inputs, files[-1])
    measured = medians(files, preset, clock)
    return [
        {
            "network": name,
            "file": title,
            "macs_ratio": macs(model, inputs) / macs(network, inputs),
            "params_ratio": parameters(model) / parameters(network),
            "p50_ms": median,
            "spread": spread,
            "speedup": measured[0][0] / median,
            "clock": clock,
        }
        for (title, network), (median, spread) in zip(networks.items(), measured, strict=True)
    ]


def fastest(records: list[dict[str, Any]], title: str, factor: float) -> dict[str, Any]:
    """The fastest of the files whose names begin with ``title``, of those with as many multiply-adds as asked for."""
    own = [r for r in records if r["file"].startswith(title)]
    same = [r for r in own if abs(r["macs_ratio"] / factor - 1) <= SAME]
    return min(same or own, key=lambda r: float(r["p50_ms"]))


@click.command()
@click.option("--network", "names", multiple=True, type=click.Choice(NETWORKS), help="All three by default.")
@click.option("--macs", "factor", default=2.5, show_default=True, help="Times fewer multiply-adds.")
@click.option("--preset", type=click.Choice(["standard", "quick"]), default="standard", show_default=True)
@click.option("--clock", type=click.Choice(["wall", "processor"]), default="wall", show_default=True)
@click.option("--peers", help="Folder with torchvision, timm and torch_pruning.")
@click.option("-o", "--output", type=click.Path(path_type=Path), default="out/imagenet_latency.json", show_default=True)
def main(
    names: tuple[str, ...],
    factor: float,
    preset: Literal["standard", "quick"],
    clock: Clock,
    peers: str | None,
    output: Path,
) -> None:
    """Print each file's multiply-adds and latency, and whether the bars hold: 1.9 times faster, and ahead."""
    make_importable(peers)
    torch.set_num_threads(1)
    output.parent.mkdir(parents=True, exist_ok=True)
    records: list[dict[str, Any]] = []
    for name in names or NETWORKS:
        with tempfile.TemporaryDirectory() as folder:
            found = row(name, factor, Path(folder), preset, clock)
        records += found
        output.write_text(json.dumps(records, indent=1))
        for r in found:
            print(
                f"{name:<13} {r['file']:<28} MACs 1/{r['macs_ratio']:.2f}  parameters 1/{r['params_ratio']:.2f}  "
                f"{r['p50_ms']:8.2f} ms (spread {r['spread']:.0%})  {r['speedup']:.2f}x"
            )
        best, peer = fastest(found, OURS, factor), fastest(found, PEER, factor)
        holds = best["speedup"] >= BAR and best["p50_ms"] < peer["p50_ms"]
        print(
            f"{name:<13} fastest: {best['file']} {best['speedup']:.2f}x, {peer['file']} {peer['speedup']:.2f}x: "
            f"{'the bars hold' if holds else f'NOT at least {BAR}x and ahead'}",
            flush=True,
        )


if __name__ == "__main__":
    main()
