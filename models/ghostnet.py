"""GhostNet: Han et al., "GhostNet: More Features from Cheap Operations" (2020), table 1 and figures 2 and 3.

It halves the image five times. With ``small_images`` the first two of these are left out; the parameters are the same.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .blocks import Activation, SqueezeExcite, conv_bn_act, initialize, scaled
from .zoo import register

_BLOCKS = (
    (3, 16, 16, False, 1),
    (3, 48, 24, False, 2),
    (3, 72, 24, False, 1),
    (5, 72, 40, True, 2),
    (5, 120, 40, True, 1),
    (3, 240, 80, False, 2),
    (3, 200, 80, False, 1),
    (3, 184, 80, False, 1),
    (3, 184, 80, False, 1),
    (3, 480, 112, True, 1),
    (3, 672, 112, True, 1),
    (5, 672, 160, True, 2),
    (5, 960, 160, False, 1),
    (5, 960, 160, True, 1),
    (5, 960, 160, False, 1),
    (5, 960, 160, True, 1),
)
"""Kernel (of the convolution that strides), expanded channels, output channels, squeeze-and-excitation and stride."""


class GhostModule(nn.Module):
    """Half of the channels by a 1x1 convolution, the others by a cheap 3x3 of each: (N, C, H, W) -> (N, out, H, W)."""

    def __init__(self, in_channels: int, out_channels: int, activation: Activation | None = nn.ReLU) -> None:
        super().__init__()
        half = out_channels // 2
        self.primary = conv_bn_act(in_channels, half, 1, activation=activation)
        self.cheap = conv_bn_act(half, half, 3, groups=half, activation=activation)

    def forward(self, x: Tensor) -> Tensor:
        x = self.primary(x)
        return torch.cat([x, self.cheap(x)], dim=1)


class GhostBottleneck(nn.Module):
    """Two ghost modules with a shortcut around them: (N, C, H, W) -> (N, out, H / stride, W / stride).

    Args:
        excited: weigh the channels by squeeze-and-excitation, squeezed to a quarter.
        strides: has the depthwise convolution that strides in the paper, which with ``stride`` 1 keeps the resolution.
    """

    def __init__(
        self,
        in_channels: int,
        expanded: int,
        out_channels: int,
        kernel: int,
        stride: int,
        excited: bool,
        strides: bool,
    ) -> None:
        super().__init__()
        self.expand = GhostModule(in_channels, expanded)
        self.depthwise: nn.Module = nn.Identity()
        if strides:
            self.depthwise = conv_bn_act(expanded, expanded, kernel, stride, expanded, None)
        self.excite: nn.Module = nn.Identity()
        if excited:
            self.excite = SqueezeExcite(expanded, scaled(expanded / 4, multiple=4), gate=nn.Hardsigmoid)
        self.project = GhostModule(expanded, out_channels, None)
        self.shortcut: nn.Module = nn.Identity()
        if strides or in_channels != out_channels:
            self.shortcut = nn.Sequential(
                conv_bn_act(in_channels, in_channels, kernel, stride, in_channels, None),
                conv_bn_act(in_channels, out_channels, 1, activation=None),
            )

    def forward(self, x: Tensor) -> Tensor:
        out = self.project(self.excite(self.depthwise(self.expand(x))))
        return out + self.shortcut(x)  # type: ignore[no-any-return]


class GhostNet(nn.Module):
    """GhostNet: (N, in_channels, H, W) -> (N, num_classes).

    Args:
        width: multiplies the channels of every layer but the last; multiples of 4.
        small_images: keep the resolution in the first two of the five places that halve it.
    """

    def __init__(
        self, width: float = 1.0, num_classes: int = 10, in_channels: int = 3, small_images: bool = True
    ) -> None:
        super().__init__()
        channels = scaled(16, width, 4)
        self.stem = conv_bn_act(in_channels, channels, 3, 1 if small_images else 2)
        blocks: list[nn.Module] = []
        for index, (kernel, expanded, base, excited, stride) in enumerate(_BLOCKS):
            taken = 1 if small_images and index == 1 else stride
            sizes = channels, scaled(expanded, width, 4), scaled(base, width, 4)
            blocks.append(GhostBottleneck(*sizes, kernel, taken, excited, strides=stride == 2))
            channels = sizes[-1]
        self.blocks = nn.Sequential(*blocks)
        last = scaled(960, width, 4)
        self.head = conv_bn_act(channels, last, 1)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.hidden = nn.Conv2d(last, 1280, 1)
        self.relu = nn.ReLU()
        self.dropout = nn.Dropout(0.2)
        self.classifier = nn.Linear(1280, num_classes)
        initialize(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.hidden(self.pool(self.head(self.blocks(self.stem(x)))))).flatten(1)
        return self.classifier(self.dropout(x))  # type: ignore[no-any-return]


register("ghostnet", GhostNet)
