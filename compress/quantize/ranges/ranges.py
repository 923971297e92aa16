"""The ranges of activations and weights, from which the encodings of a network follow."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Literal

from torch import Tensor

from ...core.settings import setting
from ...graph.trace import Graph
from ...integers.encoding import Encoding
from ...integers.joins import joins
from ...stage import Config, Samples
from ..scheme import SCHEMES, Scheme
from ..state import Job, State
from .calibration import Watcher, observe
from .observers import FAR, Calibration, Spread, WeightCalibration, observer_of

_LOG = logging.getLogger(__name__)

Ends = Literal["float", "w8", "same"]
"""What becomes of the first and the last layer where weights have few levels."""


class Ranges(Config):
    """How the ranges of activations and weights follow from their values."""

    calibration: Calibration = setting(
        "minmax",
        "The range of an activation: all that was seen (minmax), moving averages of each batch's extremes "
        "(moving_average), all but extremes (percentile), or what rounds with the least divergence (entropy) or "
        "squared error (mse).",
        group="ranges",
        common=True,
    )
    samples: Samples = setting(
        256,
        "Calibration samples at most, for ranges and for all that recovers accuracy.",
        unit="samples",
        group="ranges",
        common=True,
    )
    weight_calibration: WeightCalibration = setting(
        "minmax",
        "The range of a weight: all its values, or what rounds with the least squared error.",
        group="ranges",
    )
    per_channel: bool = setting(
        True,
        "A range for each output channel (or block) of a weight; else one for all.",
        off="--per-tensor",
        group="ranges",
    )
    percentile: float = setting(
        99.99, "Of the values that stay at each end, for percentile.", group="ranges", gt=50, le=100
    )
    momentum: float = setting(
        0.9, "Of the averages, for moving_average.", flag="--calibration-momentum", group="ranges", ge=0, lt=1
    )

    def apply(self, state: State, job: Job, ends: Ends = "float") -> State:
        """With the encodings of everything that can be in integers.

        Args:
            ends: what the first and the last layer are in where weights have few levels.

        Raises:
            InvalidInput: there are no samples, they do not fit the network, or an activation is not finite.
        """
        encodings = self._of_weights(state, _rest(job.scheme, ends))
        if job.scheme.activation_bits is not None:
            state, activations = self._of_activations(state, job, job.scheme.activation_bits)
            encodings |= activations
        return state.after(encodings=encodings)

    def _of_weights(self, state: State, scheme: Scheme | None) -> dict[str, Encoding]:
        encodings: dict[str, Encoding] = {}
        for layer in state.placement.products:
            weight = state.graph.tensor(layer.node.args[1])
            assert weight is not None, layer.weight
            if layer.weight in state.levels:
                encodings[layer.weight] = state.levels[layer.weight]
            elif scheme is not None:
                encodings[layer.weight] = scheme.weight_encoding(
                    layer.weight, weight, self.weight_calibration, per_channel=self.per_channel
                )
        return encodings

    def _of_activations(self, state: State, job: Job, bits: int) -> tuple[State, dict[str, Encoding]]:
        """The encodings of values; where a join would drown what it joins, of a placement that leaves it in float."""
        measured, joined = state.placement.measured, joins(state.graph, state.placement) if bits <= 8 else {}
        observers = {
            at: observer_of(self.calibration, percentile=self.percentile, momentum=self.momentum, bits=bits)
            for at in measured.values()
        }
        spreads = {at: Spread() for at in observers}
        parts = {part: Spread() for each in joined.values() for part in each}
        watchers = {at: _all(observer.observe, spreads[at].observe) for at, observer in observers.items()}
        watchers |= {name: _all(*(w for w in (watchers.get(name), s.observe) if w)) for name, s in parts.items()}
        observe(state.graph, watchers, job.samples, job.count, job.context)
        apart = {name: reason for name, each in joined.items() if (reason := _drowned([parts[p] for p in each]))}
        if apart:
            return self._of_activations(state.with_apart(job, apart), job, bits)
        self._note(state.graph, spreads)
        ranges = {at: observer.range() for at, observer in observers.items()}
        return state, {name: Encoding((ranges[at][0],), (ranges[at][1],), bits) for name, at in measured.items()}

    def _note(self, graph: Graph, spreads: Mapping[str, Spread]) -> None:
        """Tell of activations whose range one value decides, and of those that are zero alone."""
        places = {node.name: graph.layer(node) or node.name for node in graph.nodes}
        wild = [f"{places[at]}: {s.largest:.3g}, others within {s.usual:.3g}" for at, s in spreads.items() if s.wild]
        if wild:
            cut = self.calibration in ("percentile", "entropy")
            advice = "they are cut off" if cut else "look at the samples, or take the calibration percentile or entropy"
            _LOG.warning(
                "calibration: values far beyond all others in %d activations (%s); %s",
                *(len(wild), _first_of(wild), advice),
            )
        zero = [places[at] for at, s in spreads.items() if s.largest == 0]
        if zero:
            _LOG.warning(
                "calibration: all values are zero in %d activations (%s): nothing tells their range; see the samples",
                *(len(zero), _first_of(zero)),
            )


def _rest(scheme: Scheme, ends: Ends) -> Scheme | None:
    """The scheme of weights that have not few levels; None where they are floats."""
    if scheme.kind != "levels":
        return scheme
    if scheme.activation_bits is not None:
        return SCHEMES["int8"]
    return SCHEMES["w8"] if ends == "w8" else None


def _all(*watchers: Watcher) -> Watcher:
    def watch(values: Tensor) -> None:
        for each in watchers:
            each(values)

    return watch


def _drowned(parts: list[Spread]) -> str:
    """Why these values are not to have one scale, in words; "" where they may."""
    sizes = sorted(part.largest for part in parts if part.largest > 0)
    if not sizes or sizes[-1] <= FAR * sizes[0]:
        return ""
    return (
        f"cat runs in float: it joins values within {sizes[-1]:.3g} and within {sizes[0]:.3g}, which keep scales of "
        "their own"
    )


def _first_of(places: list[str]) -> str:
    """The first three of ``places``, for a message."""
    return "; ".join(places[:3]) + ("; ..." if len(places) > 3 else "")
