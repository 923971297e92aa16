"""Image folders: ``train/<class>/*`` and ``test/<class>/*``."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import CompressError, InvalidInput
from ..files.untrusted import require_at_most, require_file
from .partition import DataConfig, deal
from .split import Data, Samples

if TYPE_CHECKING:
    from PIL import Image

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".pgm", ".tif", ".tiff"})
FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "PPM", "TIFF")
"""What is read, whatever a file's name: others of PIL's run programs."""
IN_MEMORY_BYTES = 2**30
LOOKED_AT = 64
"""Images whose size is read, at most."""
MOST_PIXELS = 89_478_485
"""Of an image, PIL's own limit: a few kilobytes can hold more."""


@dataclass(frozen=True)
class ImageFiles:
    """Image files as samples: decoded, resized (shorter side, then centre crop) and stacked when asked for."""

    paths: tuple[Path, ...]
    size: tuple[int, int]
    channels: int

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: Tensor, /) -> Tensor:
        """(N, C, H, W) uint8."""
        with ThreadPoolExecutor() as pool:
            images = list(pool.map(self._decode, (self.paths[i] for i in index.tolist())))
        return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()

    def _decode(self, path: Path) -> NDArray[np.uint8]:
        from PIL import Image, ImageOps

        height, width = self.size
        with _opened(path) as image:
            picture = image.convert("L" if self.channels == 1 else "RGB")
            if picture.size != (width, height):
                picture = ImageOps.fit(picture, (width, height), Image.Resampling.BILINEAR)
            pixels = np.asarray(picture)
        return pixels.reshape(height, width, -1)


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """The image, and what its parser stumbles over in one line; its size is known before it is decoded."""
    from PIL import Image

    require_file(path, "data")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # held to the limit below
            opened = Image.open(path, formats=FORMATS)
        with opened as image:
            require_at_most(image.width * image.height, MOST_PIXELS, "pixels", f"data {path}")
            yield image
    except (CompressError, MemoryError):
        raise
    except Image.DecompressionBombError as error:
        raise InvalidInput(f"data {path}: more than {2 * MOST_PIXELS:,} pixels; make the image smaller") from error
    except Exception as error:  # PIL's parsers fail in as many ways as an image can be damaged
        raise InvalidInput(f"data {path}: not a readable image ({error}); mend or remove the file") from error


def _classes(path: Path) -> tuple[str, ...]:
    """The names of the classes of the folder ``path``; raises InvalidInput."""
    train_folder = path / "train"
    if not train_folder.is_dir():
        raise InvalidInput(f"data {path}: expected {path / 'train'}/<class>/*.jpg (or .png ...), found no train folder")
    classes = tuple(sorted(entry.name for entry in train_folder.iterdir() if entry.is_dir()))
    if not classes:
        raise InvalidInput(f"data {train_folder}: expected one folder per class, found none")
    return classes


def _listing(path: Path, part: str, classes: tuple[str, ...]) -> tuple[tuple[Path, ...], Tensor]:
    """The images of "train" or "test" in the folder ``path``, and the class of each; raises InvalidInput."""
    paths: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        folder = path / part / name
        if not folder.is_dir():
            raise InvalidInput(f"data {folder}: no such class folder, but {path / 'train' / name} exists")
        images = sorted(p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)
        if not images:
            raise InvalidInput(f"data {folder}: the class folder has no images")
        paths += images
        labels += [label] * len(images)
    return tuple(paths), torch.tensor(labels)


def sizes_of_images(path: Path) -> frozenset[tuple[int, int]]:
    """Height and width of images in the folder ``path``: of some that are spread over all, not of each one.

    Raises:
        InvalidInput: it is no folder of images.
    """
    return _sizes(_listing(path, "train", _classes(path))[0])


def _sizes(paths: tuple[Path, ...]) -> frozenset[tuple[int, int]]:
    sizes = set()
    for path in paths[:: -(-len(paths) // LOOKED_AT)]:
        with _opened(path) as image:
            sizes.add((image.height, image.width))
    return frozenset(sizes)


def _common_size(path: Path, paths: tuple[Path, ...]) -> tuple[int, int]:
    """Height and width of all images; raises InvalidInput where they differ."""
    sizes = _sizes(paths)
    if len(sizes) > 1:
        some = [f"{height}x{width}" for height, width in sorted(sizes)[:3]] + ["..."] * (len(sizes) > 3)
        raise InvalidInput(
            f"data {path}: its images have different sizes ({', '.join(some)}), and the network does not tell which it "
            "takes; give --input-shape, as 3,224,224 (in a recipe and in Python size, as 224)"
        )
    return next(iter(sizes))


def image_folder(path: Path, config: DataConfig, seed: int) -> Data:
    classes = _classes(path)
    paths, labels = _listing(path, "train", classes)
    size = config.height_width or _common_size(path, paths)
    with _opened(paths[0]) as first:
        channels = config.channels or (1 if first.mode in ("1", "L", "I;16") else 3)

    def samples(files: tuple[Path, ...]) -> Samples:
        images = ImageFiles(files, size, channels)
        small = len(files) * channels * size[0] * size[1] <= IN_MEMORY_BYTES
        return images[torch.arange(len(files))] if small else images

    test = None
    if (path / "test").is_dir():
        test_paths, test_labels = _listing(path, "test", classes)
        test = (samples(test_paths), test_labels)
    return deal(
        config,
        seed,
        (samples(paths), labels),
        test,
        classes,
        1 / 255,
        tuple(str(p.relative_to(path)) for p in paths),
    )
