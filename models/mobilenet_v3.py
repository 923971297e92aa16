"""MobileNetV3: Howard et al., "Searching for MobileNetV3" (2019), tables 1 (large) and 2 (small).

Squeeze-and-excitation squeezes to a quarter of the expanded channels (section 5.3) and gates with a hard sigmoid.
Both halve the image five times. With ``small_images`` the first two of these are left out; the parameters are the same.
"""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn

from .blocks import Activation, SqueezeExcite, conv_bn_act, initialize, scaled
from .zoo import register

_RE, _HS = nn.ReLU, nn.Hardswish
_Block = tuple[int, int, int, bool, Activation, int]
_LARGE: tuple[_Block, ...] = (
    (3, 16, 16, False, _RE, 1),
    (3, 64, 24, False, _RE, 2),
    (3, 72, 24, False, _RE, 1),
    (5, 72, 40, True, _RE, 2),
    (5, 120, 40, True, _RE, 1),
    (5, 120, 40, True, _RE, 1),
    (3, 240, 80, False, _HS, 2),
    (3, 200, 80, False, _HS, 1),
    (3, 184, 80, False, _HS, 1),
    (3, 184, 80, False, _HS, 1),
    (3, 480, 112, True, _HS, 1),
    (3, 672, 112, True, _HS, 1),
    (5, 672, 160, True, _HS, 2),
    (5, 960, 160, True, _HS, 1),
    (5, 960, 160, True, _HS, 1),
)
"""Kernel, expanded channels, output channels, squeeze-and-excitation, activation and stride of each block."""
_SMALL: tuple[_Block, ...] = (
    (3, 16, 16, True, _RE, 2),
    (3, 72, 24, False, _RE, 2),
    (3, 88, 24, False, _RE, 1),
    (5, 96, 40, True, _HS, 2),
    (5, 240, 40, True, _HS, 1),
    (5, 240, 40, True, _HS, 1),
    (5, 120, 48, True, _HS, 1),
    (5, 144, 48, True, _HS, 1),
    (5, 288, 96, True, _HS, 2),
    (5, 576, 96, True, _HS, 1),
    (5, 576, 96, True, _HS, 1),
)


class Bottleneck(nn.Module):
    """Expand, filter by depth, weigh the channels, project, figure 4: (N, C, H, W) -> (N, out, H / stride, W / stride).

    Args:
        excited: weigh the channels by squeeze-and-excitation.
    """

    def __init__(
        self,
        in_channels: int,
        expanded: int,
        out_channels: int,
        kernel: int,
        stride: int,
        excited: bool,
        activation: Activation,
    ) -> None:
        super().__init__()
        self.residual = stride == 1 and in_channels == out_channels
        self.expand: nn.Module = nn.Identity()
        if expanded != in_channels:
            self.expand = conv_bn_act(in_channels, expanded, 1, activation=activation)
        self.depthwise = conv_bn_act(expanded, expanded, kernel, stride, expanded, activation)
        self.excite: nn.Module = nn.Identity()
        if excited:
            self.excite = SqueezeExcite(expanded, scaled(expanded // 4), gate=nn.Hardsigmoid)
        self.project = conv_bn_act(expanded, out_channels, 1, activation=None)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.project(self.excite(self.depthwise(self.expand(x))))
        return x + out if self.residual else out


class MobileNetV3(nn.Module):
    """MobileNet that a search found: (N, in_channels, H, W) -> (N, num_classes).

    Args:
        table: the blocks.
        last: features before the classifier.
        width: multiplies the channels of every layer; multiples of 8.
        small_images: keep the resolution in the first two of the five places that halve it.
    """

    def __init__(
        self,
        table: tuple[_Block, ...],
        last: int,
        width: float = 1.0,
        num_classes: int = 10,
        in_channels: int = 3,
        small_images: bool = True,
    ) -> None:
        super().__init__()
        channels = scaled(16, width)
        self.stem = conv_bn_act(in_channels, channels, 3, 1 if small_images else 2, activation=_HS)
        blocks: list[nn.Module] = []
        kept = small_images
        for kernel, expanded, base, excited, activation, stride in table:
            if kept and stride == 2:
                kept, stride = False, 1
            sizes = channels, scaled(expanded, width), scaled(base, width)
            blocks.append(Bottleneck(*sizes, kernel, stride, excited, activation))
            channels = sizes[-1]
        self.blocks = nn.Sequential(*blocks)
        self.head = conv_bn_act(channels, 6 * channels, 1, activation=_HS)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.hidden = nn.Linear(6 * channels, scaled(last, width))
        self.activation = nn.Hardswish()
        self.dropout = nn.Dropout(0.2)
        self.classifier = nn.Linear(scaled(last, width), num_classes)
        initialize(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.head(self.blocks(self.stem(x)))).flatten(1)
        return self.classifier(self.dropout(self.activation(self.hidden(x))))  # type: ignore[no-any-return]


register("mobilenet_v3_small", partial(MobileNetV3, _SMALL, 1024))
register("mobilenet_v3_large", partial(MobileNetV3, _LARGE, 1280))
