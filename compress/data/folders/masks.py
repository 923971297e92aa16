"""Folders of masks: an image and, in another folder, an image of the same name with the class of each pixel."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from ...errors import InvalidInput
from ...files.untrusted import read_text
from ..images import images_in
from ..masks import LOSSLESS, ClassTable, MaskFiles, Masks, classes_of
from ..placement import Resize
from ..split import Labels, SplitName
from .layout import Placing, split_folders
from .names import checked_names

EXPECTED = "train/images/*.jpg with train/masks/*.png, or images/train with masks/train, or train with trainannot"
KINDS = ("masks", "mask", "labels", "label", "annotations", "annot", "SegmentationClass")
ENDINGS = ("", "_mask", "_L", "_label", "_labels", "_seg", "_segmentation")
"""Of the names of masks, behind those of their images."""
TABLES = ("class_dict.csv", "classes.txt", "label_colors.txt", "labelmap.txt", "labels.txt")
MOST_CLASSES = 255
_HEADER = re.compile(r"(name|label|class)\w*[\s,;:]", re.IGNORECASE)
_COLOUR = r"(\d{1,3})[\s,;]+(\d{1,3})[\s,;]+(\d{1,3})"
_NAME_FIRST, _COLOUR_FIRST = re.compile(rf"(.+?)[\s,;:]+{_COLOUR}(?::.*)?"), re.compile(rf"{_COLOUR}[\s,;]+(.+)")


@dataclass(frozen=True)
class MaskFolder:
    """Images and their masks.

    Args:
        masks: of the images of each split, in their order.
        table: of classes, where the folder has one.
    """

    path: Path
    images: Mapping[SplitName, tuple[Path, ...]]
    masks: Mapping[SplitName, tuple[Path, ...]]
    table: ClassTable | None
    resize: Resize = "crop"

    def labels(self, split: SplitName, placing: Placing) -> MaskFiles | Masks:
        files = MaskFiles(self.masks[split], self.images[split], placing.size, placing.resize, self.table)
        return files.stored()

    def classes(self, labels: Mapping[SplitName, Labels]) -> tuple[str, ...]:
        if self.table is not None:
            return self.table.classes
        return classes_of(self.path, [each for each in labels.values() if isinstance(each, Masks)])


def find(path: Path) -> MaskFolder | None:
    """The folder ``path`` as one of masks; None where it is none.

    Raises:
        InvalidInput: an image has no mask, or the table of classes cannot be read.
    """
    pairs = {split: (images_in(images), masks) for split, (images, masks) in _folders(path).items()}
    pairs = {split: (images, masks) for split, (images, masks) in pairs.items() if images}
    if "train" not in pairs:
        return None
    masks = {split: _masks(images, folder) for split, (images, folder) in pairs.items()}
    return MaskFolder(path, {split: images for split, (images, _) in pairs.items()}, masks, _table(path))


def _folders(path: Path) -> dict[SplitName, tuple[Path, Path]]:
    """The folders of images and masks of each split; none where there are no masks to train on."""
    for found in _candidates(path):
        if "train" in found and images_in(found["train"][0]) and images_in(found["train"][1]):
            return found
    return {}


def _candidates(path: Path) -> Iterator[dict[SplitName, tuple[Path, Path]]]:
    splits = split_folders(path)
    images = split_folders(path / "images")
    for kind in KINDS:
        yield _existing({split: (folder / "images", folder / kind) for split, folder in splits.items()})
        yield _existing({split: (folder, path / kind / folder.name) for split, folder in images.items()})
        yield _existing({split: (folder, _named_after(folder, kind)) for split, folder in splits.items()})
        yield _existing({"train": (path / "images", path / kind)})


def _named_after(folder: Path, kind: str) -> Path:
    """``trainmasks`` beside ``train``, or ``train_masks``."""
    joined = folder.with_name(f"{folder.name}{kind}")
    return joined if joined.is_dir() else folder.with_name(f"{folder.name}_{kind}")


def _existing(folders: dict[SplitName, tuple[Path, Path]]) -> dict[SplitName, tuple[Path, Path]]:
    return {split: pair for split, pair in folders.items() if pair[1].is_dir()}


def _masks(images: Iterable[Path], folder: Path) -> tuple[Path, ...]:
    """The mask of each image."""
    by_name = {mask.stem: mask for mask in images_in(folder)}
    found = []
    for image in images:
        mask = next((by_name[image.stem + ending] for ending in ENDINGS if image.stem + ending in by_name), None)
        if mask is None:
            raise InvalidInput(f"data {image}: no mask for it; expected {folder / image.stem}.png")
        if mask.suffix.lower() not in LOSSLESS:
            raise InvalidInput(f"data {mask}: {mask.suffix} changes the numbers that a mask holds; save masks as .png")
        found.append(mask)
    return tuple(found)


def _table(path: Path) -> ClassTable | None:
    """The classes that a file of the folder tells, with their colours, if there is one; raises InvalidInput."""
    file = next((path / name for name in TABLES if (path / name).is_file()), None)
    if file is None:
        return None
    entries = [(i, line.strip()) for i, line in enumerate(read_text(file, "data").splitlines(), 1)]
    entries = [(i, line) for i, line in entries if line and not line.startswith("#")]
    if entries and _HEADER.match(entries[0][1]) and not _colour(entries[0][1])[1]:
        entries = entries[1:]
    read = [(i, *_colour(line)) for i, line in entries]
    names = checked_names(file, [name for _, name, _ in read])
    if len(names) > MOST_CLASSES:
        raise InvalidInput(f"data {file}: {len(names)} classes; masks hold {MOST_CLASSES} at most")
    colours = [colour for _, _, colour in read if colour is not None]
    for i, name, colour in read:
        if (colour is None) == bool(colours) or (colour is not None and max(colour) > 255):
            raise InvalidInput(
                f"data {file}: line {i}: expected a name with red, green and blue from 0 to 255, as on other lines, "
                f"got {name[:40]!r}"
            )
    if len(set(colours)) < len(colours):
        twice = next(colour for colour in colours if colours.count(colour) > 1)
        raise InvalidInput(f"data {file}: two classes have the colour {' '.join(map(str, twice))}; give each its own")
    return ClassTable(file, names, tuple(colours))


def _colour(line: str) -> tuple[str, tuple[int, int, int] | None]:
    """The name on a line of a table, and the colour that stands behind or before it, if any."""
    found = _NAME_FIRST.fullmatch(line)
    if found:
        return found[1].strip(), (int(found[2]), int(found[3]), int(found[4]))
    found = _COLOUR_FIRST.fullmatch(line)
    return (found[4].strip(), (int(found[1]), int(found[2]), int(found[3]))) if found else (line, None)
