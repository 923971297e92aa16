"""The mean activation: Molchanov et al., "Pruning Convolutional Neural Networks" (2017)."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from ...core.settings import setting
from ...graph.trace import Graph
from ...stage import Context, Samples
from ..channels.groups import Group
from ..channels.labels import Site
from ..scoring.activations import activation_means, outputs
from ..scoring.scores import Normalization
from . import Criterion


class ActivationMean(Criterion):
    """The mean absolute output of a channel: Molchanov et al., "Pruning Convolutional Neural Networks for Resource
    Efficient Inference" (2017), section 2.2. It needs data.
    """

    batches: Samples = setting(16, "Batches of 32 samples that are looked at.", flag="--score-batches", unit="batches")
    usual_normalization: ClassVar[Normalization] = "mean"

    def sites_of(self, group: Group, tensors: Mapping[str, Tensor]) -> tuple[Site, ...]:
        """What produces the channels, whatever members are asked for."""
        return group.filters

    def seen(self, graph: Graph, tensors: Mapping[str, Tensor], sites: tuple[Site, ...]) -> tuple[Site, ...]:
        """The sites whose outputs the graph shows."""
        places = outputs(graph, tensors, sites)
        return tuple(site for site in sites if places[site])

    def site_scores(
        self, sites: Collection[Site], model: nn.Module, tensors: Mapping[str, Tensor], context: Context
    ) -> dict[Site, Tensor]:
        """:func:`activation_mean` of the outputs of each layer, averaged over samples."""
        return activation_means(
            model, tensors, sites, context, self.batches, criterion=self.name, statistic=activation_mean
        )


def activation_mean(activations: Tensor, dim: int) -> Tensor:
    """The mean absolute activation of each channel, (activations.shape[dim],): the mean activation of Molchanov et
    al., "Pruning Convolutional Neural Networks for Resource Efficient Inference" (2017), section 2.2, of magnitudes.
    """
    return activations.detach().abs().movedim(dim, 0).reshape(activations.shape[dim], -1).mean(1, dtype=torch.float64)
