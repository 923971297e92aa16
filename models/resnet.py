"""ResNet: He et al., "Deep Residual Learning for Image Recognition" (2015), table 1 (large images) and section 4.2
(32x32 images).

Shortcuts are the paper's option B (a 1x1 convolution where the shape changes), which every engine runs without padding
of channels. Bottlenecks stride in their 3x3 convolution, as all implementations since Gross & Wilber, "Training and
investigating Residual Nets" (2016) do; the paper strides in the 1x1 before it.
"""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn

from .blocks import SqueezeExcite
from .zoo import register

_STAGES = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
"""Blocks of each stage."""
_EXPANSION = 4
"""Output channels of a bottleneck over its stage's channels."""


def _shortcut(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    if stride == 1 and in_channels == out_channels:
        return nn.Identity()
    return nn.Sequential(nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels))


def _excite(channels: int, reduction: int | None) -> nn.Module:
    return nn.Identity() if reduction is None else SqueezeExcite(channels, max(1, channels // reduction))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with a shortcut around them: (N, C, H, W) -> (N, out, H / stride, W / stride).

    Args:
        reduction: channels over those of squeeze-and-excitation before the sum; None leaves it out.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, reduction: int | None = None) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.excite = _excite(out_channels, reduction)
        self.relu = nn.ReLU()
        self.shortcut = _shortcut(in_channels, out_channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.excite(self.bn2(self.conv2(out)))
        merged: Tensor = self.relu(out + self.shortcut(x))
        return merged


class Bottleneck(nn.Module):
    """A 3x3 convolution of few channels between two 1x1: (N, C, H, W) -> (N, out, H / stride, W / stride).

    Args:
        middle: channels of the 3x3 convolution.
        reduction: channels over those of squeeze-and-excitation before the sum; None leaves it out.
    """

    def __init__(
        self, in_channels: int, middle: int, out_channels: int, stride: int, reduction: int | None = None
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, middle, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(middle)
        self.conv2 = nn.Conv2d(middle, middle, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(middle)
        self.conv3 = nn.Conv2d(middle, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.excite = _excite(out_channels, reduction)
        self.relu = nn.ReLU()
        self.shortcut = _shortcut(in_channels, out_channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.excite(self.bn3(self.conv3(out)))
        merged: Tensor = self.relu(out + self.shortcut(x))
        return merged


class CifarResNet(nn.Module):
    """ResNet of depth 6n + 2 for small images: (N, in_channels, H, W) -> (N, num_classes).

    Three stages of n basic blocks with ``width``, 2 ``width`` and 4 ``width`` channels.

    Args:
        depth: 20, 32, 44, 56, 110, ...
        width: channels of the first stage (16 in the paper).
    """

    def __init__(self, depth: int, width: int = 16, num_classes: int = 10, in_channels: int = 3) -> None:
        super().__init__()
        if depth % 6 != 2:
            raise ValueError(f"the depth of a CIFAR ResNet is 6n + 2, not {depth}")
        self.conv1 = nn.Conv2d(in_channels, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()
        blocks = (depth - 2) // 6
        self.layer1 = self._stage(width, width, blocks, 1)
        self.layer2 = self._stage(width, 2 * width, blocks, 2)
        self.layer3 = self._stage(2 * width, 4 * width, blocks, 2)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(4 * width, num_classes)
        _initialize(self)

    @staticmethod
    def _stage(in_channels: int, out_channels: int, blocks: int, stride: int) -> nn.Sequential:
        first = BasicBlock(in_channels, out_channels, stride)
        return nn.Sequential(first, *(BasicBlock(out_channels, out_channels, 1) for _ in range(blocks - 1)))

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: Tensor = self.fc(self.pool(x).flatten(1))
        return logits


class ResNet(nn.Module):
    """ResNet of table 1: (N, in_channels, H, W) -> (N, num_classes).

    Args:
        depth: 18 and 34 have basic blocks; 50, 101 and 152 have bottlenecks.
        width: channels of the first stage (64 in the paper).
        small_images: for 32x32, a 3x3 stem and no pooling, which keep the resolution.
        middle: multiplies the channels of the 3x3 convolutions in bottlenecks.
        reduction: of squeeze-and-excitation; None leaves it out.
    """

    def __init__(
        self,
        depth: int,
        width: int = 64,
        num_classes: int = 10,
        in_channels: int = 3,
        small_images: bool = True,
        *,
        middle: int = 1,
        reduction: int | None = None,
    ) -> None:
        super().__init__()
        kernel, stride = (3, 1) if small_images else (7, 2)
        self.conv1 = nn.Conv2d(in_channels, width, kernel, stride, padding=kernel // 2, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()
        self.maxpool = nn.Identity() if small_images else nn.MaxPool2d(3, 2, padding=1)
        channels = width
        stages: list[nn.Module] = []
        for index, count in enumerate(_STAGES[depth]):
            base = width * 2**index
            blocks: list[nn.Module] = []
            for position in range(count):
                stride = 2 if index and not position else 1
                if depth < 50:
                    blocks.append(BasicBlock(channels, base, stride, reduction))
                    channels = base
                else:
                    blocks.append(Bottleneck(channels, middle * base, _EXPANSION * base, stride, reduction))
                    channels = _EXPANSION * base
            stages.append(nn.Sequential(*blocks))
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels, num_classes)
        _initialize(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        logits: Tensor = self.fc(self.pool(x).flatten(1))
        return logits


def _initialize(network: nn.Module) -> None:
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def resnet18_cifar(width: int = 64, num_classes: int = 10, in_channels: int = 3) -> ResNet:
    """ResNet-18 in its form for 32x32 images."""
    return ResNet(18, width, num_classes, in_channels, small_images=True)


for _depth in (20, 32, 44, 56, 110):
    register(f"resnet{_depth}", partial(CifarResNet, _depth))
for _depth in (18, 34, 50, 101, 152):
    register(f"resnet{_depth}", partial(ResNet, _depth))
register("resnet18_cifar", resnet18_cifar)
