"""Small data sets for tasks of any kind: scenes made of scikit-learn's handwritten digits."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits

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


def arrays(x: NDArray[Any], y: NDArray[Any], test: int = 32) -> dict[str, NDArray[Any]]:
    """The arrays of an ``.npz``: the last ``test`` samples are those to test on, and to validate on, too."""
    tested = {f"{name}_{split}": a[-test:] for name, a in (("x", x), ("y", y)) for split in ("validation", "test")}
    return {"x_train": x[:-test], "y_train": y[:-test], **tested}
