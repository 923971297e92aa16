"""What a module becomes by an edit of the kind ``module``: the one place that lists what features put in its place."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping

from torch import nn

from .compact.substitutions import SUBSTITUTIONS, Substitution
from .errors import InvalidInput
from .rounding.inputs import names_rounding, rounding_inputs, rounds_inputs


def depthwise_like(norm: nn.Module) -> nn.Conv2d:
    """A depthwise convolution of 1x1 with the channels of a batch norm; its weights are yet to be set."""
    channels = int(norm.num_features)  # type: ignore[arg-type]
    return nn.Conv2d(channels, channels, 1, groups=channels)


REPLACEMENTS: Mapping[str, Callable[[nn.Module], nn.Module]] = {
    "Identity": lambda _: nn.Identity(),
    "Conv2d": depthwise_like,
}
"""By the name of the new class; given the old module."""

ROUNDING = "rounding "
"""Before what :func:`compress.rounding.inputs.rounding_of` understands: the layer rounds what it reads."""

SUBSTITUTED = "substitution "
"""Before the name of a substitution, or a mapping in JSON from it to its settings."""


def substituted(substitution: Substitution) -> str:
    """How an edit says that ``substitution`` stands in the place of a layer."""
    written = substitution.model_dump(mode="json")
    return SUBSTITUTED + (written if isinstance(written, str) else json.dumps(written, sort_keys=True))


def replacement(module: nn.Module, wanted: str) -> nn.Module:
    """What ``module`` becomes.

    Args:
        wanted: a name of :data:`REPLACEMENTS`, :data:`ROUNDING` and how the inputs are rounded, or what
            :func:`substituted` gives.

    Raises:
        InvalidInput: there is no such replacement, or not of this module.
    """
    kind = type(module).__name__
    if wanted.startswith(ROUNDING):
        rounding = wanted.removeprefix(ROUNDING)
        if not rounds_inputs(module) or not names_rounding(rounding):
            raise InvalidInput(f"edit of a {kind} to {wanted}: expected a convolution or linear layer and a rounding")
        return rounding_inputs(module, rounding)
    if wanted.startswith(SUBSTITUTED):
        return _substitute(module, wanted)
    if wanted not in REPLACEMENTS:
        raise InvalidInput(f"edit to {wanted}: expected one of {', '.join(REPLACEMENTS)}; it is no edit of ours")
    if wanted == "Conv2d" and not isinstance(getattr(module, "num_features", None), int):
        raise InvalidInput(f"edit of a {kind} to {wanted}: expected a batch norm there; its source has changed")
    return REPLACEMENTS[wanted](module)


def _substitute(module: nn.Module, wanted: str) -> nn.Module:
    try:
        substitution = SUBSTITUTIONS.read(wanted.removeprefix(SUBSTITUTED))
    except ValueError as error:
        raise InvalidInput(f"edit to {wanted}: {error}; it is no edit of ours") from error
    reason = substitution.obstacle(module) if substitution.wants(module) else f"it is a {type(module).__name__}"
    if reason is not None:
        raise InvalidInput(f"edit of a {type(module).__name__} to {wanted}: {reason}; its source has changed")
    return substitution.build(module).train(module.training)
