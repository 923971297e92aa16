"""An image and a row of a table: whether the digit that the image shows is larger than a value of the table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from benchmarks.any_task.case import Case, adamw
from compress.data import Data, from_arrays

COUNTS = {"train": 5000, "validation": 1000, "test": 2000}
COLUMNS = 6


class Both(nn.Module):
    """``image`` (N, 1, 16, 16) and ``table`` (N, 6) to scores of no and yes, (N, 2)."""

    def __init__(self) -> None:
        super().__init__()
        self.look = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
            nn.Conv2d(16, 32, 3, 2, 1), nn.BatchNorm2d(32), nn.ReLU(),
            nn.Conv2d(32, 32, 3, 2, 1), nn.BatchNorm2d(32), nn.ReLU(), nn.Flatten(),
        )  # fmt: skip
        self.read = nn.Sequential(nn.Linear(COLUMNS, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU())
        self.head = nn.Sequential(nn.Linear(32 * 16 + 32, 64), nn.ReLU(), nn.Linear(64, 2))

    def forward(self, image: Tensor, table: Tensor) -> Tensor:
        return self.head(torch.cat([self.look(image), self.read(table)], 1))  # type: ignore[no-any-return]


def data(_: Path) -> Data:
    """Digits of scikit-learn at twice their size with noise, and tables whose first column counts where the second is
    positive, and whose third does elsewhere; no digit of one split is in another."""
    digits = load_digits()
    generator = np.random.default_rng(0)
    order = generator.permutation(len(digits.images))
    ends = (0, round(0.7 * len(order)), round(0.8 * len(order)), len(order))
    made: dict[str, Any] = {}
    for (split, count), begin, end in zip(COUNTS.items(), ends, ends[1:], strict=False):
        chosen = generator.choice(order[begin:end], count)
        pixels = np.kron(digits.images[chosen] / 16, np.ones((2, 2)))[:, None]
        table = generator.normal(0, 1, (count, COLUMNS))
        table[:, [0, 2]] = generator.uniform(-0.5, 9.5, (count, 2))
        value = np.where(table[:, 1] > 0, table[:, 0], table[:, 2])
        image = (pixels + generator.normal(0, 0.1, pixels.shape)).astype(np.float32)
        made |= {
            f"x_{split}": {"image": image, "table": (table / 3).astype(np.float32)},
            f"y_{split}": (digits.target[chosen] > value).astype(np.int64),
        }
    return from_arrays(**made, name="digits and tables")


CASE = Case(network=f"{__name__}:Both", task="classification", data=data, training=adamw(15), most_lost=0.5)
