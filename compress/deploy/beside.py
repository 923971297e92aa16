"""What a file in integers is always timed beside."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

from ..quantize import Quantize, TargetName
from ..quantize.scheme import SchemeName
from ..siblings import runtimes
from ..sources.load import Network
from ..stage import Context
from .write import kind_of


def beside(network: Network, target: TargetName) -> list[tuple[str, Network]]:
    """The networks that one in integers is always timed beside for ``target``, by scheme: float16 often is as fast.

    Raises:
        InvalidInput: a weight is too large for float16.
    """
    if kind_of(network) != "integer":
        return []
    context = Context(network.example_inputs)
    made = []
    for scheme in runtimes.facts.targets()[target].beside:
        result = Quantize(scheme=cast(SchemeName, scheme)).apply(network.model, context)
        made.append((scheme, replace(network, model=result.model, encodings=dict(result.encodings))))
    return made
