"""How far outputs of any nesting are apart, so that none of them drowns another."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from ..errors import InvalidInput

SMALLEST_POWER = 1e-12
"""Of an output, below which it counts as nothing."""


def float_tensors(outputs: Any) -> list[Tensor]:
    """The tensors of floats in ``outputs``, in order."""
    return [leaf for leaf in tree_leaves(outputs) if isinstance(leaf, Tensor) and leaf.is_floating_point()]


def relative_difference(student: Any, teacher: Any) -> Tensor:
    """The mean squared difference over the teacher's variance, the mean over all outputs of floats; a scalar.

    Each output counts alike, however large its values are: a network that returned the mean of each output would have
    about 1.

    Raises:
        InvalidInput: the outputs are of other shapes, or there is none.
    """
    pairs = _pairs(student, teacher)
    return torch.stack([(a.float() - b.float()).square().mean() / _power(b) for a, b in pairs]).mean()


def drawn_difference(outputs: Any, generator: torch.Generator) -> Tensor:
    """Half the squared difference to targets that lie around ``outputs`` by normal noise of the outputs' spread.

    Its gradient has the mean 0, and the Gauss-Newton matrix of :func:`relative_difference` as its second moments, up
    to a factor.
    """
    tensors = float_tensors(outputs)
    if not tensors:
        raise InvalidInput("match: the network returns no floats; there is nothing to differentiate")
    terms = []
    for tensor in tensors:
        noise = torch.randn(tensor.shape, generator=generator).to(tensor)
        terms.append((noise * tensor).sum() / (len(tensor) * _power(tensor).sqrt()))
    return torch.stack(terms).mean()


def _pairs(student: Any, teacher: Any) -> list[tuple[Tensor, Tensor]]:
    mine, theirs = float_tensors(student), float_tensors(teacher)
    if not mine and not theirs:
        raise InvalidInput("match: the network returns no floats, towards which none could be trained; give a --task")
    if [x.shape for x in mine] != [x.shape for x in theirs]:
        raise InvalidInput(
            f"match: expected outputs of the same shapes, got {_shapes(mine)} and the teacher's {_shapes(theirs)}; "
            "give a teacher of the same outputs, or a task that matches them"
        )
    return [(a, b) for a, b in zip(mine, theirs, strict=True) if a.numel()]


def _shapes(tensors: list[Tensor]) -> str:
    return ", ".join(str(tuple(x.shape)) for x in tensors) or "no floats"


def _power(tensor: Tensor) -> Tensor:
    """The variance of a tensor, or its mean square where it does not vary; never 0."""
    values = tensor.detach().float()
    variance = values.var(correction=0)
    return torch.where(variance > SMALLEST_POWER, variance, values.square().mean()).clamp_min(SMALLEST_POWER)
