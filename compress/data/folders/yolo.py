"""Boxes as YOLO's tools have them: ``images/train/*.jpg`` with ``labels/train/*.txt``, and names in ``data.yaml``.

A line of a file of labels is ``class x y width height``, the centre and the size of a box as shares of the image's, or
``class x1 y1 x2 y2 x3 y3 ...``, an outline, of which the box around it is taken. An image without a file has none.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import InvalidInput
from ...files.strict_yaml import parse
from ...files.untrusted import read_text
from ..boxes import Objects
from ..images import images_in
from ..placement import Size
from ..split import SplitName
from .boxes import Annotated, BoxFolder
from .layout import split_folders
from .names import checked_names, list_of_names, read_names

EXPECTED = "images/train/*.jpg with labels/train/*.txt (YOLO)"
DESCRIPTIONS = ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml")
SLACK = 1e-3
"""By how much a share may be above 1 or below 0, as tools round."""


def find(path: Path) -> BoxFolder | None:
    """The folder ``path`` as one of YOLO; None where it is none.

    Raises:
        InvalidInput: nothing names the classes.
    """
    pairs = _folders(path)
    if "train" not in pairs:
        return None
    images = {split: images_in(pictures) for split, (pictures, _) in pairs.items()}
    labels = {split: folder for split, (_, folder) in pairs.items()}
    names = _names(path, labels)
    reader = _Files({split: each for split, each in images.items() if each}, labels, len(names))
    return BoxFolder(path, reader.images, lambda: names, reader.annotated)


def _folders(path: Path) -> dict[SplitName, tuple[Path, Path]]:
    """The folders of images and labels of each split, if there are any."""
    by_kind = split_folders(path / "images"), split_folders(path / "labels")
    pairs = {split: (folder, by_kind[1][split]) for split, folder in by_kind[0].items() if split in by_kind[1]}
    by_split = {split: (folder / "images", folder / "labels") for split, folder in split_folders(path).items()}
    pairs = pairs or by_split or {"train": (path / "images", path / "labels")}
    found = {split: each for split, each in pairs.items() if images_in(each[0]) and each[1].is_dir()}
    return found if "train" in found and any(found["train"][1].glob("*.txt")) else {}


def _names(path: Path, labels: Mapping[SplitName, Path]) -> tuple[str, ...]:
    for name in DESCRIPTIONS:
        if (path / name).is_file():
            return _described(path / name)
    for folder in (path, path / "labels", *labels.values()):
        file = list_of_names(folder)
        if file is not None:
            return read_names(file)
    raise InvalidInput(
        f"data {path}: labels of YOLO need the names of the classes; add classes.txt, a name on each line"
    )


def _described(file: Path) -> tuple[str, ...]:
    """The ``names`` of a description: a list, or a mapping from each number."""
    content = parse(read_text(file, "data"), f"data {file}", numbered=True)
    names: Any = content.get("names") if isinstance(content, dict) else None
    if isinstance(names, dict):
        names = [names.get(number, names.get(str(number))) for number in range(len(names))]
    if not isinstance(names, list) or not all(isinstance(name, (str, int, float)) for name in names):
        raise InvalidInput(f"data {file}: expected names, a list of the classes or a mapping of 0, 1, ... to them")
    return checked_names(file, [str(name) for name in names])


@dataclass(frozen=True)
class _Files:
    """The files of labels of images; there are ``classes``."""

    images: Mapping[SplitName, tuple[Path, ...]]
    labels: Mapping[SplitName, Path]
    classes: int

    def annotated(self, split: SplitName, sizes: Sequence[Size]) -> list[Annotated]:
        """The objects of the images of a split, of these sizes."""
        files = [self.labels[split] / f"{image.stem}.txt" for image in self.images[split]]
        return [(self._objects(file, size), None) for file, size in zip(files, sizes, strict=True)]

    def _objects(self, file: Path, size: Size) -> Objects:
        text = read_text(file, "data") if file.exists() else ""
        lines = [(i, line.split()) for i, line in enumerate(text.splitlines(), 1) if line.strip()]
        read = [self._object(f"data {file}: line {i}", words, size) for i, words in lines]
        return Objects.of(file, [box for _, box in read], [label for label, _ in read])

    def _object(self, where: str, words: list[str], size: Size) -> tuple[int, tuple[float, float, float, float]]:
        try:
            label, shares = int(words[0]), [float(word) for word in words[1:]]
        except ValueError:
            label, shares = -1, []
        outline = len(shares) >= 6 and len(shares) % 2 == 0
        if len(shares) != 4 and not outline:
            raise InvalidInput(
                f"{where}: expected a class and x, y, width, height (or the points of an outline), got "
                f"{' '.join(words)[:60]!r}"
            )
        if not 0 <= label < self.classes:
            raise InvalidInput(f"{where}: expected a class from 0 to {self.classes - 1}, got {label}")
        if not all(math.isfinite(share) and -SLACK <= share <= 1 + SLACK for share in shares):
            raise InvalidInput(
                f"{where}: expected shares of the image's width and height, from 0 to 1, got {' '.join(words[1:])[:60]}"
            )
        height, width = size
        if outline:
            across, down = shares[0::2], shares[1::2]
            return label, (min(across) * width, min(down) * height, max(across) * width, max(down) * height)
        x, y, wide, tall = shares
        return label, (
            (x - wide / 2) * width, (y - tall / 2) * height, (x + wide / 2) * width, (y + tall / 2) * height
        )  # fmt: skip
