"""What a folder of images and labels is, whatever files it is made of."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ...errors import InvalidInput
from ..placement import Placement, Resize, Size
from ..split import Labels, SplitName

_SPLITS: dict[str, SplitName] = {
    "train": "train", "training": "train",
    "val": "validation", "valid": "validation", "validation": "validation",
    "test": "test", "testing": "test",
}  # fmt: skip
_NAME = re.compile(rf"({'|'.join(_SPLITS)})(\d{{4}})?")


@dataclass(frozen=True)
class Placing:
    """How images come to the size that the network takes."""

    resize: Resize
    size: Size

    def of(self, image: Size) -> Placement:
        """The placement of an image of this size."""
        return Placement.of(self.resize, image, self.size)


class Layout(Protocol):
    """A folder that is recognized: its images by split, and their labels.

    Args:
        images: of each split, of which there is at least one for ``train``.
        resize: how images and labels are brought to a size, where the user does not say.
    """

    @property
    def images(self) -> Mapping[SplitName, tuple[Path, ...]]: ...

    @property
    def resize(self) -> Resize: ...

    def labels(self, split: SplitName, placing: Placing) -> Labels:
        """The labels of the images of a split, in their order; raises InvalidInput."""
        ...

    def classes(self, labels: Mapping[SplitName, Labels]) -> tuple[str, ...]:
        """The names of the classes, once the labels are read."""
        ...


def split_of(name: str) -> SplitName | None:
    """The split that a folder or file is called after, as ``train``, ``val2017`` or ``validation``.

    >>> split_of("val2017"), split_of("training"), split_of("cats")
    ('validation', 'train', None)
    """
    found = _NAME.fullmatch(name.lower())
    return _SPLITS[found[1]] if found else None


def split_folders(folder: Path) -> dict[SplitName, Path]:
    """The folders in ``folder`` that are called after splits; none where it does not exist.

    Raises:
        InvalidInput: two are called after one split.
    """
    found: dict[SplitName, Path] = {}
    for entry in sorted(folder.iterdir()) if folder.is_dir() else ():
        split = split_of(entry.name)
        if split is None or not entry.is_dir():
            continue
        if split in found:
            raise InvalidInput(
                f"data {folder}: {found[split].name} and {entry.name} are both {split}; keep one of them"
            )
        found[split] = entry
    return found
