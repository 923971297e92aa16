"""Random changes of the images that a network is trained on, and of the labels that say what is where in them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from ..data.boxes import IGNORED
from ..data.masks import NO_CLASS
from ..errors import InvalidInput

LEAST_LEFT = 0.25
"""Of a box that a crop cuts: the share of its area without which it is no object any more."""

KINDS = ("", IGNORED)
"""What stands before ``boxes`` and ``labels`` in the target of an image."""


def augmentation(x: Tensor, labels: Any, generator: torch.Generator, names: Sequence[str]) -> tuple[Tensor, Any]:
    """A batch of stored pixels (N, C, H, W), changed at random by the augmentations named, and its labels.

    Labels that say where something is are moved along (see :func:`moves`): maps of the classes of pixels, where 255
    comes in from outside, and boxes, of which those are left out of which a crop leaves less than a quarter. All others
    are returned as they are. Shapes and types stay.

    Raises:
        InvalidInput: samples are no images.
    """
    if names and (not isinstance(x, Tensor) or x.ndim != 4):
        got = f"samples have the shape {tuple(x.shape[1:])}" if isinstance(x, Tensor) else "there are several inputs"
        raise InvalidInput(f"augment: it is for images (N, C, H, W), and {got}")
    count = len(x)
    for name in names:
        height, width = x.shape[-2:]
        if name == "flip":
            flipped = torch.rand(count, generator=generator) < 0.5
            x, labels = _flip(x, flipped), _flip_labels(x, labels, flipped)
        elif name == "crop":
            margin = max(1, height // 8)
            top = torch.randint(0, 2 * margin + 1, (count, 1), generator=generator)
            left = torch.randint(0, 2 * margin + 1, (count, 1), generator=generator)
            labels = _crop_labels(x, labels, top, left, margin)
            x = _crop(x, top, left, margin, 0)
        else:
            side = max(1, height // 4)
            top = torch.randint(1 - side, height, (count, 1), generator=generator)
            left = torch.randint(1 - side, width, (count, 1), generator=generator)
            row_hit = (torch.arange(height) >= top) & (torch.arange(height) < top + side)
            column_hit = (torch.arange(width) >= left) & (torch.arange(width) < left + side)
            x = x.masked_fill((row_hit[:, :, None] & column_hit[:, None, :])[:, None], 0)
    return x, labels


def moves(x: Tensor, labels: Any) -> bool:
    """Whether labels move along with images (N, C, H, W): they are a map (N, H, W) of integers, or boxes."""
    return _is_map(x, labels) or _are_boxes(labels)


def _is_map(x: Tensor, labels: Any) -> bool:
    if not isinstance(labels, Tensor) or labels.is_floating_point() or labels.dtype == torch.bool:
        return False
    return x.ndim == 4 and labels.shape == (len(x), *x.shape[2:])


def _are_boxes(labels: Any) -> bool:
    """Whether they are a list with a dict for each image, which has ``boxes`` (n, 4) as x1, y1, x2, y2 in pixels."""
    return isinstance(labels, (list, tuple)) and all(isinstance(each, dict) and "boxes" in each for each in labels)


def _flip(x: Tensor, flipped: Tensor) -> Tensor:
    return torch.where(flipped.view(-1, *[1] * (x.ndim - 1)), x.flip(-1), x)


def _flip_labels(x: Tensor, labels: Any, flipped: Tensor) -> Any:
    if _is_map(x, labels):
        return _flip(labels, flipped)
    if not _are_boxes(labels):
        return labels
    return [
        _mirrored(target, x.shape[-1]) if turn else target
        for target, turn in zip(labels, flipped.tolist(), strict=True)
    ]


def _mirrored(target: dict[str, Tensor], width: int) -> dict[str, Tensor]:
    made = dict(target)
    for name in (f"{kind}boxes" for kind in KINDS if f"{kind}boxes" in target):
        x1, y1, x2, y2 = target[name].unbind(-1)
        made[name] = torch.stack([width - x2, y1, width - x1, y2], -1)
    return made


def _crop(x: Tensor, top: Tensor, left: Tensor, margin: int, outside: int) -> Tensor:
    """Windows of images (N, C, H, W) at ``top`` and ``left`` (N, 1), after a margin of ``outside`` around them."""
    height, width = x.shape[-2:]
    rows, columns = top + torch.arange(height), left + torch.arange(width)
    padded = pad(x, (margin,) * 4, value=outside).permute(0, 2, 3, 1)
    return padded[torch.arange(len(x))[:, None, None], rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def _crop_labels(x: Tensor, labels: Any, top: Tensor, left: Tensor, margin: int) -> Any:
    if _is_map(x, labels):
        return _crop(labels[:, None], top, left, margin, NO_CLASS)[:, 0]
    if not _are_boxes(labels):
        return labels
    shifts = torch.cat([margin - left, margin - top], 1)
    return [_shifted(target, shift, x.shape[-2:]) for target, shift in zip(labels, shifts, strict=True)]


def _shifted(target: dict[str, Tensor], shift: Tensor, size: Sequence[int]) -> dict[str, Tensor]:
    """The target of an image whose pixels move by ``shift`` (x and y): its boxes within the image, and their labels."""
    height, width = size
    limits = torch.tensor([width, height, width, height])
    made = dict(target)
    for kind in KINDS:
        if f"{kind}boxes" in target:
            boxes = target[f"{kind}boxes"]
            moved = torch.minimum((boxes + shift.repeat(2)).clamp_min(0), limits)
            kept = _areas(moved) >= LEAST_LEFT * _areas(boxes)
            made |= {f"{kind}boxes": moved[kept], f"{kind}labels": target[f"{kind}labels"][kept]}
    return made


def _areas(boxes: Tensor) -> Tensor:
    return (boxes[:, 2:] - boxes[:, :2]).prod(-1)
