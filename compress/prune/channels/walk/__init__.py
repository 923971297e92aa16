"""Labels flow through the traced graph: which elements of which tensors are one channel.

Every index of every dimension of every parameter gets an integer label. Labels then follow the values of the graph:

- an operation that moves data is run on the labels themselves, so that concatenation, channel and pixel shuffle and
  flattening need no cases of their own (``movement.py``);
- an elementwise operation makes the labels that meet equal (``pointwise.py``);
- a product over a dimension, with a weight or of two activations, ends the labels there, and its output carries those
  of the dimensions that remain (``products.py``);
- statistics over channels are taken over those that are left (``normalization.py``);
- whatever is not known, and whatever would change the rest of the network, pins the labels that reach it: they stay.

What has become equal is removed together. By construction the network without those elements equals the network in
which they are masked: zero wherever a product or a sum consumes them, absent wherever statistics are taken.
"""

from __future__ import annotations

from collections.abc import Mapping

from ....graph.trace import Graph
from ..labels import Labels
from . import movement, normalization, pointwise, products  # noqa: F401  (they register their rules)
from .rules import RULES
from .walker import Walker

__all__ = ["walk"]


def walk(
    graph: Graph, choices: Mapping[str, int] | None = None, labels: Labels | None = None, *, exact: bool = False
) -> Labels:
    """The labels of a graph that was traced with static shapes.

    Args:
        choices: how to read the places that can be read in several ways, by their keys (the first way).
        labels: those of another graph of the same network (in training mode), which this one adds to.
        exact: follow every channel through splits and shuffles on its own, instead of tying those that have to go
            together for the parts to stay equal.
    """
    walker = Walker(graph, RULES, choices or {}, labels or Labels(), exact)
    walker.run()
    return walker.labels
