"""Embeddings: vectors of handwritten digits of scikit-learn that lie near those of the same digit, and how many find
one of the same digit as their nearest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from benchmarks.any_task.case import Case, adamw
from compress import Task
from compress.data import Data, from_arrays
from compress.tasks.built_in.embedding import NearestRecall
from compress.tasks.reading import Reading

TEMPERATURE = 0.1
SIDE, PLACES = 24, 9
"""Of an image, and the places of a digit's corner along each side of it."""


def network() -> nn.Module:
    """Images (N, 1, 24, 24) to vectors (N, 32)."""
    layers: list[nn.Module] = []
    channels = 1
    for out, stride in ((16, 1), (32, 2), (48, 2), (64, 2)):
        layers += [nn.Conv2d(channels, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out), nn.ReLU()]
        channels = out
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 32))


def contrast(vectors: Tensor, batch: tuple[Tensor, Tensor]) -> Tensor:
    """The supervised contrastive loss of Khosla et al. (2020), equation 2, over the pairs of a batch."""
    labels = batch[1].to(vectors.device)
    unit = normalize(vectors.float(), dim=1)
    logits = (unit @ unit.T / TEMPERATURE).masked_fill(torch.eye(len(unit), dtype=torch.bool), -1e9)
    alike = (labels[:, None] == labels) & ~torch.eye(len(unit), dtype=torch.bool)
    targets = alike.float() / alike.sum(1, keepdim=True).clamp_min(1)
    return cross_entropy(logits[alike.any(1)], targets[alike.any(1)])


def data(_: Path) -> Data:
    """Digits at one of many places; no digit of one split is in another."""
    digits = load_digits()
    generator = np.random.default_rng(0)
    order = generator.permutation(len(digits.images))
    ends = (0, round(0.7 * len(order)), round(0.8 * len(order)), len(order))
    made: dict[str, Any] = {}
    for split, begin, end in zip(("train", "validation", "test"), ends, ends[1:], strict=False):
        chosen = np.repeat(order[begin:end], 3)
        images = generator.integers(0, 60, (len(chosen), 1, SIDE, SIDE)).astype(np.uint8)
        for image, index in zip(images, chosen, strict=True):
            row, column = generator.integers(0, PLACES, 2)
            image[0, row : row + 16, column : column + 16] = np.kron(digits.images[index] * 15, np.ones((2, 2)))
        made |= {f"x_{split}": images, f"y_{split}": digits.target[chosen]}
    return from_arrays(**made, name="digits anywhere")


CASE = Case(
    network=f"{__name__}:network",
    task=Task("contrast", loss=contrast, scores={"recall@1": lambda: NearestRecall(Reading())}, unit=" %"),
    data=data,
    training=adamw(15, batch_size=64),
    most_lost=0.5,
    compressed="embedding",
)
