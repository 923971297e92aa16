"""Channels at random, as a baseline that every other criterion has to beat."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ...stage import Context
from ..channels.groups import Channels, Group
from . import Criterion


class Random(Criterion):
    """Channels at random, by the seed: a baseline that every other criterion has to beat."""

    def score(self, groups: Sequence[Group], channels: Channels, context: Context) -> list[Tensor]:
        """A random number for each unit."""
        generator = torch.Generator().manual_seed(context.seed)
        return [torch.rand(len(group.units), generator=generator, dtype=torch.float64) for group in groups]

    def blind_to(self, group: Group, channels: Channels) -> str | None:
        """It needs to see nothing."""
        return None
