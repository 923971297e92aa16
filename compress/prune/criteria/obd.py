"""The change of the loss without a channel, to second order: LeCun et al., "Optimal Brain Damage" (1989)."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from torch import Tensor, nn

from ...core.settings import setting
from ...stage import Context, Samples
from ..channels.labels import Site
from ..scoring.gradients import loss_scores
from ..scoring.scores import slices
from . import Criterion


class Obd(Criterion):
    """The second-order change of the loss without a channel: LeCun et al., "Optimal Brain Damage" (1989). It needs
    data, and no labels.

    The diagonal of the Gauss-Newton matrix of the cross entropy, which is never negative, stands for that of the
    Hessian (the Levenberg-Marquardt approximation, section 2.2). With labels drawn from the network's own prediction,
    the squared gradient of a batch, times its size, is an unbiased estimate of that diagonal: Martens, "New Insights
    and Perspectives on the Natural Gradient Method" (2020), section 9.
    """

    batches: Samples = setting(16, "Batches of 32 samples that are looked at.", flag="--score-batches", unit="batches")

    def site_scores(
        self, sites: Collection[Site], model: nn.Module, tensors: Mapping[str, Tensor], context: Context
    ) -> dict[Site, Tensor]:
        """:func:`obd` by the curvature of batches with drawn labels, averaged."""
        return loss_scores(model, tensors, sites, context, self.batches, criterion=self.name, of_batch=obd, drawn=True)


def obd(weight: Tensor, curvature: Tensor, axis: int) -> Tensor:
    """``sum(h * w^2) / 2`` of each slice, (weight.shape[axis],), for the diagonal ``h`` of the Hessian of the loss.

    The second-order change of the loss at a minimum, when the slice is set to zero: LeCun et al., "Optimal Brain
    Damage" (1989), the saliency of step 4 of the procedure in section 2, summed over the weights of a channel.
    """
    return 0.5 * (slices(curvature, axis) * slices(weight, axis).square()).sum(1)
