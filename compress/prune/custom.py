"""A criterion of the user's own: found, called on each weight, and held to what a criterion returns."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import InvalidInput
from .criteria import Criterion, CustomCriterion, criterion_name
from .labels import Site


def resolve(criterion: Criterion) -> CustomCriterion:
    """The callable that ``file.py:function`` (or ``package.module:function``) names; a callable is itself.

    Raises:
        InvalidInput: there is no such file or name, or it cannot be called.
    """
    if not isinstance(criterion, str):
        return criterion
    from ..load import find

    try:
        found = find(criterion)
    except InvalidInput as error:
        raise InvalidInput(f"prune: criterion {criterion}: {error}") from error
    if not callable(found):
        raise InvalidInput(
            f"prune: criterion {criterion}: expected a function (weight, axis) -> scores, got {type(found).__name__}"
        )
    own: CustomCriterion = found
    return own


def scored(criterion: Criterion, function: CustomCriterion, weight: Tensor, site: Site) -> Tensor:
    """What ``function`` returns for the weight at ``site``, (weight.shape[axis],), as float64.

    Raises:
        InvalidInput: it fails, or does not return one finite score per slice.
    """
    name, axis = site
    place = f"prune: criterion {criterion_name(criterion)} on {name}, dimension {axis}"
    count = weight.shape[axis]
    try:
        with torch.no_grad():
            scores = function(weight.detach(), axis)
    except Exception as error:
        raise InvalidInput(f"{place}: it failed: {type(error).__name__}: {error}") from error
    expected = f"expected a tensor of {count} scores, one for each index of the dimension"
    if not isinstance(scores, Tensor):
        raise InvalidInput(f"{place}: {expected}, got {type(scores).__name__}")
    if tuple(scores.shape) != (count,) or scores.is_complex():
        raise InvalidInput(f"{place}: {expected}, got shape {tuple(scores.shape)} of {scores.dtype}")
    scores = scores.detach().double()
    if not bool(torch.isfinite(scores).all()):
        bad = int((~torch.isfinite(scores)).sum())
        raise InvalidInput(f"{place}: {bad} of {count} scores are not finite (NaN or infinity)")
    return scores
