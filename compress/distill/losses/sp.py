"""Similarity-preserving distillation: Tung and Mori (2019)."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import mse_loss, normalize

from ...core.settings import setting
from . import FeatureLoss, Layers, OfLayers, Pairing


class Sp(FeatureLoss):
    """Which samples of a batch are alike: their similarities by the student's feature, held against the teacher's.

    Tung and Mori, "Similarity-Preserving Knowledge Distillation" (2019), equations 1 to 4. Student and teacher may have
    any shapes.
    """

    weight: float = setting(1000.0, "Times the loss, in the sum of all; the paper has 3000.", ge=0, le=1e9)
    layers: Layers = setting("last", "As of every loss of features.")

    def term(self, pairing: Pairing) -> nn.Module:
        """:func:`similarities_apart` of each pair of layers."""
        return OfLayers(self.pairs(pairing), similarities_apart)


def similarities_apart(student: Tensor, teacher: Tensor) -> Tensor:
    """``||G_t - G_s||_F^2 / b^2`` for a batch of ``b``, a scalar: the mean squared difference of similarities.

    ``G`` (b, b) are the products of the flattened features of each two samples, each row scaled to the norm 1.
    """
    mine, theirs = (_similarities(feature) for feature in (student, teacher))
    return mse_loss(mine, theirs)


def _similarities(feature: Tensor) -> Tensor:
    flat = feature.float().flatten(1)
    return normalize(flat @ flat.T, dim=1)
