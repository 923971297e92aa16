"""ShuffleNetV2: Ma et al., "ShuffleNet V2: Practical Guidelines for Efficient CNN Architecture Design" (2018).

Channels and repeats as in table 5, units as in figure 3 (c) and (d).
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from .blocks import channel_shuffle, conv_bn_act
from .zoo import register

_CHANNELS = {"x0_5": (24, 48, 1024), "x1_0": (24, 116, 1024), "x1_5": (24, 176, 1024), "x2_0": (24, 244, 2048)}
"""Channels of the stem, of the first stage (the further ones have 2 and 4 times as many) and of the head."""
_STAGE_BLOCKS = (4, 8, 4)


class Unit(nn.Module):
    """The unit without downsampling, figure 3 (c): half of the channels pass by; (N, C, H, W) -> (N, C, H, W)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        depthwise = conv_bn_act(half, half, 3, groups=half, activation=None)
        self.branch = nn.Sequential(conv_bn_act(half, half, 1), depthwise, conv_bn_act(half, half, 1))

    def forward(self, x: Tensor) -> Tensor:
        passed, changed = x.chunk(2, dim=1)
        return channel_shuffle(torch.cat([passed, self.branch(changed)], dim=1), 2)


class DownsamplingUnit(nn.Module):
    """The unit for spatial downsampling, figure 3 (d): (N, C, H, W) -> (N, out, H / 2, W / 2)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        half = out_channels // 2
        depthwise = conv_bn_act(in_channels, in_channels, 3, 2, in_channels, None)
        self.shortcut = nn.Sequential(depthwise, conv_bn_act(in_channels, half, 1))
        depthwise = conv_bn_act(half, half, 3, 2, half, None)
        self.branch = nn.Sequential(conv_bn_act(in_channels, half, 1), depthwise, conv_bn_act(half, half, 1))

    def forward(self, x: Tensor) -> Tensor:
        return channel_shuffle(torch.cat([self.shortcut(x), self.branch(x)], dim=1), 2)


class ShuffleNetV2(nn.Module):
    """ShuffleNetV2: (N, in_channels, H, W) -> (N, num_classes).

    Args:
        channels: of the stem, of the first stage and of the head.
        width: multiplies all channels; those of the units are kept even.
        small_images: for 32x32, keep the resolution in the first two of the five places that halve it.
    """

    def __init__(
        self,
        channels: tuple[int, int, int],
        width: float = 1.0,
        num_classes: int = 10,
        in_channels: int = 3,
        small_images: bool = True,
    ) -> None:
        super().__init__()
        stem, last = (max(1, round(base * width)) for base in (channels[0], channels[2]))
        first = 2 * max(1, round(channels[1] // 2 * width))
        self.stem = conv_bn_act(in_channels, stem, 3, 1 if small_images else 2)
        self.pool = nn.Identity() if small_images else nn.MaxPool2d(3, 2, padding=1)
        stages: list[nn.Module] = []
        entering = stem
        for index, blocks in enumerate(_STAGE_BLOCKS):
            out_channels = first * 2**index
            units = (Unit(out_channels) for _ in range(blocks - 1))
            stages.append(nn.Sequential(DownsamplingUnit(entering, out_channels), *units))
            entering = out_channels
        self.stages = nn.Sequential(*stages)
        self.head = conv_bn_act(entering, last, 1)
        self.global_pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(last, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        x = self.head(self.stages(self.pool(self.stem(x))))
        return self.fc(self.global_pool(x).flatten(1))  # type: ignore[no-any-return]


for _size, _channels in _CHANNELS.items():
    register(f"shufflenet_v2_{_size}", partial(ShuffleNetV2, _channels))
