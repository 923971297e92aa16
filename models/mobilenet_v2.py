"""MobileNetV2: Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks" (2018), table 2.

It halves the image five times. With ``small_images`` the first two of these are left out; the parameters are the same.
"""

from __future__ import annotations

from torch import Tensor, nn

from .blocks import conv_bn_act, initialize, scaled
from .zoo import register

_STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
"""Expansion, output channels, blocks and stride of each stage."""


class InvertedResidual(nn.Module):
    """Expand, filter by depth, project without activation: (N, C, H, W) -> (N, out, H / stride, W / stride)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = in_channels * expansion
        self.residual = stride == 1 and in_channels == out_channels
        self.expand = conv_bn_act(in_channels, hidden, 1, activation=nn.ReLU6) if expansion != 1 else nn.Identity()
        self.depthwise = conv_bn_act(hidden, hidden, 3, stride, hidden, nn.ReLU6)
        self.project = conv_bn_act(hidden, out_channels, 1, activation=None)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.project(self.depthwise(self.expand(x)))
        return x + out if self.residual else out


class MobileNetV2(nn.Module):
    """MobileNet of inverted residuals: (N, in_channels, H, W) -> (N, num_classes).

    Args:
        width: multiplies the channels of every layer but the last (which never shrinks); multiples of 8.
        small_images: keep the resolution in the first two of the five places that halve it.
    """

    def __init__(
        self, width: float = 1.0, num_classes: int = 10, in_channels: int = 3, small_images: bool = True
    ) -> None:
        super().__init__()
        channels = scaled(32, width)
        self.stem = conv_bn_act(in_channels, channels, 3, 1 if small_images else 2, activation=nn.ReLU6)
        blocks: list[nn.Module] = []
        for index, (expansion, base, count, stride) in enumerate(_STAGES):
            out_channels = scaled(base, width)
            stride = 1 if small_images and index == 1 else stride
            for position in range(count):
                blocks.append(InvertedResidual(channels, out_channels, 1 if position else stride, expansion))
                channels = out_channels
        self.blocks = nn.Sequential(*blocks)
        last = scaled(1280, max(1.0, width))
        self.head = conv_bn_act(channels, last, 1, activation=nn.ReLU6)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(0.2)
        self.classifier = nn.Linear(last, num_classes)
        initialize(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.head(self.blocks(self.stem(x)))).flatten(1)
        return self.classifier(self.dropout(x))  # type: ignore[no-any-return]


register("mobilenet_v2", MobileNetV2)
