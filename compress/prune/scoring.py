"""How much each unit of a group matters: a criterion on every layer of the group, put together."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from . import criteria
from .channels import Channels, Group


def group_scores(group: Group, found: Channels, criterion: criteria.Criterion) -> Tensor:
    """The importance of each unit of a group, (units,), float64: scores of each coupled layer relative to its mean,
    averaged over the layers.
    """
    tensors = dict(found.graph.model.named_parameters(remove_duplicate=False))
    if criterion == "bn_scale":
        per_site = [(site, criteria.scales(tensors[site[0]])) for site in group.scales]
    else:
        order: Literal[1, 2] = 1 if criterion == "l1" else 2
        sites = group.filters or tuple(site for site in group.units[0].cuts if site[0] in tensors)
        per_site = [(site, criteria.filter_norms(tensors[site[0]], site[1], order)) for site in sites]
    total = torch.zeros(len(group.units), dtype=torch.float64)
    for site, values in per_site:
        shares = criteria.relative(values.cpu())
        total += torch.stack([shares[list(unit.cuts[site])].mean() for unit in group.units])
    return total / max(1, len(per_site))
