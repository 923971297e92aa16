"""Small data sets for tasks of any kind: scenes made of scikit-learn's handwritten digits."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from torch import Tensor

SIDE = 16
"""Of a scene, in pixels; a digit has half of it."""

Scene = tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.int64]]


def scenes(count: int, seed: int = 0) -> Scene:
    """Images (N, 1, 16, 16) of one digit each, its upper left corner (N, 2) as x and y, and which it is (N,)."""
    generator = np.random.default_rng(seed)
    digits = load_digits()
    chosen = generator.integers(0, len(digits.images), count)
    corners = generator.integers(0, SIDE // 2 + 1, (count, 2))
    images = np.zeros((count, 1, SIDE, SIDE), np.uint8)
    for image, index, (x, y) in zip(images, chosen, corners, strict=True):
        image[0, y : y + 8, x : x + 8] = np.minimum(digits.images[index] * 16, 255)
    return images, corners, digits.target[chosen].astype(np.int64)


def crowds(count: int, side: int = 64, classes: int = 2, seed: int = 0) -> tuple[Tensor, list[dict[str, Tensor]]]:
    """Images (N, 1, side, side) from 0 to 1 of up to four digits each, two or three times as large as they are stored,
    and of each image the boxes and which digits they are: the labels of the task detection. No two digits touch.
    """
    generator = np.random.default_rng(seed)
    digits = load_digits(n_class=classes)
    images, targets = torch.zeros(count, 1, side, side), []
    for image in images:
        boxes: list[list[float]] = []
        labels: list[int] = []
        for _ in range(int(generator.integers(0, 5))):
            index, size = int(generator.integers(0, len(digits.images))), int(generator.integers(2, 4))
            pixels = np.kron(digits.images[index] / 16, np.ones((size, size)))
            x, y = (int(each) for each in generator.integers(0, side - 8 * size + 1, 2))
            place = image[0, y : y + 8 * size, x : x + 8 * size]
            if bool(place.any()):
                continue
            place[:] = torch.from_numpy(pixels)
            boxes.append([x, y, x + 8 * size, y + 8 * size])
            labels.append(int(digits.target[index]))
        targets.append({"boxes": torch.tensor(boxes).float().reshape(-1, 4), "labels": torch.tensor(labels).long()})
    return images, targets


def arrays(x: NDArray[Any], y: NDArray[Any], test: int = 32) -> dict[str, NDArray[Any]]:
    """The arrays of an ``.npz``: the last ``test`` samples are those to test on, and to validate on, too."""
    tested = {f"{name}_{split}": a[-test:] for name, a in (("x", x), ("y", y)) for split in ("validation", "test")}
    return {"x_train": x[:-test], "y_train": y[:-test], **tested}
