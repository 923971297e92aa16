"""A criterion of pruning in one file: put it in ``compress/prune/criteria/`` as ``spread.py``.

It is then ``--criterion spread`` on the command line, ``criterion: spread`` in a recipe and
``Prune(criterion="spread")`` in Python, with the settings that all criteria have and those that it declares.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from compress.core.settings import setting
from compress.prune.criteria import Criterion
from compress.prune.scoring.scores import Normalization, slices


class Spread(Criterion):
    """How much the weights of a filter differ from each other: one that is constant is a blur, and can go."""

    power: float = setting(1.0, "Of the deviations; 2 makes it the variance.", gt=0, le=10)

    usual_normalization: ClassVar[Normalization] = "mean"

    def slice_scores(self, weight: Tensor, axis: int) -> Tensor:
        """The standard deviation of each slice to that power: (weight.shape[axis],)."""
        return slices(weight, axis).std(1, correction=0) ** self.power
