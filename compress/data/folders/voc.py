"""Boxes as Pascal VOC has them: ``JPEGImages``, ``Annotations/*.xml`` and ``ImageSets/Main/{train,val,test}.txt``.

Everingham et al., "The Pascal Visual Object Classes Challenge" (2010). Pixels are counted from 1 there, and a box
includes those of its edges. Objects marked ``difficult`` are ignored.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import InvalidInput
from ...files.untrusted import read_text, read_xml
from ..boxes import Objects
from ..images import images_in, in_threads
from ..placement import Size
from ..split import SplitName
from .boxes import Annotated, BoxFolder
from .layout import split_folders, split_of

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

EXPECTED = "JPEGImages/*.jpg with Annotations/*.xml (Pascal VOC)"
_MARK = re.compile(r"\s+-?[01]$")
"""Behind a name in the set of a class: whether one is in the image (1, or 0 where it is difficult)."""
IMAGES, ANNOTATIONS = ("JPEGImages", "images"), ("Annotations", "annotations")


def find(path: Path) -> BoxFolder | None:
    """The folder ``path`` as one of Pascal VOC; None where it is none.

    Where there are no image sets, all images are those to train on; annotations may also lie beside the images of
    folders that are called after splits. An image set ``trainval`` counts where there is no ``train``.

    Raises:
        InvalidInput: an image set names an image that is not there, or is empty.
    """
    pairs = _beside(path) or _apart(path)
    if not pairs:
        return None
    annotations = _Annotations(path, {split: tuple(xml for _, xml in each) for split, each in pairs.items()})
    images = {split: tuple(image for image, _ in each) for split, each in pairs.items()}
    return BoxFolder(path, images, lambda: annotations.names, annotations.of_split)


_Pairs = dict[SplitName, list[tuple[Path, Path]]]
"""Images and their annotations, by split."""


def _beside(path: Path) -> _Pairs:
    """Those of ``train/*.jpg`` with ``train/*.xml``."""
    folders = split_folders(path)
    if "train" not in folders or not any(folders["train"].glob("*.xml")):
        return {}
    pairs: _Pairs = {
        split: [(image, image.with_name(f"{image.stem}.xml")) for image in images_in(folder)]
        for split, folder in folders.items()
    }
    return {split: each for split, each in pairs.items() if each}


def _apart(path: Path) -> _Pairs:
    """Those of a folder of images, one of annotations, and lists of names."""
    folder = next((path / name for name in ANNOTATIONS if any((path / name).glob("*.xml"))), None)
    images = next((found for name in IMAGES if (found := images_in(path / name))), ())
    if folder is None or not images:
        return {}
    by_name = {image.stem: image for image in images}
    sets = _image_sets(path / "ImageSets" / "Main")
    chosen: dict[SplitName, list[str]] = {split: _listed(file, by_name) for split, file in sets.items()}
    chosen = chosen or {"train": list(by_name)}
    if "train" not in chosen:
        raise InvalidInput(f"data {path}: ImageSets/Main has {', '.join(chosen)}; expected train.txt or trainval.txt")
    return {split: [(by_name[name], folder / f"{name}.xml") for name in names] for split, names in chosen.items()}


def _image_sets(folder: Path) -> dict[SplitName, Path]:
    files = sorted(folder.glob("*.txt"))
    sets = {split: file for file in files if (split := split_of(file.stem)) is not None}
    both = folder / "trainval.txt"
    if "train" not in sets and both.is_file():
        sets = {"train": both, **{split: file for split, file in sets.items() if split != "validation"}}
    return sets


def _listed(file: Path, images: Mapping[str, Path]) -> list[str]:
    lines = [line.strip() for line in read_text(file, "data").splitlines() if line.strip()]
    names = [line if line in images else _MARK.sub("", line) for line in lines]
    missing = next((name for name in names if name not in images), None)
    if missing is not None or not names:
        what = f"names {missing[:80]}, and there is no such image" if missing is not None else "names no images"
        raise InvalidInput(f"data {file}: it {what}; expected the names of images, without suffixes, one a line")
    return names


@dataclass(frozen=True)
class _Object:
    name: str
    box: tuple[float, float, float, float]
    difficult: bool


@dataclass(frozen=True)
class _Annotations:
    """The files of each split; read once, all of them, as they alone tell the names of the classes."""

    path: Path
    files: Mapping[SplitName, tuple[Path, ...]]

    @cached_property
    def read(self) -> Mapping[SplitName, Sequence[tuple[list[_Object], Size | None]]]:
        return {split: in_threads(_read, files) for split, files in self.files.items()}

    @cached_property
    def names(self) -> tuple[str, ...]:
        names = {each.name for split in self.read.values() for objects, _ in split for each in objects}
        if not names:
            raise InvalidInput(
                f"data {self.path}: none of its annotations has an <object>, and they alone tell the classes; give "
                "images with objects in them"
            )
        return tuple(sorted(names))

    def of_split(self, split: SplitName, sizes: Sequence[Size]) -> list[Annotated]:
        numbers = {name: number for number, name in enumerate(self.names)}
        return [
            (
                Objects.of(
                    file,
                    [each.box for each in objects],
                    [numbers[each.name] for each in objects],
                    [each.difficult for each in objects],
                ),
                size,
            )
            for file, (objects, size) in zip(self.files[split], self.read[split], strict=True)
        ]


def _read(file: Path) -> tuple[list[_Object], Size | None]:
    root = read_xml(file, "data")
    if root.tag != "annotation":
        raise InvalidInput(f"data {file}: expected <annotation>, as of Pascal VOC, got <{root.tag[:40]}>")
    size = root.find("size")
    told = None if size is None else (_number(file, "size", size, "height"), _number(file, "size", size, "width"))
    known = told is not None and all(told)  # tools that do not know the size write 0
    objects = [_object(file, f"object {i}", each) for i, each in enumerate(root.findall("object"), 1)]
    return objects, (int(told[0]), int(told[1])) if told is not None and known else None


def _object(file: Path, where: str, element: Element) -> _Object:
    name = (element.findtext("name") or "").strip()
    if not name or len(name) > 200:
        raise InvalidInput(f"data {file}: {where}: expected a <name> of a class, got {name[:40]!r}")
    box = element.find("bndbox")
    if box is None:
        raise InvalidInput(f"data {file}: {where}: expected a <bndbox> of xmin, ymin, xmax, ymax, and it has none")
    left, top, right, bottom = (_number(file, where, box, edge) for edge in ("xmin", "ymin", "xmax", "ymax"))
    if right < left or bottom < top:
        raise InvalidInput(
            f"data {file}: {where}: expected xmin <= xmax and ymin <= ymax, got {left:g} {top:g} {right:g} {bottom:g}"
        )
    difficult = (element.findtext("difficult") or "").strip() == "1"
    return _Object(name, (left - 1, top - 1, right, bottom), difficult)


def _number(file: Path, where: str, parent: Element, name: str) -> float:
    text = parent.findtext(name)
    try:
        value = float(text or "")
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or abs(value) > 2**31:
        raise InvalidInput(f"data {file}: {where}: expected a number as <{name}>, got {(text or 'nothing')[:40]!r}")
    return value
