"""A trainer that owns its loop: it is given a pruned network, and what it hands back is a file of weights.

python examples/own_trainer.py
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

import compress
from compress.cli import cli
from compress.data import Data, load


class Trainer:
    """Stands for yours: what it does inside, and on which machine, is its own affair."""

    def fit(self, model: nn.Module, data: Data, weights: str, epochs: int) -> None:
        """Train ``model``, and leave its weights in a file."""
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        model.train()
        for epoch in range(epochs):
            for images, labels in data.split("train").batches(32):
                optimizer.zero_grad()
                loss = nn.functional.cross_entropy(model(images), labels)
                loss.backward()
                optimizer.step()
            print(f"epoch {epoch}: loss {loss.item():.3f}")
        save_file(model.state_dict(), weights)


pruned, weights, out = (f"out/examples/trainer/{name}" for name in ("pruned", "mine.safetensors", "int8"))
data = load("digits")
network = compress.open_network(f"{Path(__file__).with_name('net.py')}:build", data=data)
result = compress.Prune(ratio=0.5).apply(network.model, compress.Context(network.example_inputs))
compress.save(result, pruned, of=network, overwrite=True)
Trainer().fit(compress.open_network(pruned).model, data, weights, epochs=6)
# In a shell: compress quantize out/examples/trainer/pruned --weights mine.safetensors --data digits -o ...
cli(["quantize", pruned, "--weights", weights, "--data", "digits", "-o", out, "--overwrite"], standalone_mode=False)
