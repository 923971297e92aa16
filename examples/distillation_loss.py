"""A distillation loss in one file: put it in ``compress/distill/losses/`` as ``moments.py``.

It is then ``--loss moments:layer2=layer2`` on the command line, ``losses: [moments]`` in a recipe and
``Distill(losses=["moments"])`` in Python.
"""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn

from compress.core.settings import setting
from compress.distill.features import by_position
from compress.distill.losses import FeatureLoss, OfLayers, Pairing


class Moments(FeatureLoss):
    """The mean and the spread of each channel over positions, held against the teacher's."""

    spread: float = setting(1.0, "Of the variances, beside the means.", ge=0, le=1e6)

    def term(self, pairing: Pairing) -> nn.Module:
        """:func:`moments` of each pair of layers, behind adapters where the student has fewer channels."""
        pairs = self.pairs(pairing)
        return OfLayers(pairs, partial(moments, spread=self.spread), [pair.adapter() for pair in pairs])


def moments(student: Tensor, teacher: Tensor, *, spread: float) -> Tensor:
    """The squared differences of means and of variances, averaged over samples and channels; a scalar."""
    mine, theirs = by_position(student), by_position(teacher)
    means = (mine.mean(2) - theirs.mean(2)).square().mean()
    return means + spread * (mine.var(2, correction=0) - theirs.var(2, correction=0)).square().mean()
