"""Bias absorption: high biases before a ReLU move into the next layer, so that the values between have less range.

Nagel et al., "Data-Free Quantization through Weight Equalization and Bias Correction" (2019), section 4.1.3.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from ...data import Split
from ...graph.trace import Graph
from ...stage import Context, Edit, Skip
from ..moments import ChannelStatistics, Moments
from ..ranges.calibration import observe
from ..state import Job, State
from . import Need, Phase, Recovery
from .shared.layers import MARGIN, Way, layers_of, ways

DEVIATIONS = 3.0
"""How many standard deviations above 0 is what is absorbed (section 4.1.3)."""


class Absorb(Recovery):
    """Move high biases into the next layer: Nagel et al., "Data-Free Quantization" (2019), section 4.1.3."""

    phase: ClassVar[Phase] = "weights"
    rank: ClassVar[int] = 20

    @property
    def needs(self) -> frozenset[Need]:
        """Samples, what batch norms tell, and a bias in every layer."""
        return frozenset({"samples", "moments", "biases"})

    def apply(self, state: State, job: Job) -> State:
        """:func:`absorb`, with the moments of the layers whose biases moved."""
        done = absorb(state.graph, state.moments, job.samples, job.count, job.context)
        moments = {
            name: known.lowered(done.shifts[name]) if name in done.shifts else known
            for name, known in state.moments.items()
        }
        return state.after(done.edits, done.skipped, moments=moments)


@dataclass(frozen=True)
class Absorbed:
    """What was changed and what was not; the outputs of a layer are now ``shifts[weight name]`` (C,) lower."""

    edits: tuple[Edit, ...] = ()
    skipped: tuple[Skip, ...] = ()
    shifts: Mapping[str, Tensor] = field(default_factory=dict)


def absorb(graph: Graph, known: Mapping[str, Moments], split: Split, samples: int, context: Context) -> Absorbed:
    """Move high biases to the next layer, in the network of ``graph`` and in place.

    Equation 15: with ``c = max(0, mean - 3 deviations)`` of a channel before its ReLU, hardly a value is below c, so
    that c taken off the bias before and ``W c`` added to the bias after changes hardly an output, and the values
    between have a smaller range. Where the next layer pads with zeros it would be wrong at the borders, and is not
    done; channels that reach the bound of a ReLU6 stay as well.

    Args:
        known: moments of the layers' outputs by weight name; those of other layers are measured on the samples.

    Raises:
        InvalidInput: the samples do not fit the network.
    """
    usable = [way for way in ways(graph, layers_of(graph)) if isinstance(way, Way)]
    seen = {way.before.node.name: ChannelStatistics(way.before.dim) for way in usable}
    watchers = {name: statistics.observe for name, statistics in seen.items()}
    if not usable:
        return Absorbed()
    observe(graph, watchers, split, samples, context, activity="measure channels")
    edits: list[Edit] = []
    skipped: list[Skip] = []
    shifts: dict[str, Tensor] = {}
    for way in usable:
        statistics = seen[way.before.node.name]
        moments = known.get(way.before.weight_name, statistics.moments)
        assert moments.deviation is not None and statistics.highest is not None
        high = (moments.mean - DEVIATIONS * moments.deviation).clamp_min(0)
        high = torch.where(MARGIN * statistics.highest > way.bound, 0.0, high)
        if not bool(high.any()):
            continue
        if reason := _unabsorbed(way):
            skipped.append(Skip(way.before.name, f"high biases are not absorbed: {reason}"))
            continue
        assert way.before.bias is not None and way.after.bias is not None
        shifts[way.before.weight_name] = high
        way.before.bias = way.before.bias - high
        way.after.bias = way.after.bias + way.after.response(high.repeat_interleave(way.repeats))
        for layer, after in ((way.before, f"absorbed into {way.after.name}"), (way.after, f"with {way.before.name}'s")):
            layer.store()
            owner, _, attribute = str(layer.bias_name).rpartition(".")
            edits.append(Edit(owner, attribute, "as stored", f"high biases {after}", "weights"))
    return Absorbed(tuple(edits), tuple(skipped), shifts)


def _unabsorbed(way: Way) -> str:
    if way.before.bias is None or way.after.bias is None:
        bare = way.before if way.before.bias is None else way.after
        return f"{bare.name or bare.weight_name} has no bias"
    if not way.shifts:
        return f"{way.after.name or way.after.weight_name} sees zeros from padding"
    return ""
