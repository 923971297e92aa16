"""Scores of slices: norms of weights, and how the scores of layers are compared and put together; pure functions.

A *slice* is what one index of a dimension of a tensor holds: a filter of a convolution along dimension 0, all weights
that read one input channel along dimension 1. Scores are float64.
"""

from __future__ import annotations

import math
from typing import Literal

from torch import Tensor

Normalization = Literal["mean", "max", "gaussian", "none"]
Aggregate = Literal["mean", "max", "sum", "first"]
Members = Literal["filters", "consumers", "all"]


def slices(tensor: Tensor, axis: int) -> Tensor:
    """The slices of ``tensor`` along ``axis``, flat and in float64: (tensor.shape[axis], elements of a slice)."""
    return tensor.detach().double().movedim(axis, 0).reshape(tensor.shape[axis], -1)


def filter_norms(weight: Tensor, axis: int, order: Literal[1, 2]) -> Tensor:
    """The norm of each slice of ``weight`` along ``axis``: (weight.shape[axis],).

    ``sum(|w|)`` for order 1, as Li et al., "Pruning Filters for Efficient ConvNets" (2017), section 3.1, and
    ``sqrt(sum(w^2))`` for order 2, computed in float64.

    >>> import torch
    >>> filter_norms(torch.tensor([[3.0, -4.0], [0.0, 1.0]]), 0, 2).tolist()
    [5.0, 1.0]
    """
    flat = slices(weight, axis)
    return flat.abs().sum(1) if order == 1 else flat.square().sum(1).sqrt()


def relative(scores: Tensor) -> Tensor:
    """Scores divided by their mean, so that layers of different scale compare; all ones where the mean is zero.

    >>> import torch
    >>> relative(torch.tensor([1.0, 3.0])).tolist()
    [0.5, 1.5]
    """
    mean = scores.mean()
    return scores / mean if mean > 0 else scores.new_ones(scores.shape)


def normalized(scores: Tensor, how: Normalization) -> Tensor:
    """The scores of a layer, (n,), made comparable with those of others.

    ``mean``: divided by their mean; ``max``: by their maximum; ``gaussian``: less their mean, divided by their standard
    deviation, all zeros where that is zero; ``none``: as they are.

    >>> import torch
    >>> normalized(torch.tensor([1.0, 3.0]), "gaussian").tolist()
    [-1.0, 1.0]
    """
    if how == "mean":
        return relative(scores)
    if how == "max":
        largest = scores.max()
        return scores / largest if largest > 0 else scores.new_ones(scores.shape)
    if how == "gaussian":
        spread = float(scores.std(correction=0))
        # Equal scores have a spread of a rounding error.
        flat = math.isclose(spread, 0, abs_tol=1e-12 * float(scores.abs().max()))
        return scores.new_zeros(scores.shape) if flat else (scores - scores.mean()) / spread
    return scores


def aggregated(scores: Tensor, how: Aggregate) -> Tensor:
    """Scores of the coupled layers of a group, (layers, units), as one per unit, (units,).

    ``mean``, ``max``, ``sum`` (Fang et al., "DepGraph: Towards Any Structural Pruning" (2023), section 3.3, of squared
    norms) or that of the ``first`` layer.
    """
    if how == "mean":
        return scores.mean(0)
    if how == "max":
        return scores.amax(0)
    return scores.sum(0) if how == "sum" else scores[0]
