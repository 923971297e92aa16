"""The Euclidean norm of a filter: a channel with small weights changes little of what follows."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from ..scoring.scores import Normalization, filter_norms
from . import Criterion


class L2(Criterion):
    """The Euclidean norm of a filter: a channel with small weights changes little of what follows."""

    usual_normalization: ClassVar[Normalization] = "mean"

    def slice_scores(self, weight: Tensor, axis: int) -> Tensor:
        """The norm of order 2 of each slice, (weight.shape[axis],)."""
        return filter_norms(weight, axis, 2)
