"""Masked generative distillation: Yang et al. (2022)."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from ...core.settings import setting
from ...errors import InvalidInput
from . import FeatureLoss, LayerPair, OfLayers, Pairing
from .hint import hint


class Mgd(FeatureLoss):
    """The teacher's feature, generated from the student's of which pixels are masked at random.

    Yang et al., "Masked Generative Distillation" (2022), section 3: two 3x3 convolutions make the teacher's map
    of the student's masked one; the mean over elements instead of the sum. They are thrown away after the training.
    """

    mask: float = setting(0.5, "The share of pixels that are masked.", ge=0, lt=1)
    needs_positions: ClassVar[bool] = True

    def term(self, pairing: Pairing) -> nn.Module:
        """The mean squared difference of each pair of layers, behind a generator."""
        pairs = self.pairs(pairing)
        tokens = next((pair.student for pair in pairs if len(pair.student_shape) != 4), None)
        if tokens is not None:
            raise InvalidInput(
                f"loss {self.name}: expected layers that return maps (N, C, H, W), and {tokens} returns tokens"
            )
        return OfLayers(pairs, hint, [Generation(pair, self.mask) for pair in pairs])


class Generation(nn.Module):
    """Makes the teacher's map (N, C_t, H, W) of the student's (N, C_s, H, W), a share of whose pixels it does not see.

    Pixels are drawn for each sample, and are masked in all channels alike.
    """

    def __init__(self, pair: LayerPair, mask: float) -> None:
        super().__init__()
        channels = pair.wanted_channels
        self.mask, self.align = mask, pair.adapter()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, feature: Tensor) -> Tensor:
        """The teacher's map, as it is generated."""
        aligned = self.align(feature)
        seen = torch.rand(len(aligned), 1, *aligned.shape[2:], device=aligned.device) >= self.mask
        generated: Tensor = self.second(torch.relu(self.first(aligned * seen)))
        return generated
