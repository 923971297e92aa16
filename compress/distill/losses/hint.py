"""Hints: Romero et al. (2015)."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import mse_loss

from ..features import same_resolution
from . import FeatureLoss, OfLayers, Pairing


class Hint(FeatureLoss):
    """The squared difference of features, through a regressor where the student has fewer channels.

    Romero et al., "FitNets: Hints for Thin Deep Nets" (2015), equation 3; the mean over elements instead of half the
    sum. The regressor is a 1x1 convolution (a linear layer of tokens and vectors) that is trained along; of a pruned
    network, whose channels are some of the teacher's, these are taken instead.
    """

    def term(self, pairing: Pairing) -> nn.Module:
        """:func:`hint` of each pair of layers, behind the regressor."""
        pairs = self.pairs(pairing)
        return OfLayers(pairs, hint, [pair.adapter() for pair in pairs])


def hint(student: Tensor, teacher: Tensor) -> Tensor:
    """The mean squared difference of two features of as many channels, a scalar.

    Maps of different resolutions are held against each other in the smaller one.
    """
    mine, theirs = same_resolution(student, teacher)
    return mse_loss(mine.float(), theirs.float())
