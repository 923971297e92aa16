"""A detector by the task detection: trained on boxes, pruned with labels, made int8 without any, scored in mAP.

python examples/detector.py
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits

import compress
from compress.data import from_loaders
from compress.deploy import Deployed, scores

digits, generator = load_digits(n_class=2), np.random.default_rng(0)


def batch(images: int = 8) -> tuple[torch.Tensor, list[dict[str, torch.Tensor]]]:
    pixels, targets = torch.zeros(images, 1, 64, 64), []
    for image in pixels:
        which, corners = generator.integers(0, 360, 2), generator.integers(((0, 0), (32, 0)), ((17, 49), (49, 49)))
        for index, (x, y) in zip(which, corners, strict=True):
            image[0, y : y + 16, x : x + 16] = torch.tensor(np.kron(digits.images[index] / 16, np.ones((2, 2))))
        boxes = torch.tensor(np.hstack([corners, corners + 16]), dtype=torch.float32)
        targets.append({"boxes": boxes, "labels": torch.tensor(digits.target[which])})
    return pixels, targets


train, calibration, validation, test = ([batch() for _ in range(count)] for count in (24, 4, 4, 8))
data = from_loaders(train=train, calibration=calibration, validation=validation, test=test)
network = compress.open_network("fcos:num_classes=2,in_channels=1,width=0.25,image_size=64", data=data)
model, inputs = network.model, network.example_inputs
labelled = compress.Context(inputs, data, task=compress.detection(loss=compress.GridLoss((8, 16, 32))))
unlabelled = compress.Context(inputs, data, task=compress.detection())
training = compress.Training(epochs=12, batch_size=8, optimizer="adamw", learning_rate=5e-3, gradient_clip=10.0)
prune = compress.Prune(ratio=0.2, training=training)
for stage, context in ((training, labelled), (prune, labelled), (compress.Quantize(), unlabelled)):
    model = (result := stage.apply(model, context)).model
    print(type(stage).__name__, [f"{record.get('validation_score', 0):.1f} %" for record in result.history])
path = Path("out/examples/detector/int8.onnx")
compress.export(model, inputs, path, encodings=result.encodings, overwrite=True)
print(*scores(Deployed("int8", path), data, "detection"))
