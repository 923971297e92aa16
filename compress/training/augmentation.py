"""Random changes of the images that a network is trained on."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

from ..errors import InvalidInput


def augmentation(x: Tensor, generator: torch.Generator, names: Sequence[str]) -> Tensor:
    """A batch of stored pixels (N, C, H, W), changed at random by the augmentations named; same shape and dtype."""
    if x.ndim != 4 and names:
        raise InvalidInput(f"augment: it is for images (N, C, H, W), and samples have the shape {tuple(x.shape[1:])}")
    count, (height, width) = len(x), x.shape[-2:]
    for name in names:
        if name == "flip":
            flipped = torch.rand(count, generator=generator) < 0.5
            x = torch.where(flipped.view(-1, 1, 1, 1), x.flip(3), x)
        elif name == "crop":
            margin = max(1, height // 8)
            top = torch.randint(0, 2 * margin + 1, (count, 1), generator=generator)
            left = torch.randint(0, 2 * margin + 1, (count, 1), generator=generator)
            rows, columns = top + torch.arange(height), left + torch.arange(width)
            padded = pad(x, (margin,) * 4).permute(0, 2, 3, 1)
            x = padded[torch.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
        else:
            side = max(1, height // 4)
            top = torch.randint(1 - side, height, (count, 1), generator=generator)
            left = torch.randint(1 - side, width, (count, 1), generator=generator)
            row_hit = (torch.arange(height) >= top) & (torch.arange(height) < top + side)
            column_hit = (torch.arange(width) >= left) & (torch.arange(width) < left + side)
            x = x.masked_fill((row_hit[:, :, None] & column_hit[:, None, :])[:, None], 0)
    return x
