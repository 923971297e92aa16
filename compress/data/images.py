"""Image files as samples: found, looked at, and decoded when they are asked for."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import CompressError, InvalidInput
from ..files.untrusted import require_at_most, require_file
from .placement import Placement, Resize, Size

if TYPE_CHECKING:
    from PIL import Image

T = TypeVar("T")
IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".pgm", ".tif", ".tiff"})
FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "PPM", "TIFF")
"""What is read, whatever a file's name: others of PIL's run programs."""
IN_MEMORY_BYTES = 2**30
LOOKED_AT = 64
"""Images whose size is read, at most, where all are thought to be alike."""
MOST_PIXELS = 89_478_485
"""Of an image, PIL's own limit: a few kilobytes can hold more."""


@dataclass(frozen=True)
class ImageFiles:
    """Image files as samples: decoded, brought to one size and stacked when asked for."""

    paths: tuple[Path, ...]
    size: Size
    channels: int
    resize: Resize = "crop"

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: Tensor, /) -> Tensor:
        """(N, C, H, W) uint8."""
        images = in_threads(self._decode, [self.paths[i] for i in index.tolist()])
        return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()

    def subset(self, index: Tensor) -> ImageFiles:
        """Some of the files."""
        return replace(self, paths=tuple(self.paths[i] for i in index.tolist()))

    def stored(self) -> Tensor | ImageFiles:
        """All pixels, where they fit well into memory; else the files."""
        size = len(self) * self.channels * self.size[0] * self.size[1]
        return self[torch.arange(len(self))] if size <= IN_MEMORY_BYTES else self

    def _decode(self, path: Path) -> NDArray[np.uint8]:
        with opened(path) as image:
            picture = image.convert("L" if self.channels == 1 else "RGB")
            return Placement.of(self.resize, (picture.height, picture.width), self.size).pixels(picture)


def in_threads(function: Callable[[Path], T], paths: Iterable[Path]) -> list[T]:
    """What ``function`` returns for each path, in their order; decoders let other threads run."""
    with ThreadPoolExecutor() as pool:
        return list(pool.map(function, paths))


@contextmanager
def opened(path: Path) -> Iterator[Image.Image]:
    """The image, and what its parser stumbles over in one line; its size is known before it is decoded."""
    from PIL import Image

    require_file(path, "data")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # held to the limit below
            image_file = Image.open(path, formats=FORMATS)
        with image_file as image:
            require_at_most(image.width * image.height, MOST_PIXELS, "pixels", f"data {path}")
            yield image
    except (CompressError, MemoryError):
        raise
    except Image.DecompressionBombError as error:
        raise InvalidInput(f"data {path}: more than {2 * MOST_PIXELS:,} pixels; make the image smaller") from error
    except Exception as error:  # PIL's parsers fail in as many ways as an image can be damaged
        raise InvalidInput(f"data {path}: not a readable image ({error}); mend or remove the file") from error


def size_of(path: Path) -> Size:
    """Height and width of an image, which is not decoded; raises InvalidInput."""
    with opened(path) as image:
        return image.height, image.width


def channels_of(path: Path) -> int:
    """1 for a grey image, 3 for one of colours; raises InvalidInput."""
    with opened(path) as image:
        return 1 if image.mode in ("1", "L", "I;16") else 3


def some_sizes(paths: Sequence[Path]) -> frozenset[Size]:
    """The sizes of some images that are spread over all, not of each one; raises InvalidInput."""
    return frozenset(size_of(path) for path in paths[:: -(-len(paths) // LOOKED_AT)])


def common_size(folder: Path, paths: Sequence[Path]) -> Size:
    """Height and width of all images of ``folder``; raises InvalidInput where they differ."""
    sizes = some_sizes(paths)
    if len(sizes) > 1:
        some = [f"{height}x{width}" for height, width in sorted(sizes)[:3]] + ["..."] * (len(sizes) > 3)
        raise InvalidInput(
            f"data {folder}: its images have different sizes ({', '.join(some)}), and the network does not tell which "
            "it takes; give --input-shape, as 3,224,224 (in a recipe and in Python size, as 224)"
        )
    return next(iter(sizes))


def images_in(folder: Path) -> tuple[Path, ...]:
    """The image files that lie in ``folder``, by name; none where there is no such folder."""
    if not folder.is_dir():
        return ()
    return tuple(sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES))
