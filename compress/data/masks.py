"""Masks as labels: the class of each pixel, out of images of class numbers or of colours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import InvalidInput
from .images import IN_MEMORY_BYTES, in_threads, opened, size_of
from .placement import Placement, Resize, Size

if TYPE_CHECKING:
    from PIL import Image

NO_CLASS = 255
"""The label of pixels that are of no class, as in Pascal VOC and Cityscapes."""
NO_CLASSES = frozenset({"void", "unlabeled", "unlabelled", "ignore", "ignored"})
"""Names of pixels that are of no class."""
LOSSLESS = frozenset({".png", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm"})


@dataclass(frozen=True)
class ClassTable:
    """The classes of masks: the number of each is its place.

    Args:
        file: that tells them, for people.
        colours: red, green and blue of each, 0..255; none where masks hold numbers.
    """

    file: Path
    names: tuple[str, ...]
    colours: tuple[tuple[int, int, int], ...] = ()

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """The names, without those at the end that stand for no class."""
        named = [i for i, name in enumerate(self.names) if name.lower() not in NO_CLASSES]
        return self.names[: max(named, default=-1) + 1]

    @cached_property
    def numbers(self) -> NDArray[np.uint8]:
        """(classes,), what is stored for each: its number, or 255 where its name says that it is no class."""
        return np.array([NO_CLASS if n.lower() in NO_CLASSES else i for i, n in enumerate(self.names)], np.uint8)

    @property
    def of_greys(self) -> bool:
        """Whether all colours are greys, so that a grey mask holds colours, no numbers."""
        return bool(self.colours) and all(red == green == blue for red, green, blue in self.colours)

    def of_numbers(self, mask: Path, numbers: NDArray[Any]) -> NDArray[np.uint8]:
        """The labels of a mask of class numbers; raises InvalidInput."""
        known = (numbers < len(self.names)) | (numbers == NO_CLASS)
        if not known.all():
            raise InvalidInput(
                f"data {mask}: class {numbers[~known].max()}, and {self.file.name} names {len(self.names)}, from 0 on; "
                f"expected these, and {NO_CLASS} for pixels of no class"
            )
        lookup: NDArray[np.uint8] = np.full(256, NO_CLASS, np.uint8)
        lookup[: len(self.names)] = self.numbers
        labels: NDArray[np.uint8] = lookup[numbers]
        return labels

    def of_colours(self, mask: Path, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The labels of a mask (H, W, 3) of colours; raises InvalidInput."""
        order = np.argsort(self._keys)
        keys = _packed(pixels)
        places = np.searchsorted(self._keys[order], keys).clip(max=len(order) - 1)
        known = self._keys[order][places] == keys
        if not known.all():
            red, green, blue = pixels[~known][0]
            raise InvalidInput(
                f"data {mask}: {int((~known).sum())} pixels have colours as {red} {green} {blue}, which "
                f"{self.file.name} does not list; add them, as void where they are of no class"
            )
        labels: NDArray[np.uint8] = self.numbers[order][places]
        return labels

    @cached_property
    def _keys(self) -> NDArray[np.int32]:
        return _packed(np.array(self.colours, np.uint8))


def _packed(colours: NDArray[np.uint8]) -> NDArray[np.int32]:
    parts = colours.astype(np.int32)
    packed: NDArray[np.int32] = (parts[..., 0] << 16) | (parts[..., 1] << 8) | parts[..., 2]
    return packed


