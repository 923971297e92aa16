"""Xception: Chollet, "Xception: Deep Learning with Depthwise Separable Convolutions" (2017), figure 5.

It halves the image five times. With ``small_images`` the first two of these are left out; the parameters are the same.
"""

from __future__ import annotations

from torch import Tensor, nn

from .blocks import conv_bn_act, initialize, scaled
from .zoo import register

_ENTRY = (128, 256, 728)
"""Output channels of the blocks of the entry flow, each of which halves the resolution."""
_MIDDLE = 8
"""Blocks of the middle flow, of as many channels as the entry flow ends with."""
_EXIT = (1024, 1536, 2048)
"""Output channels of the block and of the two convolutions of the exit flow."""


class SeparableConv(nn.Module):
    """A depthwise 3x3 convolution, a 1x1 one and a batch norm: (N, C, H, W) -> (N, out, H, W).

    Nothing stands between the two convolutions (section 4.7).
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(in_channels, in_channels, 3, padding=1, groups=in_channels, bias=False)
        self.pointwise = nn.Conv2d(in_channels, out_channels, 1, bias=False)
        self.bn = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.pointwise(self.depthwise(x)))  # type: ignore[no-any-return]


class Block(nn.Module):
    """Separable convolutions with a shortcut around them: (N, C, H, W) -> (N, channels[-1], H / stride, W / stride).

    Args:
        channels: outputs of each convolution.
        starts_with_relu: a ReLU stands before the first convolution as before the others.
    """

    def __init__(
        self, in_channels: int, channels: tuple[int, ...], stride: int = 1, starts_with_relu: bool = True
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        entering = in_channels
        for index, out_channels in enumerate(channels):
            if index or starts_with_relu:
                layers.append(nn.ReLU())
            layers.append(SeparableConv(entering, out_channels))
            entering = out_channels
        if stride != 1:
            layers.append(nn.MaxPool2d(3, stride, padding=1))
        self.branch = nn.Sequential(*layers)
        self.shortcut: nn.Module = nn.Identity()
        if entering != in_channels or stride != 1:
            self.shortcut = conv_bn_act(in_channels, entering, 1, stride, activation=None)

    def forward(self, x: Tensor) -> Tensor:
        return self.branch(x) + self.shortcut(x)  # type: ignore[no-any-return]


class Xception(nn.Module):
    """Xception: (N, in_channels, H, W) -> (N, num_classes).

    Args:
        width: multiplies the channels of every layer; multiples of 8.
        small_images: for 32x32, keep the resolution in the first two of the five places that halve it.
    """

    def __init__(
        self, width: float = 1.0, num_classes: int = 10, in_channels: int = 3, small_images: bool = True
    ) -> None:
        super().__init__()
        channels, wide = scaled(32, width), scaled(64, width)
        stride, padding = (1, 1) if small_images else (2, 0)
        self.stem = nn.Sequential(
            *(nn.Conv2d(in_channels, channels, 3, stride, padding, bias=False), nn.BatchNorm2d(channels), nn.ReLU()),
            *(nn.Conv2d(channels, wide, 3, padding=padding, bias=False), nn.BatchNorm2d(wide), nn.ReLU()),
        )
        channels = wide
        blocks: list[nn.Module] = []
        for index, base in enumerate(_ENTRY):
            out_channels = scaled(base, width)
            stride = 1 if small_images and not index else 2
            blocks.append(Block(channels, (out_channels,) * 2, stride, starts_with_relu=index > 0))
            channels = out_channels
        blocks += [Block(channels, (channels,) * 3) for _ in range(_MIDDLE)]
        last, *head = (scaled(base, width) for base in _EXIT)
        blocks.append(Block(channels, (channels, last), 2))
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Sequential(SeparableConv(last, head[0]), nn.ReLU(), SeparableConv(*head), nn.ReLU())
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(head[1], num_classes)
        initialize(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.head(self.blocks(self.stem(x)))
        return self.fc(self.pool(x).flatten(1))  # type: ignore[no-any-return]


register("xception", Xception)
