"""Weights at random, so that no zero or one (of a batch norm, a bias, a scale) hides a mistake."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import nn

Model = TypeVar("Model", bound=nn.Module)


def randomized(model: Model, seed: int = 0) -> Model:
    """``model`` itself, in evaluation mode, with every parameter and statistic drawn anew.

    Weights have the variance 2 / fan-in, one-dimensional parameters and running means 1/2; variances are at
    least 1/2, so that no signal explodes over many layers.
    """
    generator = torch.Generator().manual_seed(seed)
    model.eval()
    with torch.no_grad():
        for name, tensor in (*model.named_parameters(), *model.named_buffers()):
            if tensor.is_floating_point():
                drawn = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
                fan_in = max(1, tensor[0].numel()) if tensor.ndim > 1 else 4
                tensor.copy_(drawn.abs() + 0.5 if "var" in name.rpartition(".")[2] else drawn * (2 / fan_in) ** 0.5)
    return model
