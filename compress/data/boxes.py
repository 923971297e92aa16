"""Boxes around objects as labels: of each image those that there are, in pixels of the network's input."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from .placement import Placement, Size

IGNORED = "ignored_"
"""Before the names of what is neither to be found nor wrong."""
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Objects:
    """What is annotated in one image.

    Args:
        file: that tells it, for people.
        boxes: float64 (n, 4) as x1, y1, x2, y2, in pixels of the image.
        labels: int64 (n,), the class of each.
        ignored: bool (n,): crowds, and what is too difficult: it is neither to be found nor wrong.
    """

    file: Path
    boxes: Tensor
    labels: Tensor
    ignored: Tensor

    @classmethod
    def of(
        cls, file: Path, boxes: Sequence[Sequence[float]], labels: Sequence[int], ignored: Sequence[bool] = ()
    ) -> Objects:
        """Objects of plain numbers; none of them is ignored where that is not said."""
        return cls(
            file,
            torch.tensor(boxes, dtype=torch.float64).reshape(-1, 4),
            torch.tensor(labels, dtype=torch.int64),
            torch.tensor(ignored or [False] * len(labels), dtype=torch.bool),
        )

    def inside(self, size: Size) -> Objects:
        """The boxes cut off at the edges of an image, without those that have no area in it."""
        height, width = size
        boxes = self.boxes.clone()
        boxes[:, 0::2] = boxes[:, 0::2].clamp(0, width)
        boxes[:, 1::2] = boxes[:, 1::2].clamp(0, height)
        kept = _has_area(boxes)
        return Objects(self.file, boxes[kept], self.labels[kept], self.ignored[kept])


@dataclass(frozen=True)
class Boxes:
    """Labels of a split: for each image a dict of ``boxes`` float32 (n, 4) as x1, y1, x2, y2 and ``labels`` int64 (n,).

    Where a data set has crowds or difficult objects, ``ignored_boxes`` (k, 4) and ``ignored_labels`` (k,) are theirs.
    """

    targets: tuple[dict[str, Tensor], ...]

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: Tensor, /) -> list[dict[str, Tensor]]:
        return [self.targets[i] for i in index.tolist()]

    def subset(self, index: Tensor) -> Boxes:
        """The labels of some images."""
        return Boxes(tuple(self[index]))

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All that is held."""
        return tuple(tensor for target in self.targets for tensor in target.values())

    @classmethod
    def placed(
        cls, where: Path, objects: Sequence[Objects], sizes: Sequence[Size], placements: Sequence[Placement]
    ) -> Boxes:
        """The objects of images of these sizes, where the images come to lie.

        Boxes without an area are left out, which is warned of; ``where`` is the data set, for people.
        """
        inside = [each.inside(size) for each, size in zip(objects, sizes, strict=True)]
        lost = [each for each, kept in zip(objects, inside, strict=True) if len(kept.labels) < len(each.labels)]
        if lost:
            count = sum(len(each.labels) for each in objects) - sum(len(each.labels) for each in inside)
            _LOG.warning(
                "data %s: %d boxes without an area in their image are left out, the first in %s",
                where, count, lost[0].file,
            )  # fmt: skip
        told = any(bool(each.ignored.any()) for each in inside)
        return cls(tuple(_target(each, place, told) for each, place in zip(inside, placements, strict=True)))


def _target(objects: Objects, placement: Placement, ignored: bool) -> dict[str, Tensor]:
    boxes = placement.boxes(objects.boxes)
    there = _has_area(boxes)
    target = _part(boxes, objects.labels, there & ~objects.ignored)
    if ignored:
        target |= {
            f"{IGNORED}{key}": value for key, value in _part(boxes, objects.labels, there & objects.ignored).items()
        }
    return target


def _part(boxes: Tensor, labels: Tensor, chosen: Tensor) -> dict[str, Tensor]:
    return {"boxes": boxes[chosen].float(), "labels": labels[chosen]}


def _has_area(boxes: Tensor) -> Tensor:
    return (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
