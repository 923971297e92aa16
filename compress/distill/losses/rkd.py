"""Relational distillation: Park et al. (2019)."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize, smooth_l1_loss

from ...core.settings import setting
from ..features import embedding
from . import FeatureLoss, Layers, OfLayers, Pairing

TINY = 1e-12
"""Added to squared distances, whose root has no gradient at 0."""


class Rkd(FeatureLoss):
    """How samples of a batch lie to each other, as the teacher has it: distances of each two, angles of each three.

    Park et al., "Relational Knowledge Distillation" (2019), sections 3.2.1 and 3.2.2, of features that are averaged
    over positions. Student and teacher may have any shapes.
    """

    distance: float = setting(25.0, "Of the part of distances; the paper's for classifiers.", ge=0, le=1e6)
    angle: float = setting(50.0, "Of the part of angles; the paper's for classifiers.", ge=0, le=1e6)
    layers: Layers = setting("last", "As of every loss of features.")

    def term(self, pairing: Pairing) -> nn.Module:
        """:func:`relations_apart` of each pair of layers."""
        return OfLayers(self.pairs(pairing), partial(relations_apart, distance=self.distance, angle=self.angle))


def relations_apart(student: Tensor, teacher: Tensor, *, distance: float, angle: float) -> Tensor:
    """``distance * L_D + angle * L_A``, a scalar: the mean Huber loss over pairs, and over triples, of samples.

    ``L_D`` compares distances over their mean (section 3.2.1), ``L_A`` the cosines of the angles at the second of three
    samples (section 3.2.2).
    """
    mine, theirs = embedding(student), embedding(teacher)
    of_distances = smooth_l1_loss(_distances(mine), _distances(theirs))
    of_angles = smooth_l1_loss(_cosines(mine), _cosines(theirs))
    return distance * of_distances + angle * of_angles


def _distances(vectors: Tensor) -> Tensor:
    """The distances of each two of (N, C), over their mean: (N (N - 1) / 2,)."""
    first, second = torch.triu_indices(len(vectors), len(vectors), 1, device=vectors.device)
    apart = ((vectors[first] - vectors[second]).square().sum(1) + TINY).sqrt()
    return apart / apart.mean().clamp_min(TINY)


def _cosines(vectors: Tensor) -> Tensor:
    """At each sample ``j``, the cosine between the ways to each two others ``i < k``: (N, (N - 1) (N - 2) / 2)."""
    count = len(vectors)
    others = ~torch.eye(count, dtype=torch.bool, device=vectors.device)
    ways = (vectors[None] - vectors[:, None])[others].view(count, count - 1, -1)
    ways = normalize(ways, dim=2)
    first, second = torch.triu_indices(count - 1, count - 1, 1, device=vectors.device)
    return (ways @ ways.transpose(1, 2))[:, first, second]
