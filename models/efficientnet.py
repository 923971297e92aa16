"""EfficientNet: Tan & Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks" (2019), table 1.

Blocks are those of Tan et al., "MnasNet" (2019), with squeeze-and-excitation to a quarter of a block's input channels
and swish (SiLU) everywhere; stochastic depth, a matter of training, is left out. It halves the image five times. With
``small_images`` the first two of these are left out; the parameters are the same.
"""

from __future__ import annotations

from torch import Tensor, nn

from .blocks import SqueezeExcite, conv_bn_act, initialize, scaled
from .zoo import register

_STAGES = (
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)
"""Expansion, kernel, stride, output channels and blocks of each stage."""


class MBConv(nn.Module):
    """Expand, filter by depth, weigh the channels, project: (N, C, H, W) -> (N, out, H / stride, W / stride)."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = in_channels * expansion
        self.residual = stride == 1 and in_channels == out_channels
        self.expand: nn.Module = nn.Identity()
        if expansion != 1:
            self.expand = conv_bn_act(in_channels, hidden, 1, activation=nn.SiLU)
        self.depthwise = conv_bn_act(hidden, hidden, kernel, stride, hidden, nn.SiLU)
        self.excite = SqueezeExcite(hidden, in_channels // 4, activation=nn.SiLU)
        self.project = conv_bn_act(hidden, out_channels, 1, activation=None)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.project(self.excite(self.depthwise(self.expand(x))))
        return x + out if self.residual else out


class EfficientNet(nn.Module):
    """EfficientNet-B0: (N, in_channels, H, W) -> (N, num_classes).

    Args:
        width: multiplies the channels of every layer; multiples of 8.
        small_images: keep the resolution in the first two of the five places that halve it.
    """

    def __init__(
        self, width: float = 1.0, num_classes: int = 10, in_channels: int = 3, small_images: bool = True
    ) -> None:
        super().__init__()
        channels = scaled(32, width)
        self.stem = conv_bn_act(in_channels, channels, 3, 1 if small_images else 2, activation=nn.SiLU)
        blocks: list[nn.Module] = []
        for index, (expansion, kernel, stride, base, count) in enumerate(_STAGES):
            out_channels = scaled(base, width)
            stride = 1 if small_images and index == 1 else stride
            for position in range(count):
                blocks.append(MBConv(channels, out_channels, kernel, 1 if position else stride, expansion))
                channels = out_channels
        self.blocks = nn.Sequential(*blocks)
        last = scaled(1280, width)
        self.head = conv_bn_act(channels, last, 1, activation=nn.SiLU)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(0.2)
        self.classifier = nn.Linear(last, num_classes)
        initialize(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.head(self.blocks(self.stem(x)))).flatten(1)
        return self.classifier(self.dropout(x))  # type: ignore[no-any-return]


register("efficientnet_b0", EfficientNet)
