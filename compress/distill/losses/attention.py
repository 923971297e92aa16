"""Attention transfer: Zagoruyko and Komodakis (2017)."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn
from torch.nn.functional import normalize

from ..features import by_position, same_resolution
from . import FeatureLoss, OfLayers, Pairing


class Attention(FeatureLoss):
    """Where a layer looks: the sum of squares over channels, at each position, held against the teacher's.

    Zagoruyko and Komodakis, "Paying More Attention to Attention" (2017), equation 2 with p = 2, squared as its authors
    compute it. It needs no adapter, whatever the widths.
    """

    needs_positions: ClassVar[bool] = True

    def term(self, pairing: Pairing) -> nn.Module:
        """:func:`attention` of each pair of layers."""
        return OfLayers(self.pairs(pairing), attention)


def attention(student: Tensor, teacher: Tensor) -> Tensor:
    """``||Q_s / ||Q_s|| - Q_t / ||Q_t||||^2``, the mean over samples, of maps (N, C, H, W) or tokens; a scalar.

    ``Q`` is the sum over channels of the squared feature, a vector over positions. Maps of different resolutions are
    held against each other in the smaller one.
    """
    mine, theirs = (
        normalize(by_position(feature).square().sum(1), dim=1) for feature in same_resolution(student, teacher)
    )
    return (mine - theirs).square().sum(1).mean()
