"""A torch module that only your program can build: quantized, exported, checked, and run in its engine.

python examples/own_module.py
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

import compress
from compress.data import from_arrays
from runtimes.runtime import load

folder = Path("out/examples/module")
model = nn.Sequential(nn.Conv2d(3, 16, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(3600, 10))  # yours, trained
images = torch.randn(256, 3, 32, 32)  # yours, as the network takes them

data = from_arrays(x_calib=images)
context = compress.Context((data.example(8),), data)
result = compress.Quantize().apply(model, context)

# Each file is run in its engine at once: one that computes something else is not kept.
inputs = context.example_inputs
floats = compress.export(model, inputs, folder / "float.onnx", overwrite=True)
record = compress.export(
    result.model,
    inputs,
    folder / "int8.onnx",
    encodings=result.encodings,
    overwrite=True,
)
print(f"{floats.size_bytes:,} -> {record.size_bytes:,} bytes, checked in {record.engine}")
print(f"{record.nodes.integer} nodes in integers, {record.nodes.float} in float")

engine = load(folder / "int8.onnx")
scores = engine.run({engine.inputs[0].name: images[:4].numpy()})
print({name: array.shape for name, array in scores.items()})
engine.close()
