"""The change of the loss without a channel, to first order: Molchanov et al. (2019)."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import ClassVar

from torch import Tensor, nn

from ...core.settings import setting
from ...stage import Context, Samples
from ..channels.labels import Site
from ..scoring.gradients import loss_scores
from ..scoring.scores import Members, slices
from . import Criterion


class Taylor(Criterion):
    """The squared first-order change of the loss without a channel: Molchanov et al., "Importance Estimation for Neural
    Network Pruning" (2019). It needs data with labels.

    The consumers of a channel count, because ``sum(g * w)`` of a consumer is the derivative by a gate on its input (the
    gates of section 3 of the paper).
    """

    batches: Samples = setting(16, "Batches of 32 samples that are looked at.", flag="--score-batches", unit="batches")
    usual_members: ClassVar[Members] = "consumers"

    def site_scores(
        self, sites: Collection[Site], model: nn.Module, tensors: Mapping[str, Tensor], context: Context
    ) -> dict[Site, Tensor]:
        """:func:`taylor` by the gradient of the cross entropy against the labels, batch by batch, averaged."""
        return loss_scores(model, tensors, sites, context, self.batches, criterion=self.name, of_batch=taylor)


def taylor(weight: Tensor, gradient: Tensor, axis: int) -> Tensor:
    """``(sum(g * w))^2`` of each slice, (weight.shape[axis],), for the gradient ``g`` of the loss of one batch.

    The squared first-order change of the loss when the slice is set to zero: Molchanov et al., "Importance Estimation
    for Neural Network Pruning" (2019), equation 8 (the joint contribution of a filter, not equation 9, the sum over its
    weights); the paper averages it over batches.
    """
    return (slices(weight, axis) * slices(gradient, axis)).sum(1).square()
