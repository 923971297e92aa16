"""Which weights become zero: pure functions of tensors.

Weights are seen as (out, in, *kernel); a linear layer's as (out, in). A *group* is a set of weights that go together,
told by a tensor of the weight's shape that holds the number of each weight's group. Scores are per weight; the highest
stay.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

Granularity = Literal["weight", "kernel", "row", "block", "n:m"]


def groups_of(shape: Sequence[int], granularity: Granularity, block: tuple[int, int] = (1, 1)) -> Tensor:
    """The number of the group that each weight belongs to: int64 of ``shape``, numbers from 0 without gaps.

    ``weight``: each alone. ``kernel``: the kernel of one output and one input. ``row``: the last dimension of a kernel.
    ``block``: blocks of ``block`` = (rows, columns) of the matrix (out, in * kernel), smaller at its lower and right
    edge. (Mao et al., "Exploring the Regularity of Sparse Structure in Convolutional Neural Networks", 2017, section 3,
    has the first three as granularities 0-D, 2-D and 1-D; Narang et al., "Block-Sparse Recurrent Neural Networks",
    2017, the blocks.)

    >>> groups_of((2, 4), "block", (2, 2)).tolist()
    [[0, 0, 1, 1], [0, 0, 1, 1]]
    >>> groups_of((1, 2, 1, 2), "kernel").flatten().tolist()
    [0, 0, 1, 1]
    """
    if granularity == "n:m":
        raise ValueError("n:m chooses weights within windows of the input dimension, see n_of_m")
    count = math.prod(shape)
    if granularity == "weight":
        return torch.arange(count).view(*shape)
    if granularity == "block":
        rows, columns = block
        height, width = shape[0], count // shape[0]
        down, across = torch.arange(height) // rows, torch.arange(width) // columns
        return (down[:, None] * math.ceil(width / columns) + across).view(*shape)
    size = 1 if len(shape) == 2 else math.prod(shape[2:]) if granularity == "kernel" else shape[-1]
    return (torch.arange(count) // size).view(*shape)


def group_means(scores: Tensor, groups: Tensor) -> tuple[Tensor, Tensor]:
    """The mean score of each group (float64) and its number of weights (int64): both (groups,)."""
    flat = groups.flatten()
    sizes = torch.bincount(flat)
    sums = torch.zeros(len(sizes), dtype=torch.float64)
    sums.index_add_(0, flat, scores.detach().double().flatten().cpu())
    return sums / sizes, sizes


def n_of_m(scores: Tensor, n: int, m: int) -> Tensor:
    """A mask of the shape of ``scores`` (out, in, *kernel) with exactly the ``n`` highest of ``m`` consecutive inputs.

    Mishra et al., "Accelerating Sparse Deep Neural Networks" (2021), section 3.1 (2:4), for any n and m. The first of
    equal scores stays.

    Raises:
        ValueError: the inputs are no multiple of ``m``.

    >>> n_of_m(torch.tensor([[1.0, -3.0, 2.0, 0.0]]).abs(), 2, 4).tolist()
    [[False, True, True, False]]
    """
    if scores.shape[1] % m:
        raise ValueError(f"{scores.shape[1]} inputs are no multiple of {m}")
    last = scores.movedim(1, -1)
    windows = last.reshape(*last.shape[:-1], -1, m)
    chosen = torch.argsort(windows, dim=-1, descending=True, stable=True)[..., :n]
    mask = torch.zeros_like(windows, dtype=torch.bool).scatter_(-1, chosen, True)
    return mask.reshape(last.shape).movedim(-1, 1)


def layer_masks(scores: Sequence[Tensor], groups: Sequence[Tensor], sparsity: float) -> list[Tensor]:
    """A mask per layer, each of them with ``sparsity`` of its weights gone, to the nearest group; one group stays."""
    masks = []
    for score, group in zip(scores, groups, strict=True):
        means, sizes = group_means(score, group)
        mask = torch.ones(len(sizes), dtype=torch.bool)
        mask[_lowest(means, sizes, sparsity * int(sizes.sum()))[: len(sizes) - 1]] = False
        masks.append(mask[group])
    return masks


def network_masks(scores: Sequence[Tensor], groups: Sequence[Tensor], sparsity: float, minimum: float) -> list[Tensor]:
    """A mask per layer, with one threshold over all layers: ``sparsity`` of all weights are gone, to the nearest group.

    The best groups of a layer that hold its share ``minimum`` of weights (one group at least) stay whatever the
    threshold, so that no layer is cut through.

    Raises:
        ValueError: what must stay is more than ``sparsity`` leaves.
    """
    parts = [group_means(score, group) for score, group in zip(scores, groups, strict=True)]
    total = sum(int(sizes.sum()) for _, sizes in parts)
    means, sizes = (torch.cat(columns) for columns in zip(*parts, strict=True))
    free = torch.cat([~_highest(m, s, minimum) for m, s in parts])
    wanted = sparsity * total
    if int(sizes[free].sum()) < round(wanted) - int(sizes.max()):
        raise ValueError(f"at most {int(sizes[free].sum()) / total:.2%} can go with at least {minimum:g} of each layer")
    candidates = free.nonzero().flatten()
    staying = torch.ones(len(sizes), dtype=torch.bool)
    staying[candidates[_lowest(means[candidates], sizes[candidates], wanted)]] = False
    masks, start = [], 0
    for (part, _), group in zip(parts, groups, strict=True):
        masks.append(staying[start : start + len(part)][group])
        start += len(part)
    return masks


def _lowest(means: Tensor, sizes: Tensor, weights: float) -> Tensor:
    """The groups with the lowest scores that hold ``weights`` weights together, to the nearest group."""
    order = torch.argsort(means, stable=True)
    held = torch.cat([torch.zeros(1, dtype=torch.int64), sizes[order].cumsum(0)]).double()
    return order[: int(torch.argmin((held - weights).abs()))]


def _highest(means: Tensor, sizes: Tensor, share: float) -> Tensor:
    """Whether each group is among those with the highest scores that hold at least ``share`` of the weights."""
    order = torch.argsort(means, descending=True, stable=True)
    before = sizes[order].cumsum(0) - sizes[order]
    within = before < share * int(sizes.sum())
    within[0] = True
    return torch.zeros(len(sizes), dtype=torch.bool).scatter_(0, order, within)
