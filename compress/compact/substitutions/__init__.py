"""What may stand in the place of a layer: one substitution a file, found by its name; see :mod:`compress.core.parts`.

A substitution builds ordinary layers, which are pruned, quantized, folded and exported as any others. It is written
into artifacts as its name and settings, and building it again from the layer that it replaces gives the same shapes.
"""

from __future__ import annotations

from typing import Annotated

from torch import nn

from ...core.parts import Kind, Part
from ..observed import Observed


class Substitution(Part):
    """A compact module that computes nearly what a layer did."""

    def obstacle(self, layer: nn.Module) -> str | None:
        """Why ``layer`` cannot be replaced, or None. Layers of other types than :meth:`wants` are never asked about."""
        return None

    def wants(self, layer: nn.Module) -> bool:
        """Whether ``layer`` is of the type that is replaced, by default a 2d convolution."""
        return type(layer) is nn.Conv2d

    def build(self, layer: nn.Module) -> nn.Module:
        """The module in the place of ``layer``, on its device and in its precision; its weights are yet to be set."""
        raise NotImplementedError

    def initialize(self, substitute: nn.Module, layer: nn.Module, observed: Observed) -> None:
        """Set the weights of ``substitute``, in place, so that it gives what was observed from what ``layer`` read."""


SUBSTITUTIONS = Kind("substitution", __name__, Substitution, verb="build")
AnySubstitution = Annotated[Substitution, SUBSTITUTIONS]
"""A field's type: a substitution's name, a mapping from it to its settings, or an object."""
