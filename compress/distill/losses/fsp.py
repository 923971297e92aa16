"""The flow of the solution procedure: Yim et al. (2017)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_max_pool2d, mse_loss

from ...errors import InvalidInput
from ...tasks.task import Batch
from ..features import by_position, resolution_of
from . import FeatureLoss, LayerPair, Pairing, Seen


class Fsp(FeatureLoss):
    """How features flow from one layer to the next: the products of their channels, averaged over positions.

    Yim et al., "A Gift from Knowledge Distillation" (2017), equations 1 and 2, with the mean over the elements of the
    matrix instead of their sum. Each layer is taken with the one that follows in the list; where their resolutions
    differ, the larger map is pooled to the maxima of the smaller one. A student of fewer channels has adapters.
    """

    needs_positions: ClassVar[bool] = True

    def term(self, pairing: Pairing) -> nn.Module:
        """The squared difference of :func:`flow` between each two layers in a row."""
        pairs = self.pairs(pairing)
        if len(pairs) < 2:
            raise InvalidInput(f"loss {self.name}: it needs two pairs of layers or more, got {len(pairs)}; name them")
        tokens = [pair for pair in pairs if len(pair.student_shape) == 3]
        if len({resolution_of(pair.student_shape) for pair in tokens}) > 1 or len(tokens) not in (0, len(pairs)):
            raise InvalidInput(f"loss {self.name}: expected maps alone, or tokens of one length; name other layers")
        return Flows(pairs)


class Flows(nn.Module):
    """The mean squared difference of a student's and a teacher's :func:`flow`, a scalar."""

    def __init__(self, pairs: Sequence[LayerPair]) -> None:
        super().__init__()
        self.pairs = tuple(pairs)
        self.adapters = nn.ModuleList(pair.adapter() for pair in pairs)

    def forward(self, student: Seen, teacher: Seen, batch: Batch) -> Tensor:
        """The loss of what both gave for a batch."""
        mine = [
            adapter(student.features[pair.student]) for pair, adapter in zip(self.pairs, self.adapters, strict=True)
        ]
        theirs = [pair.of_teacher(teacher.features[pair.teacher]) for pair in self.pairs]
        flows = [[flow(a, b) for a, b in pairwise(features)] for features in (mine, theirs)]
        return torch.stack([mse_loss(a, b) for a, b in zip(*flows, strict=True)]).mean()


def flow(first: Tensor, second: Tensor) -> Tensor:
    """``G[i, j]``, (N, C1, C2): the mean over positions of channel i of ``first`` times channel j of ``second``.

    Of maps (N, C, H, W) of different resolutions, the larger one is pooled to the maxima at those of the smaller one.
    """
    if first.ndim == 4 and first.shape[2:] != second.shape[2:]:
        size = [min(a, b) for a, b in zip(first.shape[2:], second.shape[2:], strict=True)]
        first, second = adaptive_max_pool2d(first, size), adaptive_max_pool2d(second, size)
    a, b = by_position(first), by_position(second)
    return a @ b.transpose(1, 2) / a.shape[2]
