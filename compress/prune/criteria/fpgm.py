"""The distance to all other filters: He et al., "Filter Pruning via Geometric Median" (2019)."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from ..scoring.scores import Normalization, slices
from . import Criterion


class Fpgm(Criterion):
    """How far a filter is from all others of its layer, which stand in for it where it is near: He et al., "Filter
    Pruning via Geometric Median for Deep Convolutional Neural Networks Acceleration" (2019).
    """

    usual_normalization: ClassVar[Normalization] = "mean"

    def slice_scores(self, weight: Tensor, axis: int) -> Tensor:
        """:func:`fpgm`."""
        return fpgm(weight, axis)


def fpgm(weight: Tensor, axis: int) -> Tensor:
    """The sum of the Euclidean distances of each slice to all others of the layer, (weight.shape[axis],).

    The lowest is nearest to the geometric median of the filters, so that the others can stand in for it: He et al.,
    "Filter Pruning via Geometric Median for Deep Convolutional Neural Networks Acceleration" (2019), section 3.

    >>> fpgm(torch.tensor([[0.0], [1.0], [4.0]]), 0).tolist()
    [5.0, 4.0, 7.0]
    """
    flat = slices(weight, axis)
    return torch.cdist(flat, flat).fill_diagonal_(0).sum(1)
