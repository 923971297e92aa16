"""Segmentation of CamVid (Brostow et al., 2009): what of eleven kinds each pixel of a street is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import interpolate

from benchmarks.any_task.case import Case, adamw
from compress.data import Data, from_arrays

CLASSES = 11
"""The value of a mask that is of no class, too."""
SIZE = (96, 128)
"""Height and width that photographs are scaled to."""


def unit(channels: int, out: int, stride: int = 1) -> nn.Sequential:
    """A depthwise convolution of 3x3 and one of 1x1, each with its norm: (N, C, H, W) -> (N, out, H/s, W/s)."""
    return nn.Sequential(
        nn.Conv2d(channels, channels, 3, stride, 1, groups=channels, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(),
        nn.Conv2d(channels, out, 1, bias=False),
        nn.BatchNorm2d(out),
        nn.ReLU(),
    )


class Streets(nn.Module):
    """An encoder to an eighth of the resolution, and a decoder that adds what was seen at a quarter and a half."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 24, 3, 2, 1, bias=False), nn.BatchNorm2d(24), nn.ReLU(), unit(24, 24))
        self.quarter = nn.Sequential(unit(24, 48, 2), unit(48, 48))
        self.eighth = nn.Sequential(unit(48, 96, 2), unit(96, 96), unit(96, 96), unit(96, 96))
        self.narrow = nn.Conv2d(96, 48, 1)
        self.merged = unit(48, 32)
        self.last = unit(56, 32)
        self.head = nn.Conv2d(32, CLASSES, 1)

    def forward(self, image: Tensor) -> Tensor:
        half = self.stem(image)
        quarter = self.quarter(half)
        eighth = self.narrow(self.eighth(quarter))
        x = self.merged(quarter + interpolate(eighth, scale_factor=2.0, mode="bilinear"))
        x = self.last(torch.cat([interpolate(x, scale_factor=2.0, mode="bilinear"), half], 1))
        return interpolate(self.head(x), scale_factor=2.0, mode="bilinear")


def data(folder: Path) -> Data:
    """CamVid in its authors' splits."""
    parts: dict[str, NDArray[np.uint8]] = {}
    for split, name in (("train", "train"), ("validation", "val"), ("test", "test")):
        pairs = [_pair(photograph) for photograph in sorted((folder / "camvid" / name).glob("*.jpg"))]
        if not pairs:
            raise FileNotFoundError(folder / "camvid" / name)
        images, masks = (np.stack(each) for each in zip(*pairs, strict=True))
        parts |= {f"x_{split}": images, f"y_{split}": masks}
    return from_arrays(**parts, name="CamVid")  # type: ignore[arg-type]


def _pair(photograph: Path) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """A photograph (3, H, W), and its mask (H, W) with 255 for pixels of no class."""
    height, width = SIZE
    with Image.open(photograph) as image:
        pixels = np.asarray(image.convert("RGB").resize((width, height), Image.Resampling.BILINEAR))
    with Image.open(photograph.parent.with_name(f"{photograph.parent.name}annot") / f"{photograph.stem}.png") as stored:
        mask = np.asarray(stored.resize((width, height), Image.Resampling.NEAREST))
    return pixels.transpose(2, 0, 1).copy(), np.where(mask < CLASSES, mask, 255).astype(np.uint8)


CASE = Case(
    network=f"{__name__}:Streets",
    task="segmentation",
    data=data,
    training=adamw(60, batch_size=8, augment=("flip",)),
    most_lost=1.0,
)
