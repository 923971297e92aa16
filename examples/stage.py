"""A stage of one's own: weights that lie far from all others are clipped, so that int8 has finer steps for the rest.

python examples/stage.py
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from compress import Context, Edit, Fold, Quantize, Result, Training, advance, open_network
from compress.core.config import Config
from compress.core.settings import setting
from compress.data import load
from compress.stage import evaluation_copy


class Clip(Config):
    """Weights further from zero than ``deviations`` of their layer are set to that bound."""

    deviations: float = setting(4.0, "How many standard deviations of a layer's weights stay.", gt=0, le=100)

    def apply(self, model: nn.Module, context: Context) -> Result:
        """A copy of ``model`` with its weights clipped; shapes stay."""
        clipped, edits = evaluation_copy(model), []
        for name, layer in clipped.named_modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                bound = self.deviations * layer.weight.std().item()
                beyond = int((layer.weight.abs() > bound).sum())
                with torch.no_grad():
                    layer.weight.clamp_(-bound, bound)
                edits.append(Edit(name, "weight", None, f"{beyond} clipped to {bound:.3f}", kind="weights"))
        return Result(clipped, tuple(edits))


if __name__ == "__main__":
    data = load("digits")
    network = open_network(f"{Path(__file__).with_name('net.py')}:build", data=data)
    context = Context(network.example_inputs, data)
    for stage in (Training(epochs=6, batch_size=32), Fold(), Clip(deviations=3), Quantize()):
        network, record = advance(network, stage, context)
        print(f"{record.name}: {len(record.edits)} edits, validation top-1 {record.after.score}")
