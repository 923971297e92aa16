"""How much a channel matters, from the weights alone: pure functions of tensors."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

Criterion = Literal["l1", "l2", "bn_scale"]


def filter_norms(weight: Tensor, axis: int, order: Literal[1, 2]) -> Tensor:
    """The norm of each slice of ``weight`` along ``axis``: (weight.shape[axis],).

    ``sum(|w|)`` for order 1, as Li et al., "Pruning Filters for Efficient ConvNets" (2017), section 3.1, and
    ``sqrt(sum(w^2))`` for order 2, computed in float64.

    >>> import torch
    >>> filter_norms(torch.tensor([[3.0, -4.0], [0.0, 1.0]]), 0, 2).tolist()
    [5.0, 1.0]
    """
    flat = weight.detach().double().movedim(axis, 0).flatten(1)
    return flat.abs().sum(1) if order == 1 else flat.square().sum(1).sqrt()


def scales(gamma: Tensor) -> Tensor:
    """``|gamma|`` of a normalization, (C,): Liu et al., "Learning Efficient Convolutional Networks through Network
    Slimming" (2017), section 3.
    """
    return gamma.detach().double().abs()


def relative(scores: Tensor) -> Tensor:
    """Scores divided by their mean, so that layers of different scale compare; all ones where the mean is zero.

    >>> import torch
    >>> relative(torch.tensor([1.0, 3.0])).tolist()
    [0.5, 1.5]
    """
    mean = scores.mean()
    return scores / mean if mean > 0 else scores.new_ones(scores.shape)
