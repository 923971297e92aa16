"""Which digit is spoken (Free Spoken Digit Dataset), by a network of two-dimensional convolutions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from benchmarks.any_task.case import Case, adamw
from benchmarks.any_task.spectrograms import spoken_digits
from compress.data import Data, from_arrays


def network() -> nn.Module:
    """Spectrograms (N, 1, 40, 64) to scores of ten digits (N, 10)."""
    layers: list[nn.Module] = []
    channels = 1
    for out, stride in ((16, 2), (32, 2), (48, 1), (64, 2)):
        layers += [nn.Conv2d(channels, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out), nn.ReLU()]
        channels = out
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10))


def data(folder: Path) -> Data:
    """Spectrograms as images of one channel, and digits."""
    parts = spoken_digits(folder)
    images: dict[str, Any] = {key: a[:, None] if key[0] == "x" else a for key, a in parts.items()}
    return from_arrays(**images, name="spoken digits")


CASE = Case(network=f"{__name__}:network", task="classification", data=data, training=adamw(15), most_lost=0.5)
