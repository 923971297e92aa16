"""RegNet: Radosavovic et al., "Designing Network Design Spaces" (2020), figures 4, 15 (X) and 16 (Y).

It halves the image five times. With ``small_images`` the first two of these are left out; the parameters are the same.
"""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn

from .blocks import SqueezeExcite, conv_bn_act, initialize, scaled
from .zoo import register

_X = {
    "200mf": ((1, 1, 4, 7), (24, 56, 152, 368), 8),
    "400mf": ((1, 2, 7, 12), (32, 64, 160, 384), 16),
    "800mf": ((1, 3, 7, 5), (64, 128, 288, 672), 16),
}
"""Blocks and channels of each stage, and channels of a group."""
_Y = {
    "200mf": ((1, 1, 4, 7), (24, 56, 152, 368), 8),
    "400mf": ((1, 3, 6, 6), (48, 104, 208, 440), 8),
    "800mf": ((1, 3, 8, 2), (64, 128, 320, 768), 16),
}


class Block(nn.Module):
    """A grouped 3x3 convolution between two 1x1, figure 4: (N, C, H, W) -> (N, out, H / stride, W / stride).

    Args:
        group: channels of a group.
        excited: weigh the channels by squeeze-and-excitation, squeezed to a quarter of C (the Y block, section 5).
        first: of its stage, where a 1x1 convolution stands in the shortcut.
    """

    def __init__(
        self, in_channels: int, out_channels: int, stride: int, group: int, excited: bool, first: bool
    ) -> None:
        super().__init__()
        self.shortcut: nn.Module = nn.Identity()
        if first:
            self.shortcut = conv_bn_act(in_channels, out_channels, 1, stride, activation=None)
        self.reduce = conv_bn_act(in_channels, out_channels, 1)
        self.filter = conv_bn_act(out_channels, out_channels, 3, stride, out_channels // group)
        self.excite = SqueezeExcite(out_channels, round(in_channels / 4)) if excited else nn.Identity()
        self.project = conv_bn_act(out_channels, out_channels, 1, activation=None)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        out = self.project(self.excite(self.filter(self.reduce(x))))
        merged: Tensor = self.relu(self.shortcut(x) + out)
        return merged


class RegNet(nn.Module):
    """RegNet: (N, in_channels, H, W) -> (N, num_classes).

    Args:
        table: blocks and channels of each stage, and channels of a group.
        excited: with squeeze-and-excitation, as the Y networks.
        width: multiplies the channels of every stage; the results are whole groups.
        small_images: keep the resolution in the first two of the five places that halve it.
    """

    def __init__(
        self,
        table: tuple[tuple[int, ...], tuple[int, ...], int],
        excited: bool,
        width: float = 1.0,
        num_classes: int = 10,
        in_channels: int = 3,
        small_images: bool = True,
    ) -> None:
        super().__init__()
        counts, bases, group = table
        channels = scaled(32, width)
        self.stem = conv_bn_act(in_channels, channels, 3, 1 if small_images else 2)
        blocks: list[nn.Module] = []
        for index, (count, base) in enumerate(zip(counts, bases, strict=True)):
            out_channels = scaled(base, width, group)
            stride = 1 if small_images and not index else 2
            for position in range(count):
                first = position == 0
                blocks.append(Block(channels, out_channels, stride if first else 1, group, excited, first))
                channels = out_channels
        self.blocks = nn.Sequential(*blocks)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels, num_classes)
        initialize(self)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.pool(self.blocks(self.stem(x))).flatten(1))  # type: ignore[no-any-return]


for _size, _table in _X.items():
    register(f"regnet_x_{_size}", partial(RegNet, _table, False))
for _size, _table in _Y.items():
    register(f"regnet_y_{_size}", partial(RegNet, _table, True))
