"""How an image comes to the size that a network takes: which part of it goes where, for its pixels and its labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

if TYPE_CHECKING:
    from PIL import Image

Resize: TypeAlias = Literal["crop", "stretch", "letterbox"]
Size: TypeAlias = tuple[int, int]
"""Height and width in pixels."""

PADDING = 114
"""The grey around an image that is letterboxed, as of the YOLO detectors."""


@dataclass(frozen=True)
class Placement:
    """The part ``source`` of an image, which comes to lie at ``corner`` of the network's input with the size ``inner``.

    Args:
        source: left, top, right and bottom edge, in pixels of the image.
        corner: x and y, in pixels of the input.
        inner: height and width of the part in the input.
        size: height and width of the input.
    """

    source: tuple[float, float, float, float]
    corner: tuple[int, int]
    inner: Size
    size: Size

    @classmethod
    def of(cls, resize: Resize, image: Size, size: Size) -> Placement:
        """The placement of an image of the size ``image``.

        ``crop`` keeps the largest part of the middle that has the input's shape, ``stretch`` the whole image in another
        shape, and ``letterbox`` the whole image in its own shape, with grey around it.

        >>> Placement.of("crop", (480, 640), (240, 240)).source
        (80.0, 0.0, 560.0, 480.0)
        >>> Placement.of("letterbox", (480, 640), (320, 320)).corner
        (0, 40)
        """
        (tall, wide), (height, width) = image, size
        if resize == "letterbox":
            scale = min(height / tall, width / wide)
            inner = max(1, round(tall * scale)), max(1, round(wide * scale))
            corner = (width - inner[1]) // 2, (height - inner[0]) // 2
            return cls((0.0, 0.0, float(wide), float(tall)), corner, inner, size)
        if resize == "stretch":
            return cls((0.0, 0.0, float(wide), float(tall)), (0, 0), size, size)
        shape = width / height
        kept_wide, kept_tall = (shape * tall, tall) if wide / tall >= shape else (wide, wide / shape)
        left, top = (wide - kept_wide) * 0.5, (tall - kept_tall) * 0.5
        return cls((left, top, left + kept_wide, top + kept_tall), (0, 0), size, size)

    def pixels(self, picture: Image.Image) -> NDArray[np.uint8]:
        """The input (H, W, C) of a picture of one or three channels, resized bilinearly."""
        from PIL import Image

        return self._padded(np.asarray(self._resized(picture, Image.Resampling.BILINEAR)), PADDING)

    def nearest(self, picture: Image.Image) -> NDArray[Any]:
        """The part of a mask, (inner height, inner width) or with channels behind, its values as they are."""
        from PIL import Image

        return np.asarray(self._resized(picture, Image.Resampling.NEAREST))

    def mask(self, classes: NDArray[np.uint8], outside: int) -> NDArray[np.uint8]:
        """The mask (H, W) of the part's ``classes``, ``outside`` around it."""
        return self._padded(classes, outside)[..., 0]

    def boxes(self, boxes: Tensor) -> Tensor:
        """Boxes (n, 4) as x1, y1, x2, y2 in pixels of the image, in those of the input, cut off at the part's edges."""
        left, top, right, bottom = self.source
        (x, y), (height, width) = self.corner, self.inner
        moved = boxes.clone()
        moved[:, 0::2] = ((boxes[:, 0::2] - left) * (width / (right - left))).clamp(0, width) + x
        moved[:, 1::2] = ((boxes[:, 1::2] - top) * (height / (bottom - top))).clamp(0, height) + y
        return moved

    def _resized(self, picture: Image.Image, filtering: Any) -> Image.Image:
        height, width = self.inner
        if picture.size == (width, height) and self.source == (0.0, 0.0, width, height):
            return picture
        return picture.resize((width, height), filtering, box=self.source)

    def _padded(self, part: NDArray[np.uint8], outside: int) -> NDArray[np.uint8]:
        part = part.reshape(*self.inner, -1)
        if self.inner == self.size:
            return part
        (x, y), (height, width) = self.corner, self.inner
        whole = np.full((*self.size, part.shape[-1]), outside, np.uint8)
        whole[y : y + height, x : x + width] = part
        return whole
