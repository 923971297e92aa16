"""Time and memory of quantizing MobileNetV2 at 224x224 on 128 images: ours beside quantize_static, calibrated alike.

python benchmarks/quantize_time.py --peers DIR [--network mobilenet_v2] [--samples 128] [-o out/quantize_time.json]

Each side runs in processes of its own, in turn, one thread each: from the float network (ours: a torch module in
memory; quantize_static: an ONNX file, prepared as its documentation wants it) to the int8 file. Time and memory do not
count imports: both sides have exported the float file, and quantized a network of one layer, before they begin. Memory
is the peak of the process above what it held before.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from int8_peers import prepared, quantized
from peers import make_importable, torchvision_network
from torch import Tensor, nn

import compress.data
from compress.fold import Fold
from compress.quantize import Quantize
from compress.stage import Context
from export.onnx.exporter import export_onnx

SIDES = ("ours", "quantize_static")
SETTING = "QDQ U8S8 per channel"


def peak_mb(*, reset: bool = False) -> float:
    """The most memory that this process has held since the last reset, in MB (Linux)."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    status = Path("/proc/self/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))) / 1024


def once(side: str, name: str, samples: int, method: str, folder: Path) -> dict[str, float]:
    """Seconds and MB of one side."""
    torch.set_num_threads(1)
    tiny, small = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()).eval(), torch.randn(2, 3, 8, 8)
    _quantize(side, tiny, (small[:1],), small, method, folder)
    model, inputs = torchvision_network(name)
    images = torch.randn(samples, *inputs[0].shape[1:], generator=torch.Generator().manual_seed(2))
    return _quantize(side, model, inputs, images, method, folder)


def _quantize(
    side: str, model: nn.Module, inputs: tuple[Tensor, ...], images: Tensor, method: str, folder: Path
) -> dict[str, float]:
    calibration, plain, file = folder / f"{side}.npz", folder / "float.onnx", folder / f"{side}.onnx"
    np.savez(calibration, x_calib=images.numpy())
    data = compress.data.load(str(calibration))
    context = Context(inputs, data=data)
    export_onnx(Fold().apply(model, context).model, inputs, plain)
    held, began, worked = peak_mb(reset=True), time.perf_counter(), time.process_time()
    if side == "ours":
        result = Quantize(samples=len(images), calibration=method).apply(model, context)  # type: ignore[arg-type]
        export_onnx(result.model, inputs, file, encodings=dict(result.encodings))
    else:
        quantized(prepared(plain, folder), file, [x[None] for x in images.numpy()], SETTING, method)
    seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - worked
    return {"seconds": seconds, "cpu_seconds": cpu_seconds, "mb": peak_mb() - held}


@click.command()
@click.option("--network", "name", default="mobilenet_v2", show_default=True)
@click.option("--samples", default=128, show_default=True)
@click.option("--method", type=click.Choice(["minmax", "entropy", "percentile"]), default="minmax", show_default=True)
@click.option("--runs", default=3, show_default=True)
@click.option("--peers", help="Folder with torchvision.")
@click.option("--side", type=click.Choice(SIDES), hidden=True)
@click.option("-o", "--output", type=click.Path(path_type=Path), default="out/quantize_time.json", show_default=True)
def main(name: str, samples: int, method: str, runs: int, peers: str | None, side: str | None, output: Path) -> None:
    """Print the medians."""
    folder = make_importable(peers)
    if side is not None:
        with tempfile.TemporaryDirectory() as scratch:
            print("result:" + json.dumps(once(side, name, samples, method, Path(scratch))))
        return
    found: dict[str, list[dict[str, Any]]] = {each: [] for each in SIDES}
    options = ["--network", name, "--samples", str(samples), "--method", method, "--peers", folder]
    for _ in range(runs):
        for each in SIDES:
            command = [sys.executable, __file__, *options, "--side", each]
            told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            found[each].append(json.loads(told.rsplit("result:", 1)[1]))
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(found, indent=1))
    middle = {each: {key: statistics.median(r[key] for r in found[each]) for key in found[each][0]} for each in SIDES}
    for each, took in middle.items():
        times = f"{took['seconds']:7.1f} s  {took['cpu_seconds']:7.1f} s of the processor"
        print(f"{name}, {samples} images, {method}: {each:<16} {times}  {took['mb']:7.0f} MB")
    no_longer = middle["ours"]["cpu_seconds"] <= middle["quantize_static"]["cpu_seconds"]
    no_more = middle["ours"]["mb"] <= middle["quantize_static"]["mb"]
    print(f"no longer: {no_longer}; no more memory: {no_more}")


if __name__ == "__main__":
    main()
