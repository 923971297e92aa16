"""Take an ONNX file whose source is lost: prune it, quantize it, and write a smaller one.

    python examples/onnx_file.py [net.onnx samples.npz]

``samples.npz`` holds inputs under ``x_calib``, batch first. Without a file, a small one is written to begin with.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from compress import Context, Fold, Prune, Quantize, advance, deploy, open_network
from compress.data import load

folder = Path("out/examples/onnx")
folder.mkdir(parents=True, exist_ok=True)
if len(sys.argv) == 3:
    path, samples = Path(sys.argv[1]), sys.argv[2]
else:
    path, samples = folder / "net.onnx", str(folder / "samples.npz")
    net = f"{Path(__file__).with_name('net.py')}:build"
    deploy.export(open_network(net, input_shapes=((1, 1, 32, 32),)), "net", path)
    np.savez(samples, x_calib=np.random.default_rng(0).normal(size=(64, 1, 32, 32)).astype("float32"))

data = load(samples)
network = open_network(str(path), data=data)  # the file as a torch module that computes the same
context = Context(network.example_inputs, data)
for stage in (Prune(ratio=0.5), Fold(), Quantize()):
    network, record = advance(network, stage, context)
    print(f"{record.name}: {record.after.params:,} parameters, {record.after.size_bytes:,} bytes of weights")

written, _ = deploy.export(network, "smaller", folder / "smaller.onnx")
print(
    f"the file: {path.stat().st_size:,} -> {written.size_bytes:,} bytes, held against its network in {written.engine}"
)
