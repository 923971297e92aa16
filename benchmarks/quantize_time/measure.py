"""One side of the comparison, in a process of its own: ``python -m benchmarks.quantize_time.measure SIDE ...``."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import compress.data
from benchmarks.peers.folder import make_importable
from benchmarks.peers.networks import torchvision_network
from benchmarks.peers.onnxruntime import prepared, quantized
from compress.fold import Fold
from compress.quantize import Quantize
from compress.stage import Context
from export.onnx.exporter import export_onnx

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
        stage = Quantize.model_validate({"ranges": {"samples": len(images), "calibration": method}})
        result = stage.apply(model, context)
        export_onnx(result.model, inputs, file, encodings=dict(result.encodings))
    else:
        quantized(prepared(plain, folder), file, [x[None] for x in images.numpy()], SETTING, method)
    seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - worked
    return {"seconds": seconds, "cpu_seconds": cpu_seconds, "mb": peak_mb() - held}


if __name__ == "__main__":
    side, name, samples, method, peers = sys.argv[1:]
    make_importable(peers)
    with tempfile.TemporaryDirectory() as scratch:
        print("result:" + json.dumps(once(side, name, int(samples), method, Path(scratch))))
