"""What steps follow from gradients: the optimizer, and the learning rate of each step."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import nn


def optimizer_of(
    model: nn.Module, name: Literal["sgd", "adamw"], *, learning_rate: float, momentum: float, weight_decay: float
) -> torch.optim.Optimizer:
    """SGD with Nesterov momentum, or AdamW, over the parameters of ``model`` that are trained.

    Weight decay is on weights alone: biases and normalization scales (one dimension) are left free.
    """
    decayed = [p for p in model.parameters() if p.requires_grad and p.ndim > 1]
    free = [p for p in model.parameters() if p.requires_grad and p.ndim <= 1]
    groups: list[dict[str, Any]] = [{"params": decayed}, {"params": free, "weight_decay": 0.0}]
    groups = [group for group in groups if group["params"]]
    if name == "adamw":
        return torch.optim.AdamW(groups, lr=learning_rate, weight_decay=weight_decay)
    return torch.optim.SGD(
        groups, lr=learning_rate, momentum=momentum, weight_decay=weight_decay, nesterov=momentum > 0
    )


def learning_rate_factor(step: int, steps: int, warmup: int, schedule: Literal["cosine", "constant"]) -> float:
    """The factor on the highest learning rate at ``step`` of ``steps``.

    >>> [round(learning_rate_factor(s, 10, 2, "cosine"), 3) for s in (0, 1, 2, 6, 10)]
    [0.5, 1.0, 1.0, 0.5, 0.0]
    """
    if step < warmup:
        return (step + 1) / warmup
    if schedule == "constant":
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))
