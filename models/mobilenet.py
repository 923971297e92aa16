"""MobileNets: Howard et al., "MobileNets: Efficient Convolutional Neural Networks for Mobile Vision Applications"
(2017), table 1, and Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks" (2018), table 2.

Both halve the image five times. With ``small_images`` (the default, for 32x32) the first two of these are left out;
the parameters are the same in both forms.
"""

from __future__ import annotations

from torch import Tensor, nn

from .zoo import register

_V1 = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *((512, 1),) * 5, (1024, 2), (1024, 1))
"""Output channels and stride of each depthwise separable block."""
_V2 = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
"""Expansion, output channels, blocks and stride of each stage."""


def _scaled(channels: int, width: float) -> int:
    """``channels * width`` to the nearest multiple of 8, at least 8, and never under 90 % of it."""
    wanted = channels * width
    nearest = max(8, int(wanted + 4) // 8 * 8)
    return nearest + 8 if nearest < 0.9 * wanted else nearest


def _conv_bn_relu6(in_channels: int, out_channels: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel, stride, padding=kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU6(),
    )


class InvertedResidual(nn.Module):
    """Expand, filter by depth, project without activation: (N, C, H, W) -> (N, out, H / stride, W / stride)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = in_channels * expansion
        self.residual = stride == 1 and in_channels == out_channels
        self.expand = _conv_bn_relu6(in_channels, hidden, 1) if expansion != 1 else nn.Identity()
        self.depthwise = _conv_bn_relu6(hidden, hidden, 3, stride, groups=hidden)
        self.project = nn.Sequential(nn.Conv2d(hidden, out_channels, 1, bias=False), nn.BatchNorm2d(out_channels))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.project(self.depthwise(self.expand(x)))
        return x + out if self.residual else out


class MobileNetV1(nn.Module):
    """MobileNet of depthwise separable convolutions: (N, in_channels, H, W) -> (N, num_classes).

    Args:
        width: multiplies the channels of every layer; the results are multiples of 8.
        small_images: keep the resolution in the first two of the five places that halve it.
    """

    def __init__(
        self, width: float = 1.0, num_classes: int = 10, in_channels: int = 3, small_images: bool = True
    ) -> None:
        super().__init__()
        channels = _scaled(32, width)
        self.stem = _conv_bn_relu6(in_channels, channels, 3, 1 if small_images else 2)
        blocks: list[nn.Module] = []
        for index, (base, stride) in enumerate(_V1):
            out_channels = _scaled(base, width)
            stride = 1 if small_images and index == 1 else stride
            depthwise = _conv_bn_relu6(channels, channels, 3, stride, groups=channels)
            blocks.append(nn.Sequential(depthwise, _conv_bn_relu6(channels, out_channels, 1)))
            channels = out_channels
        self.blocks = nn.Sequential(*blocks)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(channels, num_classes)
        _initialize(self)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.pool(self.blocks(self.stem(x))).flatten(1))  # type: ignore[no-any-return]


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
        channels = _scaled(32, width)
        self.stem = _conv_bn_relu6(in_channels, channels, 3, 1 if small_images else 2)
        blocks: list[nn.Module] = []
        for index, (expansion, base, count, stride) in enumerate(_V2):
            out_channels = _scaled(base, width)
            stride = 1 if small_images and index == 1 else stride
            for position in range(count):
                blocks.append(InvertedResidual(channels, out_channels, 1 if position else stride, expansion))
                channels = out_channels
        self.blocks = nn.Sequential(*blocks)
        last = _scaled(1280, max(1.0, width))
        self.head = _conv_bn_relu6(channels, last, 1)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(0.2)
        self.classifier = nn.Linear(last, num_classes)
        _initialize(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.head(self.blocks(self.stem(x)))).flatten(1)
        return self.classifier(self.dropout(x))  # type: ignore[no-any-return]


def _initialize(network: nn.Module) -> None:
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out")
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.01)
            nn.init.zeros_(module.bias)


register("mobilenet_v1", MobileNetV1)
register("mobilenet_v2", MobileNetV2)
