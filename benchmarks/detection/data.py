"""BCCD, photographs of blood cells with a box around each: as images in memory, their boxes in pixels of these."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from compress.data import Data, from_loaders

CLASSES = ("RBC", "WBC", "Platelets")
MEAN, STD = 127.5, 63.75

Target = dict[str, Tensor]


@dataclass(frozen=True)
class Photographs:
    """Images (N, 3, H, W) in bytes and the boxes and classes of each, in batches that the network takes.

    Args:
        flipped: whether they come in a new order each time, half of them flipped left to right, and half of them
            upside down, with their boxes; cells have no upright side.
    """

    images: Tensor
    targets: tuple[Target, ...]
    batch_size: int = 8
    flipped: bool = False

    @property
    def dataset(self) -> Tensor:
        """What :class:`compress.data.LoaderSplit` counts."""
        return self.images

    def __iter__(self) -> Iterator[tuple[Tensor, list[Target]]]:
        count = len(self.images)
        order = torch.randperm(count) if self.flipped else torch.arange(count)
        stop = count - count % self.batch_size if self.flipped else count
        for start in range(0, stop, self.batch_size):
            chosen = order[start : start + self.batch_size]
            pairs = [(self.images[i], self.targets[i]) for i in chosen.tolist()]
            if self.flipped:
                pairs = [turned(*pair, *(torch.rand(2) < 0.5).tolist()) for pair in pairs]
            images = torch.stack([image for image, _ in pairs])
            yield (images.float() - MEAN) / STD, [target for _, target in pairs]


def turned(image: Tensor, target: Target, across: bool, down: bool) -> tuple[Tensor, Target]:
    """An image (C, H, W) with its boxes, flipped left to right, upside down, or both."""
    axes = [axis for axis, wanted in ((-1, across), (-2, down)) if wanted]
    boxes = target["boxes"].clone()
    for axis in axes:
        first, last = (0, 2) if axis == -1 else (1, 3)
        boxes[:, [first, last]] = image.shape[axis] - boxes[:, [last, first]]
    return image.flip(axes), {**target, "boxes": boxes}


def bccd(source: Path, folder: Path, size: tuple[int, int], quick: bool = False) -> Data:
    """The data in its authors' splits, images of ``size`` (height, width), from a folder or an archive that is unpacked
    below ``folder``.

    Nothing is held out of the images to train on for calibration: integers are found on the same ones, unflipped.
    """
    if source.is_file():
        if not (folder / "bccd").is_dir():
            with tarfile.open(source) as archive:
                archive.extractall(folder, filter="data")
        source = folder / "bccd"
    read = {name: _split(source, name, size, 16 if quick else None) for name in ("train", "val", "test")}
    whole = {name: Photographs(*pair, batch_size=32) for name, pair in read.items()}
    return from_loaders(
        train=Photographs(*read["train"], flipped=True),
        calibration=whole["train"],
        validation=whole["val"],
        test=whole["test"],
        name="bccd",
    )


def _split(source: Path, name: str, size: tuple[int, int], most: int | None) -> tuple[Tensor, tuple[Target, ...]]:
    height, width = size
    names = (source / "ImageSets" / "Main" / f"{name}.txt").read_text(encoding="utf-8").split()[:most]
    images, targets = [], []
    for each in names:
        with Image.open(source / "JPEGImages" / f"{each}.jpg") as stored:
            scale = width / stored.width, height / stored.height
            small = stored.convert("RGB").resize((width, height), Image.Resampling.BILINEAR)
        images.append(torch.from_numpy(np.asarray(small).copy()).permute(2, 0, 1))
        targets.append(_target(source / "Annotations" / f"{each}.xml", scale))
    return torch.stack(images), tuple(targets)


def _target(file: Path, scale: tuple[float, float]) -> Target:
    """Boxes and classes of an image; a box without any area, of which there are some, is left out."""
    boxes: list[list[float]] = []
    labels: list[int] = []
    for found in ElementTree.parse(file).iter("object"):
        corners = [float(_text(found, f"bndbox/{corner}")) for corner in ("xmin", "ymin", "xmax", "ymax")]
        if corners[0] < corners[2] and corners[1] < corners[3]:
            boxes.append([corner * scale[number % 2] for number, corner in enumerate(corners)])
            labels.append(CLASSES.index(_text(found, "name")))
    return {"boxes": torch.tensor(boxes).reshape(-1, 4), "labels": torch.tensor(labels, dtype=torch.long)}


def _text(element: Any, path: str) -> str:
    found: str | None = element.findtext(path)
    assert found is not None, f"no {path}"
    return found
