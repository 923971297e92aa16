"""A classifier of three classes, its like in a user's file, and data that it learns in a few steps."""

from __future__ import annotations

import torch
from torch import nn

from compress.data import Data, Preprocessing, SampleSplit, Split, SplitName


class SmallNet(nn.Module):
    """Two convolutions with batch norm and a residual: (N, 1, 8, 8) -> (N, 3)."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.fc = nn.Linear(width, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.bn1(self.conv1(x)))
        x = torch.relu(self.bn2(self.conv2(x)) + x)
        return self.fc(x.mean((2, 3)))


SMALL_NET = """
from torch import nn
import torch


class SmallNet(nn.Module):
    def __init__(self, width=8):
        super().__init__()
        self.conv = nn.Conv2d(1, width, 3, padding=1)
        self.bn = nn.BatchNorm2d(width)
        self.fc = nn.Linear(width, 10)

    def forward(self, x):
        return self.fc(torch.relu(self.bn(self.conv(x))).mean((2, 3)))


def build(width=8):
    torch.manual_seed(0)
    return SmallNet(width)
"""


def pattern_data(count: int = 96, seed: int = 0) -> Data:
    """Three classes of 8x8 images that differ by a bright quadrant: learnt in a few steps."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 3
    images = torch.randint(0, 60, (count, 1, 8, 8), generator=generator, dtype=torch.uint8)
    for i, label in enumerate(labels.tolist()):
        images[i, 0, 4 * (label // 2) : 4 * (label // 2) + 4, 4 * (label % 2) : 4 * (label % 2) + 4] += 150
    scale = Preprocessing(1 / 255, (0.3,), (0.3,))
    quarter = count // 4
    names: tuple[SplitName, ...] = ("train", "calibration", "validation", "test")
    splits: dict[SplitName, Split] = {
        name: SampleSplit(images[i * quarter : (i + 1) * quarter], labels[i * quarter : (i + 1) * quarter], scale)
        for i, name in enumerate(names)
    }
    return Data("pattern", splits, scale, ("a", "b", "c"))
