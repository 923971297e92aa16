"""WideResNet: Zagoruyko & Komodakis, "Wide Residual Networks" (2016), table 1 (32x32 images) and table 8 (ImageNet).

For 32x32 images blocks are preactivated, as in He et al., "Identity Mappings in Deep Residual Networks" (2016); the
dropout inside of blocks, which the paper tries, is left out. WRN-50-2 is a ResNet-50 with twice the channels in the
3x3 convolutions of its bottlenecks.
"""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn

from .resnet import ResNet
from .zoo import register

_STEM = 16
"""Channels of the first convolution, whatever the width."""


class PreactivatedBlock(nn.Module):
    """Two 3x3 convolutions, each after its batch norm and ReLU: (N, C, H, W) -> (N, out, H / stride, W / stride)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.relu = nn.ReLU()
        self.shortcut: nn.Conv2d | None = None
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        active = self.relu(self.bn1(x))
        out: Tensor = self.conv2(self.relu(self.bn2(self.conv1(active))))
        return out + (x if self.shortcut is None else self.shortcut(active))


class WideResNet(nn.Module):
    """WideResNet of depth 6n + 4 for small images: (N, in_channels, H, W) -> (N, num_classes).

    Args:
        depth: 16, 22, 28, 40, ...
        width: channels of the first stage, 16 k in the paper's WRN-depth-k; the other two have 2 and 4 times as many.
    """

    def __init__(self, depth: int, width: int, num_classes: int = 10, in_channels: int = 3) -> None:
        super().__init__()
        if depth % 6 != 4:
            raise ValueError(f"the depth of a WideResNet is 6n + 4, not {depth}")
        self.stem = nn.Conv2d(in_channels, _STEM, 3, padding=1, bias=False)
        channels = _STEM
        blocks: list[nn.Module] = []
        for index in range(3):
            for position in range((depth - 4) // 6):
                blocks.append(PreactivatedBlock(channels, width * 2**index, 2 if index and not position else 1))
                channels = width * 2**index
        self.blocks = nn.Sequential(*blocks)
        self.bn = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn(self.blocks(self.stem(x))))
        return self.fc(self.pool(x).flatten(1))  # type: ignore[no-any-return]


register("wrn_16_4", partial(WideResNet, 16, width=64))
register("wrn_28_10", partial(WideResNet, 28, width=160))
register("wrn_50_2", partial(ResNet, 50, middle=2))
