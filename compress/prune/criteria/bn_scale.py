"""The scales of batch normalizations: Liu et al., "Network Slimming" (2017)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor

from ..channels.groups import Group
from ..channels.labels import Site
from . import Criterion


class BnScale(Criterion):
    """The magnitude of the scale of the batch normalization after a channel: Liu et al., "Learning Efficient
    Convolutional Networks through Network Slimming" (2017), section 3.
    """

    stand_in: ClassVar[str | None] = "l2"
    blind: ClassVar[str] = "no batch normalization follows"

    def sites_of(self, group: Group, tensors: Mapping[str, Tensor]) -> tuple[Site, ...]:
        """The normalizations alone, whatever members are asked for."""
        return group.scales

    def slice_scores(self, weight: Tensor, axis: int) -> Tensor:
        """``|gamma|``, (C,)."""
        return scales(weight)


def scales(gamma: Tensor) -> Tensor:
    """``|gamma|`` of a normalization, (C,): Liu et al., "Learning Efficient Convolutional Networks through Network
    Slimming" (2017), section 3.
    """
    return gamma.detach().double().abs()
