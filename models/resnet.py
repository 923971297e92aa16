"""ResNet for 32x32 images: He et al., "Deep Residual Learning for Image Recognition" (2015), section 4.2.

Depth 6n + 2, three stages of n basic blocks with ``width``, 2 ``width`` and 4 ``width`` channels, and shortcuts of the
paper's option B (a 1x1 convolution where the shape changes), which every engine runs without padding of channels.
"""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn

from .zoo import register


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with a shortcut around them: (N, C, H, W) -> (N, out, H / stride, W / stride)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU()
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        merged: Tensor = self.relu(out + self.shortcut(x))
        return merged


class CifarResNet(nn.Module):
    """ResNet of depth 6n + 2 for small images: (N, in_channels, H, W) -> (N, num_classes).

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
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    @staticmethod
    def _stage(in_channels: int, out_channels: int, blocks: int, stride: int) -> nn.Sequential:
        first = BasicBlock(in_channels, out_channels, stride)
        return nn.Sequential(first, *(BasicBlock(out_channels, out_channels, 1) for _ in range(blocks - 1)))

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: Tensor = self.fc(self.pool(x).flatten(1))
        return logits


for _depth in (20, 32, 44, 56, 110):
    register(f"resnet{_depth}", partial(CifarResNet, _depth))
