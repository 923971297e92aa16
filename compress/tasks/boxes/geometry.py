"""Boxes as tensors (..., 4) of x1, y1, x2, y2: the upper left corner and the lower right one."""

from __future__ import annotations

import torch
from torch import Tensor


def of_centres(boxes: Tensor) -> Tensor:
    """Boxes (..., 4) of centre x, centre y, width, height as corners.

    >>> of_centres(torch.tensor([5.0, 4.0, 2.0, 4.0]))
    tensor([4., 2., 6., 6.])
    """
    centres, halves = boxes[..., :2], boxes[..., 2:] / 2
    return torch.cat([centres - halves, centres + halves], -1)


def areas(boxes: Tensor) -> Tensor:
    """The area of each box, (...); 0 where a corner is on the wrong side of the other."""
    return (boxes[..., 2:] - boxes[..., :2]).clamp_min(0).prod(-1)


def overlap(one: Tensor, other: Tensor) -> Tensor:
    """The intersection over union of boxes of shapes that broadcast, (...); 0 where both are empty."""
    shared, united = _shared(one, other)
    return shared / united.clamp_min(torch.finfo(united.dtype).tiny)


def pairwise_overlap(some: Tensor, others: Tensor) -> Tensor:
    """The intersection over union of each of M boxes with each of N, (M, N)."""
    return overlap(some[:, None], others[None])


def generalized_overlap(one: Tensor, other: Tensor) -> Tensor:
    """The generalized intersection over union, -1 to 1, of boxes of shapes that broadcast, (...).

    Rezatofighi et al., "Generalized Intersection over Union" (2019), algorithm 1: the intersection over union less the
    share of the smallest box around both that belongs to neither.
    """
    shared, united = _shared(one, other)
    least = torch.finfo(united.dtype).tiny
    around = areas(
        torch.cat([torch.minimum(one[..., :2], other[..., :2]), torch.maximum(one[..., 2:], other[..., 2:])], -1)
    )
    return shared / united.clamp_min(least) - (around - united) / around.clamp_min(least)


def _shared(one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """The areas of the intersection and of the union."""
    width, height = (
        (torch.minimum(one[..., last], other[..., last]) - torch.maximum(one[..., first], other[..., first])).clamp_min(
            0
        )
        for first, last in ((0, 2), (1, 3))
    )
    shared = width * height
    return shared, areas(one) + areas(other) - shared
