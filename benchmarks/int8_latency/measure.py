"""Int8 files of one network, ours and those of quantize_static in its settings, timed beside the float file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from torch import Tensor

import compress.data
from benchmarks.common.latency import Timed, timed
from benchmarks.peers.networks import torchvision_network
from benchmarks.peers.onnxruntime import SETTINGS, prepared, quantized
from compress.fold import Fold
from compress.quantize import Quantize
from compress.quantize.ranges.ranges import Ranges
from compress.stage import Context
from export.onnx.exporter import export_onnx
from runtimes.measure.presets import PresetName
from runtimes.runtime import Options, Runtime, engine_named

SAMPLES = 16


def times(files: list[Path], x: Tensor, preset: PresetName, threads: int) -> list[Timed]:
    """The time of each file in ONNX Runtime on the one input, run in turn."""

    def feed(file: Runtime) -> dict[str, np.ndarray[Any, Any]]:
        return {file.inputs[0].name: x.numpy()}

    return timed(files, "onnxruntime", feed, preset, threads=threads)


def figures(name: str, folder: Path, preset: PresetName, revert: bool, threads: int) -> dict[str, Any]:
    """The float file, ours, and the fastest of quantize_static's, timed in turn; their bytes and our nodes."""
    model, inputs = torchvision_network(name)
    samples = torch.randn(SAMPLES, *inputs[0].shape[1:], generator=torch.Generator().manual_seed(2))
    calibration = folder / "calibration.npz"
    np.savez(calibration, x_calib=samples.numpy())
    context = Context(inputs, data=compress.data.load(str(calibration)), clock=compress.MachineClock())
    plain, ours = folder / "float.onnx", folder / "ours.onnx"
    export_onnx(Fold().apply(model, context).model, inputs, plain)
    result = Quantize(ranges=Ranges(samples=SAMPLES), revert_slower=revert).apply(model, context)
    export_onnx(result.model, inputs, ours, encodings=dict(result.encodings))
    ready = prepared(plain, folder)
    theirs = {}
    for number, setting in enumerate(SETTINGS):
        try:
            theirs[setting] = quantized(ready, folder / f"{number}.onnx", [x[None].numpy() for x in samples], setting)
        except Exception as error:  # noqa: BLE001 - a setting that the peer cannot do is no candidate
            click.echo(f"  quantize_static, {setting}: {error}", err=True)
    tried = times(list(theirs.values()), inputs[0], "quick", threads)
    first = {setting: each.p50_ms for setting, each in zip(theirs, tried, strict=True)}
    best = min(first, key=lambda setting: first[setting])
    files = [plain, ours, theirs[best]]
    found = times(files, inputs[0], preset, threads)
    engine = engine_named("onnxruntime").load(ours, Options())
    executed = engine.executed_graph()
    engine.close()
    assert executed is not None, "ONNX Runtime tells what it executes"
    return {
        "network": name,
        **dict(zip(("float_ms", "ours_ms", "peer_ms"), (each.p50_ms for each in found), strict=True)),
        "spread_percent": 100 * max(each.spread for each in found),
        "setting": best,
        "bytes": ours.stat().st_size / plain.stat().st_size,
        "nodes": f"{executed.integer} / {executed.float}",
        "reverted": ", ".join(sorted({skip.layer for skip in result.skipped if "its region takes" in skip.reason})),
    }
