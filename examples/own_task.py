"""A network that is no classifier, by a task of your own: it finds the centre of a digit, and is scored in pixels.

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

images = torch.tensor(load_digits().images, dtype=torch.float32)[:, None]
axes = (images[:, 0] * torch.arange(8.0)).sum((1, 2)), (images[:, 0] * torch.arange(8.0)[:, None]).sum((1, 2))
centres = torch.stack(axes, 1) / images.sum((1, 2, 3))[:, None]  # column and row
batches = [{"image": images[i : i + 64] / 16, "centre": centres[i : i + 64]} for i in range(0, 1792, 64)]
data = from_loaders(train=batches[:20], calibration=batches[:4], validation=batches[20:24], test=batches[24:])


def distance(outputs: torch.Tensor, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    return (outputs - batch["centre"]).norm(dim=1)


task = compress.Task(
    loss=lambda outputs, batch: distance(outputs, batch).square().mean(),
    scores={"distance": lambda: compress.MeanScore(distance, higher_is_better=False)},
    inputs=lambda batch: (batch["image"],),
    unit=" px",
)
network = nn.Sequential(
    nn.Conv2d(1, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(256, 2)
)
context = compress.Context((images[:8],), data, task=task)
training = compress.Training(epochs=5, optimizer="adamw", learning_rate=3e-3)
for stage in (training, compress.Prune(ratio=0.5, training=training), compress.Quantize()):
    network = (result := stage.apply(network, context)).model
    print(type(stage).__name__, [f"{record['validation_score']:.2f} px" for record in result.history])
path = Path("out/examples/task/int8.onnx")
compress.export(network, context.example_inputs, path, encodings=result.encodings, overwrite=True)
print(f"{task.score} of the file, in its engine: {scores(Deployed('int8', path), data, task)[0]}")
