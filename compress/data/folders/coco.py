"""Boxes as COCO has them: ``annotations/instances_train2017.json`` and images in ``train2017/``, and forms like it.

Lin et al., "Microsoft COCO: Common Objects in Context" (2014). Objects marked ``iscrowd`` are ignored.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from ...errors import InvalidInput
from ...files.untrusted import read_json, require_at_most
from ..boxes import Objects
from ..placement import Size
from ..split import SplitName
from .boxes import Annotated, BoxFolder
from .layout import split_folders, split_of
from .names import MOST_CLASSES, checked_names

EXPECTED = "annotations/instances_train.json with images in train/ (COCO)"
BESIDE = "_annotations.coco.json"
"""What Roboflow calls the annotations that lie beside their images."""
_FILE = re.compile(r"(?:instances_)?([a-z]+)(\d{4})?")


def find(path: Path) -> BoxFolder | None:
    """The folder ``path`` as one of COCO; None where it is none.

    Raises:
        InvalidInput: a file of annotations cannot be read, or names images that are not there.
    """
    files = _files(path)
    if "train" not in files:
        return None
    parts = {split: _Part.read(path, file, folders) for split, (file, folders) in files.items()}
    train = parts["train"]
    for part in parts.values():
        part.require_names_of(train)
    return BoxFolder(
        path,
        {split: part.images for split, part in parts.items()},
        lambda: tuple(train.categories.values()),
        lambda split, _: parts[split].annotated(tuple(train.categories)),
    )


def _files(path: Path) -> dict[SplitName, tuple[Path, tuple[Path, ...]]]:
    """The annotations of each split, and the folders in which its images may lie."""
    beside: dict[SplitName, tuple[Path, tuple[Path, ...]]] = {
        split: (folder / BESIDE, (folder,))
        for split, folder in split_folders(path).items()
        if (folder / BESIDE).is_file()
    }
    if beside:
        return beside
    found: dict[SplitName, tuple[Path, tuple[Path, ...]]] = {}
    for file in sorted((path / "annotations").glob("*.json")):
        name = _FILE.fullmatch(file.stem.lower())
        split = split_of(name[1] + (name[2] or "")) if name else None
        if name is None or split is None:
            continue
        if split in found:
            raise InvalidInput(
                f"data {path}: {found[split][0].name} and {file.name} are both {split}; keep one of them"
            )
        own = [name[1] + (name[2] or ""), name[1]]
        folders = [path / each for each in own] + [path / "images" / each for each in own] + [path / "images", path]
        found[split] = file, tuple(folders)
    return found


@dataclass(frozen=True)
class _Part:
    """A file of annotations.

    Args:
        entries: of the images, as the file has them.
        categories: the names of the classes by their ids, in the order of these.
    """

    file: Path
    images: tuple[Path, ...]
    entries: tuple[Mapping[str, Any], ...]
    objects: tuple[Any, ...]
    categories: Mapping[int, str]

    @classmethod
    def read(cls, path: Path, file: Path, folders: Sequence[Path]) -> _Part:
        """The file, its images found; raises InvalidInput."""
        content = read_json(file, "data")
        if not isinstance(content, dict) or not all(
            isinstance(content.get(key), list) for key in ("images", "annotations", "categories")
        ):
            raise InvalidInput(
                f"data {file}: expected COCO's JSON, a mapping with lists of images, annotations, categories"
            )
        entries = tuple(content["images"])
        names = [_file_name(file, i, entry) for i, entry in enumerate(entries)]
        if not names:
            raise InvalidInput(f"data {file}: expected images, and the list is empty")
        _require_once(file, [entry["id"] for entry in entries])
        folder = next((each for each in folders if (each / names[0]).is_file()), None)
        if folder is None:
            looked = ", ".join(str(each.relative_to(path.parent)) for each in folders)
            raise InvalidInput(f"data {file}: expected the image {names[0][:80]} in one of {looked}")
        objects = tuple(content["annotations"])
        return cls(file, tuple(folder / name for name in names), entries, objects, _categories(file, content))

    def require_names_of(self, train: _Part) -> None:
        """Raise InvalidInput where a category has another name than in the annotations of ``train``."""
        for number, name in self.categories.items():
            other = train.categories.get(number, name)
            if other != name:
                raise InvalidInput(
                    f"data {self.file}: category {number} is {name[:40]!r}, and in {train.file.name} of "
                    f"{train.file.parent} {other[:40]!r}; give each category one id in all files"
                )

    def annotated(self, ids: Sequence[int]) -> list[Annotated]:
        """The objects of each image; their classes are the places of their categories in ``ids``."""
        numbers = {category: number for number, category in enumerate(ids)}
        held: dict[Any, list[_Object]] = {entry["id"]: [] for entry in self.entries}
        for image, found in self._objects(numbers):
            if image not in held:
                raise InvalidInput(
                    f"data {self.file}: {found.where}.image_id: expected the id of one of its images, got {image!r:.40}"
                )
            held[image].append(found)
        return [(self._together(held[entry["id"]]), _size(entry)) for entry in self.entries]

    def _together(self, found: list[_Object]) -> Objects:
        boxes, labels, ignored = [each.box for each in found], [each.label for each in found], [e.crowd for e in found]
        return Objects.of(self.file, boxes, labels, ignored)

    def _objects(self, numbers: Mapping[int, int]) -> Iterator[tuple[Any, _Object]]:
        for i, entry in enumerate(self.objects):
            where = f"annotations[{i}]"
            if not isinstance(entry, dict) or not isinstance(entry.get("image_id"), (int, str)):
                raise InvalidInput(f"data {self.file}: {where}: expected a mapping with an image_id, got {entry!r:.80}")
            category = entry.get("category_id")
            if not isinstance(category, int) or category not in numbers:
                raise InvalidInput(
                    f"data {self.file}: {where}.category_id: expected one of the categories that objects to train on "
                    f"are of, got {category!r:.40}"
                )
            box = _corners(f"data {self.file}: {where}.bbox", entry.get("bbox"))
            yield entry["image_id"], _Object(where, box, numbers[category], entry.get("iscrowd") in (1, True))


@dataclass(frozen=True)
class _Object:
    where: str
    box: tuple[float, float, float, float]
    label: int
    crowd: bool


def _require_once(file: Path, ids: Sequence[int | str]) -> None:
    """Raise InvalidInput where two images have one id, so that nothing tells whose objects are whose."""
    places: dict[int | str, int] = {}
    for i, number in enumerate(ids):
        first = places.setdefault(number, i)
        if first != i:
            raise InvalidInput(
                f"data {file}: images[{i}].id: {number!r:.40} is that of images[{first}], too; give each image its own"
            )


def _file_name(file: Path, i: int, entry: Any) -> str:
    name = entry.get("file_name") if isinstance(entry, dict) else None
    if not isinstance(name, str) or not isinstance(entry.get("id"), (int, str)):
        raise InvalidInput(f"data {file}: images[{i}]: expected a mapping with id and file_name, got {entry!r:.80}")
    place = PurePosixPath(name)
    if place.is_absolute() or ".." in place.parts or not place.parts or "\0" in name:
        raise InvalidInput(
            f"data {file}: images[{i}].file_name: expected a name below the data's folder, got {name!r:.80}"
        )
    return name


def _size(entry: Mapping[str, Any]) -> Size | None:
    height, width = entry.get("height"), entry.get("width")
    return (height, width) if isinstance(height, int) and isinstance(width, int) and height and width else None


def _corners(where: str, box: Any) -> tuple[float, float, float, float]:
    good = isinstance(box, list) and len(box) == 4
    if not good or not all(type(v) in (int, float) and math.isfinite(v) and abs(v) < 2**31 for v in box):
        raise InvalidInput(f"{where}: expected [x, y, width, height], four numbers, got {box!r:.80}")
    x, y, width, height = box
    if width < 0 or height < 0:
        raise InvalidInput(f"{where}: expected a width and a height of 0 or more, got {box!r:.80}")
    return x, y, x + width, y + height


def _categories(file: Path, content: Mapping[str, Any]) -> dict[int, str]:
    """The names by their ids, sorted; without a category that stands for all others and has no objects itself."""
    entries = content["categories"]
    require_at_most(len(entries), MOST_CLASSES, "categories", f"data {file}")
    found: dict[int, str] = {}
    for i, entry in enumerate(entries):
        if not isinstance(entry, dict) or type(entry.get("id")) is not int or not isinstance(entry.get("name"), str):
            raise InvalidInput(f"data {file}: categories[{i}]: expected a mapping with id and name, got {entry!r:.80}")
        if entry["id"] in found:
            raise InvalidInput(f"data {file}: categories[{i}].id: {entry['id']} is there twice")
        found[entry["id"]] = entry["name"]
    above = {name for entry in entries if isinstance(name := entry.get("supercategory"), str)}
    objects = (each for each in content["annotations"] if isinstance(each, dict))
    used = {number for each in objects if isinstance(number := each.get("category_id"), int)}
    first = min(found, default=None)
    if first is not None and len(found) > 1 and first not in used and above - {"none"} == {found[first]}:
        del found[first]
    return dict(zip(sorted(found), checked_names(file, [found[key] for key in sorted(found)]), strict=True))
