"""Batches of any nesting, as a user's loader yields them: parts of them, and where they lie."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map


def tensors_of(batch: Any) -> list[Tensor]:
    """All tensors of ``batch``, in order."""
    return [leaf for leaf in tree_leaves(batch) if isinstance(leaf, Tensor)]


def count_of(batch: Any) -> int:
    """How many samples ``batch`` holds: the first size of its first tensor that has one; 0 where there is none."""
    return next((len(leaf) for leaf in tensors_of(batch) if leaf.ndim), 0)


def part_of(batch: Any, count: int, samples: slice) -> Any:
    """The ``samples`` of a batch of ``count``: of each tensor that has so many, and of lists with an entry for each.

    What is neither, a number say, stays whole.

    >>> images, boxes = torch.zeros(3, 1, 4, 4), [{"boxes": torch.zeros(n, 4)} for n in (2, 0, 5)]
    >>> first, rest = part_of((images, boxes), 3, slice(0, 2))
    >>> first.shape, len(rest)
    (torch.Size([2, 1, 4, 4]), 2)
    """
    if isinstance(batch, (tuple, list)) and not hasattr(batch, "_fields"):
        return type(batch)(_inner(part, count, samples) for part in batch)
    return _inner(batch, count, samples)


def _inner(part: Any, count: int, samples: slice) -> Any:
    if isinstance(part, Tensor):
        return part[samples] if part.ndim and len(part) == count else part
    if isinstance(part, Mapping):
        return {key: _inner(value, count, samples) for key, value in part.items()}
    if isinstance(part, (tuple, list)):
        of_batch = [isinstance(each, Tensor) and each.ndim > 0 and len(each) == count for each in part]
        if len(part) == count and not all(of_batch):
            return part[samples]
        made = [_inner(each, count, samples) for each in part]
        return type(part)(*made) if hasattr(part, "_fields") else type(part)(made)
    return part


def mapped(batch: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """``batch`` with every tensor changed."""
    return tree_map(lambda leaf: change(leaf) if isinstance(leaf, Tensor) else leaf, batch)


def moved(batch: Any, device: torch.device) -> Any:
    """``batch`` with all tensors on ``device``."""
    return mapped(batch, lambda tensor: tensor.to(device))


def with_tensors(nesting: Any, tensors: Sequence[Tensor]) -> Any:
    """``nesting`` with other tensors in the places of its own, in their order."""
    rest = iter(tensors)
    return mapped(nesting, lambda _: next(rest))
