"""Gradients of networks that are evaluated, not trained."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


@contextmanager
def differentiable(tensors: Collection[Tensor]) -> Iterator[None]:
    """Within: gradients are computed, for ``tensors`` too where they are frozen."""
    before = [tensor.requires_grad for tensor in tensors]
    try:
        for tensor in tensors:
            tensor.requires_grad_(True)
        with torch.enable_grad():
            yield
    finally:
        for tensor, flag in zip(tensors, before, strict=True):
            tensor.requires_grad_(flag)
