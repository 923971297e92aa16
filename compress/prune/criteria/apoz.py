"""The share of zeros after the activation: Hu et al., "Network Trimming" (2016)."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import ClassVar

from torch import Tensor, nn

from ...core.settings import setting
from ...graph.trace import Graph
from ...stage import Context, Samples
from ..channels.groups import Group
from ..channels.labels import Site
from ..scoring.activations import activation_means, outputs
from . import Criterion


class Apoz(Criterion):
    """How seldom a channel is zero after the rectifier that follows: Hu et al., "Network Trimming: A Data-Driven Neuron
    Pruning Approach towards Efficient Deep Architectures" (2016). It needs data.
    """

    batches: Samples = setting(16, "Batches of 32 samples that are looked at.", flag="--score-batches", unit="batches")
    blind: ClassVar[str] = "no activation with zeros (ReLU) follows"

    def sites_of(self, group: Group, tensors: Mapping[str, Tensor]) -> tuple[Site, ...]:
        """What produces the channels, whatever members are asked for."""
        return group.filters

    def seen(self, graph: Graph, tensors: Mapping[str, Tensor], sites: tuple[Site, ...]) -> tuple[Site, ...]:
        """The sites whose outputs the graph shows."""
        places = outputs(graph, tensors, sites, rectifiers=True)
        return tuple(site for site in sites if places[site])

    def site_scores(
        self, sites: Collection[Site], model: nn.Module, tensors: Mapping[str, Tensor], context: Context
    ) -> dict[Site, Tensor]:
        """One minus :func:`apoz` after the rectifier that follows each layer, averaged over samples."""
        zero_shares = activation_means(
            model, tensors, sites, context, self.batches, criterion=self.name, statistic=apoz, rectifiers=True
        )
        return {site: 1 - share for site, share in zero_shares.items()}


def apoz(activations: Tensor, dim: int) -> Tensor:
    """The average percentage of zeros of each channel, as a share in [0, 1], (activations.shape[dim],): Hu et al.,
    "Network Trimming: A Data-Driven Neuron Pruning Approach towards Efficient Deep Architectures" (2016), equation 1.

    The more zeros the less a channel matters: its importance is one minus this.
    """
    return (activations.detach() == 0).movedim(dim, 0).reshape(activations.shape[dim], -1).double().mean(1)
