"""Folders of classes: ``train/<class>/*.jpg``, and ``val`` and ``test`` alike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ...errors import InvalidInput
from ..images import images_in
from ..placement import Resize
from ..split import Labels, SplitName
from .layout import Placing, split_folders

EXPECTED = "train/<class>/*.jpg (or .png ...)"


@dataclass(frozen=True)
class Classes:
    """A folder for each class; the class of an image is the name of the folder that it lies in."""

    images: Mapping[SplitName, tuple[Path, ...]]
    names: tuple[str, ...]
    resize: Resize = "crop"

    def labels(self, split: SplitName, placing: Placing) -> Tensor:
        numbers = {name: number for number, name in enumerate(self.names)}
        return torch.tensor([numbers[path.parent.name] for path in self.images[split]])

    def classes(self, labels: Mapping[SplitName, Labels]) -> tuple[str, ...]:
        return self.names


def find(path: Path) -> Classes | None:
    """The folder ``path`` as one of classes; None where nothing in it is called after a split.

    Raises:
        InvalidInput: a split lacks a class, or a class has no images.
    """
    folders = split_folders(path)
    if "train" not in folders:
        return None
    train = folders["train"]
    names = tuple(sorted(entry.name for entry in train.iterdir() if entry.is_dir()))
    if not names:
        raise InvalidInput(f"data {train}: expected one folder per class, found none")
    return Classes({split: _listing(folder, train, names) for split, folder in folders.items()}, names)


def _listing(folder: Path, train: Path, names: tuple[str, ...]) -> tuple[Path, ...]:
    paths: list[Path] = []
    for name in names:
        if not (folder / name).is_dir():
            raise InvalidInput(f"data {folder / name}: no such class folder, but {train / name} exists")
        images = images_in(folder / name)
        if not images:
            raise InvalidInput(f"data {folder / name}: the class folder has no images")
        paths += images
    return tuple(paths)
