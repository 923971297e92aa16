"""Bi-Real Net: Liu et al., "Bi-Real Net: Enhancing the Performance of 1-bit CNNs With Improved Representational
Capability and Advanced Training Algorithm" (2018), figure 3: ResNets of 3x3 convolutions with a shortcut around each,
so that values of full precision get past every convolution that rounds what it reads to signs.

The activation after each sum is RPReLU, and the shortcut where the shape changes averages 2x2 before its 1x1
convolution, as in Liu et al., "ReActNet" (2020), equation 4 and figure 4. In float the networks are what a binary one
is compared with; the stage Quantize rounds them.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from .zoo import register


class RPReLU(nn.Module):
    """PReLU between two shifts, all learnt for each channel: (N, C, H, W) in the same shape."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.before = nn.Parameter(torch.zeros(channels, 1, 1))
        self.slope = nn.PReLU(channels)
        self.after = nn.Parameter(torch.zeros(channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        shifted: Tensor = self.slope(x - self.before) + self.after
        return shifted


def _shortcut(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    if stride == 1 and in_channels == out_channels:
        return nn.Identity()
    average = nn.AvgPool2d(stride) if stride > 1 else nn.Identity()
    return nn.Sequential(average, nn.Conv2d(in_channels, out_channels, 1, bias=False), nn.BatchNorm2d(out_channels))


class Step(nn.Module):
    """A 3x3 convolution with a shortcut around it: (N, C, H, W) -> (N, out, H / stride, W / stride)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(out_channels)
        self.shortcut = _shortcut(in_channels, out_channels, stride)
        self.act = RPReLU(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        merged: Tensor = self.act(self.bn(self.conv(x)) + self.shortcut(x))
        return merged


class BiRealNet(nn.Module):
    """Stages of steps after a stem in full precision: (N, in_channels, H, W) -> (N, num_classes).

    Args:
        steps: convolutions of each stage; the first of a stage but the first halves height and width.
        width: channels of the first stage; each further one has twice as many.
        small_images: for 32x32, a 3x3 stem that keeps the resolution; else 7x7 and a pooling.
    """

    def __init__(
        self,
        steps: Sequence[int],
        width: int,
        num_classes: int = 10,
        in_channels: int = 3,
        small_images: bool = True,
    ) -> None:
        super().__init__()
        kernel, stride = (3, 1) if small_images else (7, 2)
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, width, kernel, stride, padding=kernel // 2, bias=False),
            nn.BatchNorm2d(width),
            nn.Identity() if small_images else nn.MaxPool2d(3, 2, padding=1),
        )
        channels = width
        stages: list[nn.Module] = []
        for number, count in enumerate(steps):
            out_channels = width * 2**number
            strides = [2 if number else 1] + [1] * (count - 1)
            inputs = [channels] + [out_channels] * (count - 1)
            stages += [Step(c, out_channels, s) for c, s in zip(inputs, strides, strict=True)]
            channels = out_channels
        self.steps = nn.Sequential(*stages)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.fc(self.pool(self.steps(self.stem(x))).flatten(1))
        return logits


_EIGHTEEN = (4, 4, 4, 4)
register("bireal_resnet20", partial(BiRealNet, (6, 6, 6), width=16))
register("bireal_resnet18_cifar", partial(BiRealNet, _EIGHTEEN, width=64))
register("bireal_resnet18", partial(BiRealNet, _EIGHTEEN, width=64, num_classes=1000, small_images=False))
