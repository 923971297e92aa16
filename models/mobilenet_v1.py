"""MobileNet: Howard et al., "MobileNets: Efficient Convolutional Neural Networks for Mobile Vision Applications"
(2017), table 1.

It halves the image five times. With ``small_images`` the first two of these are left out; the parameters are the same.
"""

from __future__ import annotations

from torch import Tensor, nn

from .blocks import conv_bn_act, initialize, scaled
from .zoo import register

_BLOCKS = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *((512, 1),) * 5, (1024, 2), (1024, 1))
"""Output channels and stride of each depthwise separable block."""


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
        channels = scaled(32, width)
        self.stem = conv_bn_act(in_channels, channels, 3, 1 if small_images else 2, activation=nn.ReLU6)
        blocks: list[nn.Module] = []
        for index, (base, stride) in enumerate(_BLOCKS):
            out_channels = scaled(base, width)
            stride = 1 if small_images and index == 1 else stride
            depthwise = conv_bn_act(channels, channels, 3, stride, channels, nn.ReLU6)
            blocks.append(nn.Sequential(depthwise, conv_bn_act(channels, out_channels, 1, activation=nn.ReLU6)))
            channels = out_channels
        self.blocks = nn.Sequential(*blocks)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(channels, num_classes)
        initialize(self)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.pool(self.blocks(self.stem(x))).flatten(1))  # type: ignore[no-any-return]


register("mobilenet_v1", MobileNetV1)
