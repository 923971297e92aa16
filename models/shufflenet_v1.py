"""ShuffleNet: Zhang et al., "ShuffleNet: An Extremely Efficient Convolutional Neural Network for Mobile Devices"
(2017), channels as in table 1, units as in figure 2 (b) and (c).

It halves the image five times. With ``small_images`` the first two of these are left out; the parameters are the same.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from .blocks import channel_shuffle, conv_bn_act, initialize
from .zoo import register

_CHANNELS = {1: 144, 2: 200, 3: 240, 4: 272, 8: 384}
"""Output channels of the first stage by the number of groups; each further stage has twice as many."""
_BLOCKS = (4, 8, 4)


class Unit(nn.Module):
    """A grouped bottleneck with a shuffle: (N, C, H, W) -> (N, out, H / stride, W / stride), stride 1 or 2.

    With stride 2 the pooled input is concatenated with what the branch gives, so that the branch makes out - C.

    Args:
        first_groups: of the first 1x1 convolution (1 in the first unit, whose input has few channels).
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, groups: int, first_groups: int) -> None:
        super().__init__()
        middle = out_channels // 4
        self.groups = groups
        self.reduce = conv_bn_act(in_channels, middle, 1, groups=first_groups)
        self.depthwise = conv_bn_act(middle, middle, 3, stride, middle, None)
        made = out_channels - in_channels if stride == 2 else out_channels
        self.expand = conv_bn_act(middle, made, 1, groups=groups, activation=None)
        self.pool = nn.AvgPool2d(3, 2, padding=1) if stride == 2 else None
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        out = self.expand(self.depthwise(channel_shuffle(self.reduce(x), self.groups)))
        if self.pool is None:
            return self.relu(x + out)  # type: ignore[no-any-return]
        return self.relu(torch.cat([self.pool(x), out], dim=1))  # type: ignore[no-any-return]


class ShuffleNetV1(nn.Module):
    """ShuffleNet: (N, in_channels, H, W) -> (N, num_classes).

    Args:
        groups: of the 1x1 convolutions: 1, 2, 3, 4 or 8.
        width: multiplies the channels of every layer, which stay multiples of what the groups need.
        small_images: for 32x32, keep the resolution in the first two of the five places that halve it.
    """

    def __init__(
        self, groups: int, width: float = 1.0, num_classes: int = 10, in_channels: int = 3, small_images: bool = True
    ) -> None:
        super().__init__()
        channels = groups * max(1, round(24 * width / groups))
        self.stem = conv_bn_act(in_channels, channels, 3, 1 if small_images else 2)
        self.pool = nn.Identity() if small_images else nn.MaxPool2d(3, 2, padding=1)
        first = 4 * groups * max(1, round(_CHANNELS[groups] * width / (4 * groups)))
        units: list[nn.Module] = []
        for index, count in enumerate(_BLOCKS):
            for position in range(count):
                out_channels = first * 2**index
                stride = 1 if position else 2
                units.append(Unit(channels, out_channels, stride, groups, groups if units else 1))
                channels = out_channels
        self.units = nn.Sequential(*units)
        self.global_pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels, num_classes)
        initialize(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.units(self.pool(self.stem(x)))
        return self.fc(self.global_pool(x).flatten(1))  # type: ignore[no-any-return]


for _groups in _CHANNELS:
    register(f"shufflenet_v1_g{_groups}", partial(ShuffleNetV1, _groups))
