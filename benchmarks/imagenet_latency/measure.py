"""Networks of ImageNet's size at a given number of multiply-adds, by both sides in several settings, timed in turn."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from torch import Tensor, nn

from benchmarks.common.latency import Clock, timed
from benchmarks.peers.networks import macs, parameters, torchvision_network
from benchmarks.peers.torch_pruning import torch_pruning
from compress.deploy.clock import MachineClock
from compress.errors import InvalidInput
from compress.fold import Fold
from compress.prune import Prune
from compress.stage import Context
from export.onnx.exporter import export_onnx
from runtimes.measure.presets import PresetName
from runtimes.runtime import random_inputs

ORIGINAL, OURS, PEER = "original", "ours", "Torch-Pruning"
SETTINGS: dict[str, dict[str, Any]] = {
    f"{OURS}, {scope}, round_to={step}": {"select": scope, "round_to": step}
    for scope in ("layer", "global")
    for step in (8, 16)
}
PEER_SETTINGS: dict[str, dict[str, Any]] = {
    PEER: {},
    f"{PEER}, round_to=8": {"round_to": 8},
    f"{PEER}, round_to=16": {"round_to": 16},
}
SAME = 0.05
"""How far the multiply-adds of a file may be from those asked for, to be compared."""
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


def figures(name: str, factor: float, folder: Path, preset: PresetName, clock: Clock) -> list[dict[str, Any]]:
    """A row per file of one network: multiply-adds, parameters, median latency, the speed-up over the original."""
    model, inputs = torchvision_network(name)
    networks: dict[str, nn.Module] = {ORIGINAL: model}
    makers = {title: ours(options) for title, options in SETTINGS.items()}
    makers |= {title: theirs(options) for title, options in PEER_SETTINGS.items()}
    for title, make in makers.items():
        try:
            networks[title] = make(model, inputs, factor)
        except InvalidInput as error:
            click.echo(f"  {title}: {error}", err=True)
    files = []
    for place, network in enumerate(networks.values()):
        files.append(folder / f"{name}_{place}.onnx")
        export_onnx(Fold().apply(network, Context(inputs)).model, inputs, files[-1])
    measured = timed(files, "onnxruntime", lambda file: random_inputs(file.inputs, seed=0), preset, clock=clock)
    return [
        {
            "network": name,
            "file": title,
            "macs_ratio": macs(model, inputs) / macs(network, inputs),
            "params_ratio": parameters(model) / parameters(network),
            "p50_ms": time.p50_ms,
            "spread_percent": 100 * time.spread,
            "speedup": measured[0].p50_ms / time.p50_ms,
        }
        for (title, network), time in zip(networks.items(), measured, strict=True)
    ]


def fastest(rows: list[dict[str, Any]], title: str, factor: float) -> dict[str, Any]:
    """The fastest of the files whose names begin with ``title``, of those with as many multiply-adds as asked for."""
    own = [row for row in rows if row["file"].startswith(title)]
    same = [row for row in own if abs(row["macs_ratio"] / factor - 1) <= SAME]
    return min(same or own, key=lambda row: float(row["p50_ms"]))
