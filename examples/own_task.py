"""A network that is no classifier, by a task of your own: trained, pruned, quantized and scored as you score it.

python examples/own_task.py
"""

from __future__ import annotations

from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import nn

import compress
from compress.data import from_loaders
from compress.deploy import Deployed, scores

images = torch.tensor(load_digits().images, dtype=torch.float32)[:, None] / 16
places = torch.arange(8.0)
mass = images.sum((1, 2, 3), keepdim=True)[:, 0, 0]
centres = torch.stack([(images.sum(axis)[:, 0] * places).sum(1) for axis in (2, 3)], 1) / mass  # column and row
batches = [{"image": images[i : i + 64], "centre": centres[i : i + 64]} for i in range(0, 1792, 64)]
data = from_loaders(train=batches[:20], calibration=batches[:4], validation=batches[20:24], test=batches[24:])


class Pixels:
    """The mean distance to where the centre is, in pixels. A torchmetrics.Metric has these four as well."""

    higher_is_better = False

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.distances: list[torch.Tensor] = []

    def update(self, outputs: torch.Tensor, batch: dict[str, torch.Tensor]) -> None:
        self.distances.append((outputs - batch["centre"]).norm(dim=1))

    def compute(self) -> float:
        return float(torch.cat(self.distances).mean())


task = compress.Task(
    name="centre",
    inputs=lambda batch: (batch["image"],),
    loss=lambda outputs, batch: (outputs - batch["centre"]).square().mean(),
    scores={"distance": Pixels},
    unit=" px",
)
torch.manual_seed(0)
network = nn.Sequential(
    nn.Conv2d(1, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(256, 2)
)
context = compress.Context((images[:8],), data, task=task)
training = compress.Training(epochs=5, learning_rate=0.01, precision="fp32")
for stage in (training, compress.Prune(ratio=0.5, training=training), compress.Quantize()):
    result = stage.apply(network, context)
    network = result.model
path = Path("out/examples/task/int8.onnx")
compress.export(network, context.example_inputs, path, encodings=result.encodings, overwrite=True)
(score,) = scores(Deployed("int8", path), data, task)
print(f"{score.name} of the file, in its engine: {score}")