@dataclass(frozen=True)
class MaskFiles:
    """Mask files as labels, decoded as their images are placed when they are asked for."""

    paths: tuple[Path, ...]
    images: tuple[Path, ...]
    size: Size
    resize: Resize
    table: ClassTable | None

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: Tensor, /) -> Tensor:
        """(N, H, W) int64."""
        return self.decoded(index).long()

    def subset(self, index: Tensor) -> MaskFiles:
        """Some of the files."""
        chosen = index.tolist()
        paths, images = (tuple(files[i] for i in chosen) for files in (self.paths, self.images))
        return replace(self, paths=paths, images=images)

    def stored(self) -> MaskFiles | Masks:
        """All masks, where they fit well into memory; else the files.

        Raises:
            InvalidInput: they do not fit, and no table tells their classes.
        """
        if len(self) * self.size[0] * self.size[1] <= IN_MEMORY_BYTES:
            return Masks(self.decoded(torch.arange(len(self))))
        if self.table is None:
            raise InvalidInput(
                f"data {self.paths[0].parent}: the masks are too large to look at each before the work; name their "
                "classes in classes.txt, one a line, in the data's folder"
            )
        return self

    def decoded(self, index: Tensor) -> Tensor:
        """(N, H, W) uint8."""
        images = {self.paths[i]: self.images[i] for i in index.tolist()}
        masks = in_threads(lambda path: self._decode(path, images[path]), [self.paths[i] for i in index.tolist()])
        return torch.from_numpy(np.stack(masks))

    def _decode(self, path: Path, image: Path) -> NDArray[np.uint8]:
        size = size_of(image)
        with opened(path) as mask:
            if (mask.height, mask.width) != size:
                raise InvalidInput(
                    f"data {path}: {mask.width}x{mask.height} pixels, and its image {image.name} has {size[1]}x"
                    f"{size[0]}; expected a mask of the image's size"
                )
            placement = Placement.of(self.resize, size, self.size)
            return placement.mask(self._labels(path, mask, placement), NO_CLASS)

    def _labels(self, path: Path, mask: Image.Image, placement: Placement) -> NDArray[np.uint8]:
        table = self.table
        indexed = mask.mode in ("P", "1", "I", "I;16", "I;16B")
        if not indexed and (mask.mode not in ("L", "LA") or (table is not None and table.of_greys)):
            colours = placement.nearest(mask.convert("RGB"))
            if table is not None and table.colours:
                return table.of_colours(path, colours)
            if (colours != colours[..., :1]).any():
                raise InvalidInput(
                    f"data {path}: it has colours, and nothing tells which class each is; add classes.txt, as "
                    "'road 128 64 128' on a line, in the data's folder"
                )
            numbers: NDArray[Any] = colours[..., 0]
        else:
            numbers = placement.nearest(mask.convert("L") if mask.mode == "LA" else mask)
        if numbers.min() < 0 or numbers.max() > NO_CLASS:
            raise InvalidInput(f"data {path}: class {numbers.max()}; expected 0 to 254, and {NO_CLASS} for no class")
        numbers = numbers.astype(np.uint8)
        return numbers if table is None else table.of_numbers(path, numbers)


@dataclass(frozen=True)
class Masks:
    """Masks (N, H, W) that are held as bytes, and handed out as int64."""

    values: Tensor

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, index: Tensor, /) -> Tensor:
        return self.values[index].long()

    def subset(self, index: Tensor) -> Masks:
        """Some of the masks."""
        return Masks(self.values[index])

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All that is held."""
        return (self.values,)

    def classes(self) -> int:
        """The highest class, and one for class 0; 0 where no pixel is of any."""
        known = self.values[self.values != NO_CLASS]
        return int(known.max()) + 1 if known.numel() else 0


def classes_of(path: Path, masks: Sequence[Masks]) -> tuple[str, ...]:
    """The names of the classes of masks without a table: their numbers.

    Raises:
        InvalidInput: there is one class at most.
    """
    count = max(each.classes() for each in masks)
    if count < 2:
        raise InvalidInput(
            f"data {path}: the masks hold {'class 0' if count else 'no class'} and {NO_CLASS}, which is none, alone; "
            "where it is one, say so in classes.txt: 'background 0 0 0' and 'object 255 255 255' on a line each"
        )
    return tuple(str(number) for number in range(count))
