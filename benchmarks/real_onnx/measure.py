"""Lines of text, upright and turned, drawn with the fonts that matplotlib ships."""

from __future__ import annotations

import argparse
import doctest
import json
import pickletools
import re
import typing
from pathlib import Path

import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

HEIGHT, WIDTH = 48, 192
FONTS = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
TRAINING_FONTS = (
    "DejaVuSans.ttf",
    "DejaVuSansMono-Bold.ttf",
    "DejaVuSerif-Italic.ttf",
    "STIXGeneral.ttf",
    "DejaVuSans-Oblique.ttf",
    "STIXGeneralBol.ttf",
    "cmss10.ttf",
    "cmtt10.ttf",
)
TEST_FONTS = ("DejaVuSerif-Bold.ttf", "DejaVuSansMono-Oblique.ttf", "STIXGeneralItalic.ttf", "cmr10.ttf")
PROSE = " ".join(module.__doc__ or "" for module in (argparse, doctest, json, pickletools, typing))
WORDS = sorted(set(re.findall(r"[A-Za-z]{3,12}", PROSE)))


def line(rng: np.random.Generator, fonts: tuple[str, ...]) -> NDArray[np.float32]:
    """An upright line of two or three words as a detector cuts it out, (48, width, 3), width at most 192: -1 to 1."""
    text = " ".join(rng.choice(WORDS, rng.integers(2, 4)))
    paper, ink = rng.integers(150, 256, 3), rng.integers(0, 100, 3)
    if rng.random() < 0.3:
        paper, ink = ink, paper
    font = ImageFont.truetype(str(FONTS / rng.choice(fonts)), 40)
    left, top, right, bottom = font.getbbox(text)
    before, after, above, below = (int(margin) for margin in rng.integers(1, 8, 4))
    size = int(right - left) + before + after, int(bottom - top) + above + below
    image = Image.new("RGB", size, tuple(int(c) for c in paper))
    ImageDraw.Draw(image).text((before - left, above - top), text, tuple(int(c) for c in ink), font)
    image = image.resize((min(WIDTH, round(size[0] * HEIGHT / size[1])), HEIGHT), Image.Resampling.BILINEAR)
    pixels = np.asarray(image, np.float32) + rng.normal(0, rng.uniform(0, 12), (HEIGHT, image.width, 3))
    return np.clip(pixels, 0, 255).astype(np.float32) / 127.5 - 1


def lines(count: int, fonts: tuple[str, ...], seed: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Lines (count, 3, 48, 192) and their classes, half of them turned; as PaddleOCR does, filled with 0 on the right.

    Lines keep their ratio of height to width, unless they are longer than the image.
    """
    rng = np.random.default_rng(seed)
    x = np.zeros((count, 3, HEIGHT, WIDTH), np.float32)
    y = rng.integers(0, 2, count)
    for image, turned in zip(x, y, strict=True):
        pixels = line(rng, fonts)
        image[:, :, : pixels.shape[1]] = (pixels[::-1, ::-1] if turned else pixels).transpose(2, 0, 1)
    return x, y.astype(np.int64)


def written(file: Path, counts: tuple[int, int, int]) -> NDArray[np.float32]:
    """Write so many lines for training, validation and test as .npz; returns the images of the test."""
    arrays: dict[str, NDArray[np.float32] | NDArray[np.int64]] = {}
    names, fonts = ("train", "val", "test"), (TRAINING_FONTS, TRAINING_FONTS, TEST_FONTS)
    for seed, (name, count, drawn_with) in enumerate(zip(names, counts, fonts, strict=True)):
        images, labels = lines(count, drawn_with, seed)
        arrays |= {f"x_{name}": images, f"y_{name}": labels}
        if name == "test":
            tested = images
    file.parent.mkdir(parents=True, exist_ok=True)
    np.savez(file, allow_pickle=False, **arrays)
    return tested
