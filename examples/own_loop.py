"""Prune a network, train it in a plain PyTorch loop of your own, save it, and export it in int8.

python examples/own_loop.py
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

import compress
from compress.data import load

NETWORK = f"{Path(__file__).with_name('net.py')}:build"
folder = Path("out/examples/own_loop")
data = load("digits")


def fit(model: nn.Module, epochs: int) -> None:
    """A loop of your own: your optimizer, your loss, your batches."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    model.train()
    for _ in range(epochs):
        for images, labels in data.split("train").batches(32):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images), labels).backward()
            optimizer.step()


network = compress.open_network(NETWORK, data=data)
fit(network.model, epochs=6)
context = compress.Context(network.example_inputs, data)
pruned, record = compress.advance(network, compress.Prune(macs=3), context)
fit(pruned.model, epochs=4)  # its tensors are smaller; the rest of it is yours
saved = compress.save(pruned, folder / "pruned", overwrite=True)  # any command takes it, and open_network

quantized, after = compress.advance(saved, compress.Quantize(), context)
file = folder / "int8.onnx"
inputs = context.example_inputs
exported = compress.export(quantized.model, inputs, file, encodings=quantized.encodings, overwrite=True)
print(f"multiply-adds: {record.before.macs:,} -> {record.after.macs:,}")
print(f"validation top-1: pruned {record.after.score}, trained {after.before.score}, int8 {after.after.score}")
print(f"{exported.size_bytes:,} bytes; {exported.nodes.integer} nodes in integers, checked in {exported.engine}")
