"""ShuffleNetV2: Ma et al., "ShuffleNet V2: Practical Guidelines for Efficient CNN Architecture Design" (2018).

Channels and repeats as in table 5, units as in figure 3 (c) and (d).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .zoo import register

_STAGE_BLOCKS = (4, 8, 4)


def channel_shuffle(x: Tensor, groups: int) -> Tensor:
    """``x`` of shape (N, C, H, W) with its channels dealt out over ``groups`` in turn."""
    n, channels, height, width = x.shape
    return x.reshape(n, groups, channels // groups, height, width).transpose(1, 2).reshape(n, channels, height, width)


def _pointwise(in_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(in_channels, out_channels, 1, bias=False), nn.BatchNorm2d(out_channels), nn.ReLU())


def _depthwise(channels: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, channels, 3, stride, padding=1, groups=channels, bias=False), nn.BatchNorm2d(channels)
    )


class Unit(nn.Module):
    """The unit without downsampling, figure 3 (c): half of the channels pass by; (N, C, H, W) -> (N, C, H, W)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.branch = nn.Sequential(_pointwise(half, half), _depthwise(half, 1), _pointwise(half, half))

    def forward(self, x: Tensor) -> Tensor:
        passed, changed = x.chunk(2, dim=1)
        return channel_shuffle(torch.cat([passed, self.branch(changed)], dim=1), 2)


class DownsamplingUnit(nn.Module):
    """The unit for spatial downsampling, figure 3 (d): (N, C, H, W) -> (N, out, H / 2, W / 2)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        half = out_channels // 2
        self.shortcut = nn.Sequential(_depthwise(in_channels, 2), _pointwise(in_channels, half))
        self.branch = nn.Sequential(_pointwise(in_channels, half), _depthwise(half, 2), _pointwise(half, half))

    def forward(self, x: Tensor) -> Tensor:
        return channel_shuffle(torch.cat([self.shortcut(x), self.branch(x)], dim=1), 2)


class ShuffleNetV2(nn.Module):
    """ShuffleNetV2: (N, in_channels, H, W) -> (N, num_classes).

    Args:
        width: multiplies the channels of the 1x form (24; 116, 232, 464; 1024); those of the units are kept even.
        small_images: for 32x32, keep the resolution in the first two of the five places that halve it.
    """

    def __init__(
        self, width: float = 1.0, num_classes: int = 10, in_channels: int = 3, small_images: bool = True
    ) -> None:
        super().__init__()
        channels = max(1, round(24 * width))
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, channels, 3, 1 if small_images else 2, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
        )
        self.pool = nn.Identity() if small_images else nn.MaxPool2d(3, 2, padding=1)
        stages: list[nn.Module] = []
        first = 2 * max(1, round(58 * width))
        for index, blocks in enumerate(_STAGE_BLOCKS):
            out_channels = first * 2**index
            units = (Unit(out_channels) for _ in range(blocks - 1))
            stages.append(nn.Sequential(DownsamplingUnit(channels, out_channels), *units))
            channels = out_channels
        self.stages = nn.Sequential(*stages)
        last = max(1, round(1024 * width))
        self.head = _pointwise(channels, last)
        self.global_pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(last, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        x = self.head(self.stages(self.pool(self.stem(x))))
        return self.fc(self.global_pool(x).flatten(1))  # type: ignore[no-any-return]


register("shufflenet_v2_x1_0", ShuffleNetV2)
