"""Non-maximum suppression: of boxes that show the same object, the one with the highest score stays."""

from __future__ import annotations

import torch
from torch import Tensor

from .geometry import pairwise_overlap


def suppress(boxes: Tensor, scores: Tensor, labels: Tensor, most_overlap: float) -> Tensor:
    """The positions (K,) of the boxes that stay, the highest score first.

    A box goes where one of its class with a higher score, that itself stays, overlaps it by more than ``most_overlap``,
    as intersection over union. Of equal scores the earlier one counts as higher. Instead of one box after the other,
    all are decided at once and again, until nothing changes: after k rounds the k highest ones are as they must be.

    Args:
        boxes: (N, 4) x1, y1, x2, y2.
        scores: (N,).
        labels: (N,), their classes.

    >>> boxes = torch.tensor([[0.0, 0.0, 4.0, 4.0], [0.0, 0.0, 4.0, 3.0], [4.0, 4.0, 8.0, 8.0]])
    >>> suppress(boxes, torch.tensor([0.5, 0.9, 0.1]), torch.tensor([2, 2, 2]), most_overlap=0.6)
    tensor([1, 2])
    """
    order = scores.argsort(descending=True, stable=True)
    ranked, classes = boxes[order], labels[order]
    covers = (pairwise_overlap(ranked, ranked) > most_overlap) & (classes[:, None] == classes[None])
    weights = covers.triu(1).float()  # a product of a vector and a matrix is the fastest way to look for any
    stays = torch.ones_like(scores, dtype=torch.float32)
    for _ in range(len(order)):
        again = (stays @ weights == 0).float()
        if torch.equal(again, stays):
            break
        stays = again
    return order[stays.bool()]
