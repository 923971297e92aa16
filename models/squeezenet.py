"""SqueezeNet: Iandola et al., "SqueezeNet: AlexNet-level accuracy with 50x fewer parameters" (2016), table 1, and the
version 1.1 that its authors published (a 3x3 stem of 64 filters and earlier pooling).
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from .zoo import register

_FIRE = ((16, 64), (16, 64), (32, 128), (32, 128), (48, 192), (48, 192), (64, 256), (64, 256))
"""Squeeze channels and channels of either expansion of each fire module."""
_VERSIONS = {"1.0": (96, 7, (3, 7)), "1.1": (64, 3, (2, 4))}
"""Filters and kernel of the stem; the fire modules, counted from 0, that a pooling stands before, besides the one after
the stem."""


class Fire(nn.Module):
    """A 1x1 squeeze, then 1x1 and 3x3 expansions side by side: (N, C, H, W) -> (N, 2 expand, H, W)."""

    def __init__(self, in_channels: int, squeeze: int, expand: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(in_channels, squeeze, 1)
        self.expand1x1 = nn.Conv2d(squeeze, expand, 1)
        self.expand3x3 = nn.Conv2d(squeeze, expand, 3, padding=1)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.squeeze(x))
        return torch.cat([self.relu(self.expand1x1(x)), self.relu(self.expand3x3(x))], dim=1)


class SqueezeNet(nn.Module):
    """SqueezeNet: (N, in_channels, H, W) -> (N, num_classes).

    Args:
        version: "1.0" or "1.1".
        width: multiplies the channels of every layer.
        small_images: for 32x32, keep the resolution in the first two of the four places that halve it.
    """

    def __init__(
        self,
        version: str,
        width: float = 1.0,
        num_classes: int = 10,
        in_channels: int = 3,
        small_images: bool = True,
    ) -> None:
        super().__init__()
        filters, kernel, pool_before = _VERSIONS[version]
        channels = max(1, round(filters * width))
        stride, padding = (1, kernel // 2) if small_images else (2, 0)
        layers: list[nn.Module] = [nn.Conv2d(in_channels, channels, kernel, stride, padding), nn.ReLU()]
        layers.append(nn.Identity() if small_images else nn.MaxPool2d(3, 2, ceil_mode=True))
        for index, (squeeze, expand) in enumerate(_FIRE):
            if index in pool_before:
                layers.append(nn.MaxPool2d(3, 2, ceil_mode=True))
            expanded = max(1, round(expand * width))
            layers.append(Fire(channels, max(1, round(squeeze * width)), expanded))
            channels = 2 * expanded
        self.features = nn.Sequential(*layers)
        self.dropout = nn.Dropout(0.5)
        self.classifier = nn.Conv2d(channels, num_classes, 1)
        self.relu = nn.ReLU()
        self.pool = nn.AdaptiveAvgPool2d(1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_uniform_(module.weight, nonlinearity="relu")
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]
        nn.init.normal_(self.classifier.weight, std=0.01)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.classifier(self.dropout(self.features(x))))
        return self.pool(x).flatten(1)  # type: ignore[no-any-return]


register("squeezenet_1_0", partial(SqueezeNet, "1.0"))
register("squeezenet_1_1", partial(SqueezeNet, "1.1"))
