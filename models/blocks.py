"""Blocks that several architectures share."""

from __future__ import annotations

from torch import Tensor, nn

Activation = type[nn.Module]


def scaled(channels: float, width: float = 1.0, multiple: int = 8) -> int:
    """``channels * width`` to the nearest multiple of ``multiple``, at least one, and never under 90 % of it.

    The rule of the MobileNets' reference code, which EfficientNet and GhostNet follow.

    >>> scaled(32, 0.35), scaled(24, 0.5), scaled(42, 1.0, 4)
    (16, 16, 44)
    """
    wanted = channels * width
    nearest = max(multiple, int(wanted + multiple / 2) // multiple * multiple)
    return nearest + multiple if nearest < 0.9 * wanted else nearest


def conv_bn_act(
    in_channels: int,
    out_channels: int,
    kernel: int,
    stride: int = 1,
    groups: int = 1,
    activation: Activation | None = nn.ReLU,
) -> nn.Sequential:
    """A convolution without bias, its batch norm and, if there is one, an activation; padded to keep the size."""
    layers: list[nn.Module] = [
        nn.Conv2d(in_channels, out_channels, kernel, stride, padding=kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(out_channels),
    ]
    if activation is not None:
        layers.append(activation())
    return nn.Sequential(*layers)


class SqueezeExcite(nn.Module):
    """Channels weighted by what their averages say, (N, C, H, W) -> (N, C, H, W): Hu et al., "Squeeze-and-Excitation
    Networks" (2017), section 3, equations 2 to 4.

    Args:
        channels: C.
        squeezed: channels between the two layers.
        activation: between the two layers.
        gate: makes weights of the second layer's outputs.
    """

    def __init__(
        self, channels: int, squeezed: int, activation: Activation = nn.ReLU, gate: Activation = nn.Sigmoid
    ) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.reduce = nn.Conv2d(channels, squeezed, 1)
        self.activation = activation()
        self.expand = nn.Conv2d(squeezed, channels, 1)
        self.gate = gate()

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(self.expand(self.activation(self.reduce(self.pool(x)))))  # type: ignore[no-any-return]


def channel_shuffle(x: Tensor, groups: int) -> Tensor:
    """``x`` of shape (N, C, H, W) with its channels dealt out over ``groups`` in turn: Zhang et al., "ShuffleNet"
    (2017), figure 1 (c).
    """
    n, channels, height, width = x.shape
    return x.reshape(n, groups, channels // groups, height, width).transpose(1, 2).reshape(n, channels, height, width)


def initialize(network: nn.Module) -> None:
    """Draw the weights of convolutions as He et al., "Delving Deep into Rectifiers" (2015), and classifiers small."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.01)
            nn.init.zeros_(module.bias)
