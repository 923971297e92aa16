"""VGG with batch normalization: Simonyan & Zisserman, "Very Deep Convolutional Networks for Large-Scale Image
Recognition" (2014), table 1, configurations A, B, D and E.

Five stages of 3x3 convolutions, each ended by a pooling of 2. For large images the paper's three linear layers follow;
the form for 32x32 images has one, on the average of what is left.
"""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn

from .zoo import register

_CHANNELS = (64, 128, 256, 512, 512)
_CONVOLUTIONS = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
_HIDDEN, _GRID = 4096, 7
"""Of the paper's linear layers: their channels, and the rows and columns of what the first of them reads."""


class VGG(nn.Module):
    """VGG of 11, 13, 16 or 19 weight layers: (N, in_channels, H, W) -> (N, num_classes), H and W of 32 at least.

    Args:
        depth: 11, 13, 16 or 19, as the paper counts.
        width: multiplies the channels of every stage (64, 128, 256, 512, 512) and of the hidden linear layers.
        small_images: for 32x32, one linear layer in the place of three.
    """

    def __init__(
        self, depth: int, width: float = 1.0, num_classes: int = 10, in_channels: int = 3, small_images: bool = True
    ) -> None:
        super().__init__()
        stages: list[nn.Module] = []
        channels = in_channels
        for base, count in zip(_CHANNELS, _CONVOLUTIONS[depth], strict=True):
            out_channels = max(1, round(base * width))
            layers: list[nn.Module] = []
            for _ in range(count):
                layers += [nn.Conv2d(channels, out_channels, 3, padding=1), nn.BatchNorm2d(out_channels), nn.ReLU()]
                channels = out_channels
            stages.append(nn.Sequential(*layers, nn.MaxPool2d(2)))
        self.features = nn.Sequential(*stages)
        self.pool = nn.AdaptiveAvgPool2d(1 if small_images else _GRID)
        if small_images:
            self.classifier: nn.Module = nn.Linear(channels, num_classes)
        else:
            hidden = max(1, round(_HIDDEN * width))
            self.classifier = nn.Sequential(
                *(nn.Linear(channels * _GRID**2, hidden), nn.ReLU(), nn.Dropout(0.5)),
                *(nn.Linear(hidden, hidden), nn.ReLU(), nn.Dropout(0.5)),
                nn.Linear(hidden, num_classes),
            )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.pool(self.features(x)).flatten(1))  # type: ignore[no-any-return]


for _depth in _CONVOLUTIONS:
    register(f"vgg{_depth}_bn", partial(VGG, _depth))
