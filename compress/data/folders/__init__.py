"""Folders of images with labels: what a folder is, is seen by what it holds.

A form is a file of this folder with ``find``, which returns a :class:`.layout.Layout` or None, and ``EXPECTED``, which
says what it looks for.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from ...errors import InvalidInput
from ..images import ImageFiles, channels_of, common_size, some_sizes
from ..partition import DataConfig, Part, deal, measured_preprocessing
from ..placement import Size
from ..split import SPLITS, Data, SplitName
from . import classes, coco, masks, voc, yolo
from .layout import Layout, Placing

FORMS = (voc, coco, yolo, masks, classes)
"""In the order in which they are looked for: the folders of any can be taken for classes."""


def image_folder(path: Path, config: DataConfig, seed: int) -> Data:
    """The data set of a folder; raises InvalidInput."""
    layout = _recognized(path)
    train = layout.images["train"]
    placing = Placing(config.resize or layout.resize, config.height_width or common_size(path, train))
    channels = config.channels or channels_of(train[0])
    labels = {split: layout.labels(split, placing) for split in SPLITS if split in layout.images}

    def part(split: SplitName) -> Part:
        paths = layout.images[split]
        images = ImageFiles(paths, placing.size, channels, placing.resize)
        return Part(images.stored(), labels[split], tuple(str(image.relative_to(path)) for image in paths))

    given: dict[SplitName, Part] = {split: part(split) for split in layout.images if split != "train"}
    preprocess = partial(measured_preprocessing, config, scale=1 / 255)
    return deal(config, seed, part("train"), given, layout.classes(labels), preprocess)


def sizes_of_images(path: Path) -> frozenset[Size]:
    """Height and width of images in the folder ``path``: of some that are spread over all, not of each one.

    Raises:
        InvalidInput: it is no folder of images.
    """
    return some_sizes(_recognized(path).images["train"])


def _recognized(path: Path) -> Layout:
    for form in FORMS:
        layout: Layout | None = form.find(path)
        if layout is not None:
            return layout
    expected = "; ".join(form.EXPECTED for form in reversed(FORMS))
    raise InvalidInput(f"data {path}: found no images in a known form; expected one of: {expected}")
