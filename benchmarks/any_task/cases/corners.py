"""Landmarks: the four corners of a handwritten digit of scikit-learn that is turned, scaled and put somewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import affine_transform
from sklearn.datasets import load_digits
from torch import nn

from benchmarks.any_task.case import Case, adamw
from compress.data import Data, from_arrays

SIDE = 48
"""Of an image, in pixels."""
COUNTS = {"train": 4000, "validation": 500, "test": 1000}


def network() -> nn.Module:
    """Images (N, 1, 48, 48) to four corners as shares of the image, (N, 8)."""
    layers: list[nn.Module] = []
    channels = 1
    for out, stride in ((16, 2), (32, 2), (48, 1), (64, 2)):
        layers += [nn.Conv2d(channels, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out), nn.ReLU()]
        channels = out
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels * 36, 64), nn.ReLU(), nn.Linear(64, 8))


def data(_: Path) -> Data:
    """Images and corners; no digit of one split is in another."""
    digits = load_digits().images
    generator = np.random.default_rng(0)
    order = generator.permutation(len(digits))
    ends = (0, round(0.7 * len(digits)), round(0.8 * len(digits)), len(digits))
    made: dict[str, Any] = {}
    for (split, count), begin, end in zip(COUNTS.items(), ends, ends[1:], strict=False):
        pairs = [_placed(digits[i], generator) for i in generator.choice(order[begin:end], count)]
        images, corners = zip(*pairs, strict=True)
        made |= {f"x_{split}": np.stack(images), f"y_{split}": np.stack(corners)}
    return from_arrays(**made, name="corners of digits")


def _placed(digit: NDArray[Any], generator: np.random.Generator) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """An image (1, 48, 48) of the digit before noise, and its corners (4, 2) as x and y from 0 to 1."""
    angle, scale = generator.uniform(-0.6, 0.6), generator.uniform(1.8, 3.5)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) * scale
    centre = generator.uniform(0.35 * SIDE, 0.65 * SIDE, 2)
    back = np.linalg.inv(turn)
    middle = np.full(2, 3.5)
    pixels = affine_transform(digit * 16, back, middle - back @ centre, (SIDE, SIDE), order=1)
    corners = (turn @ (np.array([[0, 0], [0, 7], [7, 7], [7, 0]]) - middle).T).T + centre
    noisy = np.clip(pixels + generator.normal(0, 12, pixels.shape), 0, 255).astype(np.uint8)
    return noisy[None], (corners[:, ::-1] / SIDE).astype(np.float32)


CASE = Case(
    network=f"{__name__}:network",
    task="keypoints",
    data=data,
    training=adamw(20),
    most_lost=1.0,
    relative=True,
)
