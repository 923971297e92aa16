"""DenseNet: Huang et al., "Densely Connected Convolutional Networks" (2017), section 3 and table 1.

Those here are DenseNet-BC: bottlenecks of 4 growth rates before each 3x3 convolution, and transitions that halve the
channels. For 32x32 images there are three dense blocks and a 3x3 stem; for large images four, and a 7x7 stem.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from .blocks import initialize
from .zoo import register


class DenseLayer(nn.Module):
    """What comes in, and ``growth`` channels more: (N, C, H, W) -> (N, C + growth, H, W)."""

    def __init__(self, in_channels: int, growth: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, 4 * growth, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(4 * growth)
        self.conv2 = nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        new = self.conv1(self.relu(self.bn1(x)))
        new = self.conv2(self.relu(self.bn2(new)))
        return torch.cat([x, new], dim=1)


def _transition(in_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.BatchNorm2d(in_channels), nn.ReLU(), nn.Conv2d(in_channels, out_channels, 1, bias=False), nn.AvgPool2d(2)
    )


class DenseNet(nn.Module):
    """DenseNet-BC: (N, in_channels, H, W) -> (N, num_classes).

    Args:
        layers: of each dense block.
        growth: channels that each layer adds.
        width: multiplies the growth, and with it the channels of every layer.
        small_images: for 32x32, a 3x3 stem and no pooling, which keep the resolution.
    """

    def __init__(
        self,
        layers: tuple[int, ...],
        growth: int,
        width: float = 1.0,
        num_classes: int = 10,
        in_channels: int = 3,
        small_images: bool = True,
    ) -> None:
        super().__init__()
        growth = max(1, round(growth * width))
        channels = 2 * growth
        if small_images:
            self.stem: nn.Module = nn.Conv2d(in_channels, channels, 3, padding=1, bias=False)
        else:
            convolution = nn.Conv2d(in_channels, channels, 7, 2, padding=3, bias=False)
            self.stem = nn.Sequential(convolution, nn.BatchNorm2d(channels), nn.ReLU(), nn.MaxPool2d(3, 2, padding=1))
        blocks: list[nn.Module] = []
        for index, count in enumerate(layers):
            if index:
                blocks.append(_transition(channels, channels // 2))
                channels //= 2
            blocks.append(nn.Sequential(*(DenseLayer(channels + i * growth, growth) for i in range(count))))
            channels += count * growth
        self.blocks = nn.Sequential(*blocks)
        self.bn = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(channels, num_classes)
        initialize(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn(self.blocks(self.stem(x))))
        return self.classifier(self.pool(x).flatten(1))  # type: ignore[no-any-return]


register("densenet_bc_100_12", partial(DenseNet, (16, 16, 16), 12))
register("densenet121", partial(DenseNet, (6, 12, 24, 16), 32))
