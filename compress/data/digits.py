"""The handwritten digits that scikit-learn ships."""

from __future__ import annotations

from functools import partial

import torch

from ..files.untrusted import ARRAY_BYTES, require_at_most
from .partition import DataConfig, Part, deal, measured_preprocessing, partition
from .split import Data


def digits(config: DataConfig, seed: int) -> Data:
    """UCI optical recognition of handwritten digits as scikit-learn ships it: 1,797 scans of 8x8, resized."""
    from sklearn.datasets import load_digits

    scans = load_digits()
    height, width = config.height_width or (32, 32)
    taken = len(scans.images) * height * width * (config.channels or 1) * 4
    require_at_most(taken, ARRAY_BYTES, "bytes of images", f"data digits, {height}x{width}")
    images = torch.from_numpy(scans.images).float()[:, None]
    images = torch.nn.functional.interpolate(images, size=(height, width), mode="bilinear", align_corners=False)
    pixels = (images * (255 / 16)).round().clamp(0, 255).to(torch.uint8)
    if config.channels and config.channels > 1:
        pixels = pixels.expand(-1, config.channels, -1, -1).contiguous()
    labels = torch.from_numpy(scans.target).long()
    # The test split is the same whatever the seed, so that figures of different seeds compare.
    parts = partition(labels.numpy(), {"test": 360}, seed=0)
    rest, test = torch.from_numpy(parts["rest"]), torch.from_numpy(parts["test"])
    config = config.model_copy(update={"calibration": min(config.calibration, 128)})
    return deal(
        config,
        seed,
        Part(pixels[rest], labels[rest]),
        {"test": Part(pixels[test], labels[test])},
        tuple(str(d) for d in range(10)),
        partial(measured_preprocessing, config, scale=1 / 255),
    )
