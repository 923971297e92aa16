"""A small network of one's own, as the other examples open it: ``net.py:build``."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Net(nn.Module):
    """Four convolutions, one of them beside a shortcut: (N, 1, H, W) -> (N, 10)."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.stem = self.convolution(1, width, stride=2)
        self.down = self.convolution(width, 2 * width, stride=2)
        self.block = self.convolution(2 * width, 2 * width, stride=1)
        self.top = self.convolution(2 * width, 4 * width, stride=2)
        self.classify = nn.Linear(4 * width, 10)

    @staticmethod
    def convolution(inputs: int, outputs: int, stride: int) -> nn.Sequential:
        """A 3x3 convolution with batch norm and ReLU."""
        layer = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        return nn.Sequential(layer, nn.BatchNorm2d(outputs), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        """Scores of the ten classes."""
        x = self.down(self.stem(x))
        return self.classify(self.top(self.block(x) + x).mean((2, 3)))


def build(width: int = 16) -> nn.Module:
    """The network with random weights, the same at each call."""
    torch.manual_seed(0)
    return Net(width)
