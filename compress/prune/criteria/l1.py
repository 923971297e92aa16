"""The sum of magnitudes of a filter: Li et al., "Pruning Filters for Efficient ConvNets" (2017), section 3.1."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from ..scoring.scores import Normalization, filter_norms
from . import Criterion


class L1(Criterion):
    """The sum of magnitudes of a filter: Li et al., "Pruning Filters for Efficient ConvNets" (2017), section 3.1."""

    usual_normalization: ClassVar[Normalization] = "mean"

    def slice_scores(self, weight: Tensor, axis: int) -> Tensor:
        """The norm of order 1 of each slice, (weight.shape[axis],)."""
        return filter_norms(weight, axis, 1)
