"""Magnitudes by what survives in their layer: Lee et al., "Layer-adaptive Sparsity" (2021)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from ...errors import InvalidInput
from ...stage import Context
from ..channels.groups import Channels, Group
from ..scoring.scores import Normalization, filter_norms
from . import Criterion


class Lamp(Criterion):
    """The squared norm of a filter over those of its layer that are at least as large: Lee et al., "Layer-adaptive
    Sparsity for the Magnitude-based Pruning" (2021). Its own normalization comes after that within layers.
    """

    usual_normalization: ClassVar[Normalization] = "mean"

    def slice_scores(self, weight: Tensor, axis: int) -> Tensor:
        """The squared norm of each slice."""
        return filter_norms(weight, axis, 2).square()

    def together(self, of_layers: Tensor) -> Tensor:
        """:func:`lamp` of the aggregated magnitudes."""
        return lamp(super().together(of_layers))

    def score(self, groups: Sequence[Group], channels: Channels, context: Context) -> list[Tensor]:
        """As every criterion does.

        Raises:
            InvalidInput: the magnitudes are to be made negative.
        """
        if self.normalize == "gaussian":
            raise InvalidInput("prune: criterion lamp divides magnitudes, which gaussian makes negative; take another")
        return super().score(groups, channels, context)


def lamp(magnitudes: Tensor) -> Tensor:
    """Squared magnitudes, (n,), each divided by the sum of those that are at least as large: in [0, 1].

    Lee et al., "Layer-adaptive Sparsity for the Magnitude-based Pruning" (2021), section 2, with the squared norms of
    channels where the paper has squared weights. The largest of a layer gets 1, so that no layer is emptied, and the
    order within a layer stays that of the magnitudes. Of equal ones the earlier counts as the smaller.

    >>> lamp(torch.tensor([1.0, 3.0, 0.0])).tolist()
    [0.25, 1.0, 0.0]
    """
    ascending, order = torch.sort(magnitudes.double(), stable=True)
    surviving = ascending.flip(0).cumsum(0).flip(0)
    shares = torch.where(surviving > 0, ascending / surviving, torch.zeros_like(ascending))
    return torch.empty_like(shares).scatter_(0, order, shares)
