"""Cross-layer equalization: channels of consecutive layers share their range evenly, without data.

Nagel et al., "Data-Free Quantization through Weight Equalization and Bias Correction" (2019), section 4.1. Scaling a
channel down in one layer and up in the next changes nothing in float, where what lies between scales along. A ReLU6
does so only where it does not clip, so that channels which reach its bound on calibration samples keep their scale.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ...data import Split
from ...graph.trace import Graph
from ...stage import Context, Edit, Skip
from ..moments import ChannelStatistics
from ..ranges.calibration import observe
from ..state import Job, State
from . import Phase, Recovery
from .shared.layers import MARGIN, Layer, Way, layers_of, ways

ROUNDS = 100
CONVERGED = 1e-3
"""The largest relative change of a scale at which equalization has settled."""


class Equalize(Recovery):
    """Even out the ranges of channels between consecutive layers: Nagel et al., "Data-Free Quantization" (2019)."""

    phase: ClassVar[Phase] = "weights"
    rank: ClassVar[int] = 10

    def apply(self, state: State, job: Job) -> State:
        """:func:`equalize`, with the moments of the layers that were scaled."""
        done = equalize(state.graph, job.samples, job.count, job.context)
        moments = {
            name: known.scaled(done.scales[name]) if name in done.scales else known
            for name, known in state.moments.items()
        }
        return state.after(done.edits, done.skipped, moments=moments)


@dataclass(frozen=True)
class Equalized:
    """What was changed and what was not; the outputs of a layer are now ``scales[weight name]`` (C,) as large."""

    edits: tuple[Edit, ...]
    skipped: tuple[Skip, ...]
    scales: Mapping[str, Tensor]


def equalize(graph: Graph, split: Split, samples: int, context: Context) -> Equalized:
    """Equalize the weights of the network of ``graph`` in place, over every way between two layers, until they settle.

    Their equation 11: channel i is divided by ``s_i = sqrt(r1_i / r2_i)`` in the first layer, whose largest weight of
    that channel is r1_i, and multiplied by it in the second, so that both have the range ``sqrt(r1_i r2_i)``. Layers
    whose output several others read, and shared weights, stay as they are.

    Args:
        split: calibration samples, of which ``samples`` are run where a way clips values from above.

    Raises:
        InvalidInput: the samples do not fit the network.
    """
    layers = layers_of(graph)
    candidates = list(ways(graph, layers))
    usable = [way for way in candidates if isinstance(way, Way)]
    skipped = [
        Skip(layer, f"not equalized: {why}") for layer, why in (way for way in candidates if isinstance(way, tuple))
    ]
    highest = _highest(graph, [way for way in usable if way.clip is not None], split, samples, context)
    scales: dict[str, Tensor] = {}
    partners: dict[Layer, list[Layer]] = {}
    for number in range(ROUNDS):
        largest = 0.0
        for way in usable:
            scale = 1 / _shares(way, highest.get(way.before.node.name))
            if way.clip is not None:
                highest[way.before.node.name] *= scale
            way.before.scale_outputs(scale)
            way.after.scale_inputs(1 / scale.repeat_interleave(way.repeats))
            scales[way.before.weight_name] = scales.get(way.before.weight_name, 1.0) * scale
            largest = max(largest, float((scale - 1).abs().max()))
        if largest < CONVERGED:
            context.progress("equalize", number + 1, number + 1)
            break
    for way in usable:
        partners.setdefault(way.before, []).append(way.after)
        partners.setdefault(way.after, []).append(way.before)
        if way.clip is not None and (count := int(_reached(way, highest[way.before.node.name]).sum())):
            total = way.before.outputs
            skipped.append(
                Skip(
                    way.before.name, f"not equalized in {count} of {total} channels: they reach the bound {way.bound:g}"
                )
            )
    edits = tuple(edit for layer, others in partners.items() for edit in _stored(layer, others))
    return Equalized(edits, tuple(dict.fromkeys(skipped)), scales)


def _shares(way: Way, highest: Tensor | None) -> Tensor:
    """``s_i`` of equation 11 (channels,); 1 where a channel is dead in one of the layers or is clipped between them."""
    first = way.before.output_ranges()
    second = way.after.input_ranges().view(-1, way.repeats).amax(1)
    alive = (first > 1e-6 * first.max()) & (second > 1e-6 * second.max())
    share = torch.where(alive, (first / second).sqrt(), 1.0)
    if highest is not None:  # values grow by 1 / s and must not reach the bound that they did not reach before
        share = torch.maximum(share, MARGIN * highest.clamp_min(0) / way.bound)
        share = torch.where(_reached(way, highest) | ~alive, 1.0, share)
    return share


def _reached(way: Way, highest: Tensor) -> Tensor:
    """The channels whose values reach the bound, (channels,); those scaled to just below it count as below."""
    return MARGIN * highest > way.bound * (1 + 1e-9)


def _highest(graph: Graph, clipped: list[Way], split: Split, samples: int, context: Context) -> dict[str, Tensor]:
    """The largest value of each channel that comes out of the first layer of each way, by the name of its node."""
    seen = {way.before.node.name: ChannelStatistics(way.before.dim) for way in clipped}
    if seen:
        watchers = {name: statistics.observe for name, statistics in seen.items()}
        observe(graph, watchers, split, samples, context, activity="measure channels")
    return {name: statistics.highest for name, statistics in seen.items() if statistics.highest is not None}


def _stored(layer: Layer, partners: Iterable[Layer]) -> Iterable[Edit]:
    layer.store()
    names = ", ".join(dict.fromkeys(partner.name or partner.weight_name for partner in partners))
    for name in (layer.weight_name, layer.bias_name):
        if name is not None:
            owner, _, attribute = name.rpartition(".")
            yield Edit(owner, attribute, "as stored", f"equalized with {names}", "weights")
