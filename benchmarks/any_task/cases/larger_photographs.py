"""Super-resolution: two photographs that scikit-learn ships at twice the size, by ESPCN (Shi et al., 2016)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_sample_images
from torch import nn

from benchmarks.any_task.case import Case, adamw
from compress.data import Data, from_arrays

SIDE = 48
"""Of a large patch, in pixels."""
STEP = 16
"""Between patches to train on; those to score do not overlap."""


def network() -> nn.Module:
    """Brightness (N, 1, H, W) to that at twice the size, (N, 1, 2 H, 2 W)."""
    return nn.Sequential(
        nn.Conv2d(1, 48, 5, padding=2), nn.ReLU(),
        nn.Conv2d(48, 32, 3, padding=1), nn.ReLU(),
        nn.Conv2d(32, 4, 3, padding=1), nn.PixelShuffle(2),
    )  # fmt: skip


def data(_: Path) -> Data:
    """Patches: to train on those of the left 60 % of both photographs, to choose by of the next 20 %, to test on of
    the rest."""
    parts: dict[str, list[NDArray[np.uint8]]] = {"train": [], "validation": [], "test": []}
    for photograph in load_sample_images().images:
        brightness = (photograph @ np.array([0.299, 0.587, 0.114])).round().astype(np.uint8)
        ends = [round(share * brightness.shape[1]) for share in (0, 0.6, 0.8, 1)]
        for split, begin, end in zip(parts, ends, ends[1:], strict=False):
            parts[split] += _patches(brightness[:, begin:end], STEP if split == "train" else SIDE)
    made: dict[str, Any] = {}
    for split, patches in parts.items():
        large = np.stack(patches)[:, None]
        small = large.reshape(len(large), 1, SIDE // 2, 2, SIDE // 2, 2).mean((3, 5)).round().astype(np.uint8)
        made |= {f"x_{split}": small, f"y_{split}": large}
    return from_arrays(**made, name="photographs")


def _patches(image: NDArray[np.uint8], step: int) -> list[NDArray[np.uint8]]:
    rows, columns = (range(0, side - SIDE + 1, step) for side in image.shape)
    return [image[row : row + SIDE, column : column + SIDE] for row in rows for column in columns]


CASE = Case(network=f"{__name__}:network", task="restoration", data=data, training=adamw(30), most_lost=0.1)
