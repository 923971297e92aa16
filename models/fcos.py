"""FCOS: Tian et al., "FCOS: Fully Convolutional One-Stage Object Detection" (2019), in a small form for devices.

Every point of three grids gives the distances to the sides of a box (section 3.1, as ``exp`` of what is learnt) and a
score for each class. Features are those of Lin et al., "Feature Pyramid Networks" (2017), on residual blocks as of
Redmon & Farhadi, "YOLOv3" (2018), section 2.4. As in Ge et al., "YOLOX" (2021), each grid has a head of its own, whose
branches for boxes and classes are apart. There is no branch for centre-ness: scores are to be trained on how well boxes
fit, as in Li et al., "Generalized Focal Loss" (2020).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from .blocks import Activation, conv_bn_act, initialize, scaled
from .zoo import register, sides

STRIDES = (8, 16, 32)
"""Pixels from point to point, of each grid."""
_CHANNELS = (16, 32, 64, 128, 256)
"""Of the stem and of the four stages, each of which halves the image."""
_PYRAMID = 64
_RARE = 0.01
"""The probability of a class with which training begins, as in Lin et al., "Focal Loss" (2017), section 4.1."""


class Residual(nn.Module):
    """A 1x1 and a 3x3 convolution with a shortcut around them: (N, C, H, W) -> (N, C, H, W)."""

    def __init__(self, channels: int, activation: Activation) -> None:
        super().__init__()
        self.reduce = conv_bn_act(channels, channels // 2, 1, activation=activation)
        self.expand = conv_bn_act(channels // 2, channels, 3, activation=activation)

    def forward(self, x: Tensor) -> Tensor:
        merged: Tensor = x + self.expand(self.reduce(x))
        return merged


class Pyramid(nn.Module):
    """Features of three scales, each with those of the coarser ones added: Lin et al. (2017), section 3."""

    def __init__(self, in_channels: tuple[int, ...], channels: int, activation: Activation) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(conv_bn_act(each, channels, 1, activation=activation) for each in in_channels)
        self.merge = nn.ModuleList(conv_bn_act(channels, channels, 3, activation=activation) for _ in in_channels[1:])

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        merged = [lateral(each) for lateral, each in zip(self.lateral, features, strict=True)]
        for level in reversed(range(len(self.merge))):
            finer = merged[level] + interpolate(merged[level + 1], scale_factor=2.0, mode="nearest")
            merged[level] = self.merge[level](finer)
        return merged


class Head(nn.Module):
    """What one grid gives: logarithms of distances (N, H * W, 4) and logits of classes (N, H * W, num_classes)."""

    def __init__(self, channels: int, num_classes: int, activation: Activation) -> None:
        super().__init__()
        self.box_branch = conv_bn_act(channels, channels, 3, activation=activation)
        self.class_branch = conv_bn_act(channels, channels, 3, activation=activation)
        self.boxes = nn.Conv2d(channels, 4, 1)
        self.classes = nn.Conv2d(channels, num_classes, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        distances, scores = self.boxes(self.box_branch(x)), self.classes(self.class_branch(x))
        return distances.flatten(2).transpose(1, 2), scores.flatten(2).transpose(1, 2)


class Fcos(nn.Module):
    """FCOS: (N, in_channels, H, W) -> (boxes (N, A, 4), scores (N, A, num_classes)), of all A points of the grids.

    Boxes are x1, y1, x2, y2 in pixels of the input, scores are logits. Points are those of the grids of ``STRIDES``,
    the finest first, row by row.

    Args:
        width: multiplies all channels.
        image_size: the side of images, or their height and width as 192x256; multiples of 32.
        silu: whether activations are SiLU instead of ReLU.

    Raises:
        ValueError: a side is no multiple of 32.
    """

    points: Tensor
    scales: Tensor

    def __init__(
        self,
        num_classes: int = 10,
        in_channels: int = 3,
        width: float = 1.0,
        image_size: int | str = 256,
        silu: bool = False,
    ) -> None:
        super().__init__()
        size = sides(image_size)
        if any(side < 1 or side % STRIDES[-1] for side in size):
            raise ValueError(f"image_size: expected multiples of {STRIDES[-1]}, got {image_size}")
        activation: Activation = nn.SiLU if silu else nn.ReLU
        stem, *stages = (scaled(channels, width) for channels in _CHANNELS)
        self.stem = conv_bn_act(in_channels, stem, 3, 2, activation=activation)
        self.stages = nn.ModuleList()
        entering = stem
        for channels in stages:
            halving = conv_bn_act(entering, channels, 3, 2, activation=activation)
            self.stages.append(nn.Sequential(halving, Residual(channels, activation)))
            entering = channels
        pyramid = scaled(_PYRAMID, width)
        self.pyramid = Pyramid(tuple(stages[1:]), pyramid, activation)
        self.heads = nn.ModuleList(Head(pyramid, num_classes, activation) for _ in STRIDES)
        points, scales = _grid(*size)
        self.register_buffer("points", points, persistent=False)
        self.register_buffer("scales", scales, persistent=False)
        initialize(self)
        for head in self.heads:
            assert isinstance(head, Head)
            nn.init.normal_(head.boxes.weight, std=0.01)
            nn.init.normal_(head.classes.weight, std=0.01)
            nn.init.constant_(head.classes.bias, -math.log((1 - _RARE) / _RARE))  # type: ignore[arg-type]

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        x = self.stem(image)
        features = []
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        given = [head(each) for head, each in zip(self.heads, self.pyramid(features[1:]), strict=True)]
        distances = torch.cat([each for each, _ in given], 1).exp() * self.scales
        corners = [self.points - distances[..., :2], self.points + distances[..., 2:]]
        return torch.cat(corners, -1), torch.cat([each for _, each in given], 1)


def _grid(height: int, width: int) -> tuple[Tensor, Tensor]:
    """The points of all grids (A, 2), x before y, and the stride of each (A, 1)."""
    points, scales = [], []
    for stride in STRIDES:
        y, x = ((torch.arange(side // stride) + 0.5) * stride for side in (height, width))
        rows, columns = torch.meshgrid(y, x, indexing="ij")
        points.append(torch.stack([columns, rows], -1).flatten(0, 1))
        scales.append(torch.full((len(points[-1]), 1), float(stride)))
    return torch.cat(points), torch.cat(scales)


register("fcos", Fcos, detects=True)
