"""What each layer takes in each precision, as a clock tells of networks as they are deployed: stored bytes, or ms.

Networks in one precision throughout are looked at. What belongs to one layer alone is that layer's cost; the rest is
shared. A sum of costs is near what a mixed choice takes, not the same (neighbours share constants and conversions), so
that a choice is measured as a whole before it is taken.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from ...clock import Clock, Part, Timed
from ...graph.trace import one_sample
from ...integers.encoding import Encoding
from .precisions import BITS, Candidates, Precision, Unit


@dataclass(frozen=True)
class Costs:
    """What the units of a network cost.

    Args:
        units: by unit and precision.
        rest: of the network, whatever the choice.
        whole: of the network in float.
    """

    units: Mapping[str, Mapping[Precision, float]]
    rest: float
    whole: float

    def of(self, chosen: Mapping[str, Precision]) -> float:
        """The cost of the network with the precision that is chosen for each unit, by name."""
        return self.rest + sum(self.units[name][precision] for name, precision in chosen.items())


class Gauge(Protocol):
    """What tells the costs of layers and networks in one unit: bytes of a file, or milliseconds."""

    @property
    def unit(self) -> str:
        """The unit of the costs in words: "bytes" or "ms"."""
        ...

    def costs(self, candidates: Candidates, precisions: Iterable[Precision]) -> Costs:
        """The costs of each layer, from a network in each precision."""
        ...

    def measured(self, candidates: Candidates, encodings: Mapping[str, Encoding]) -> float:
        """The cost of a whole network with these encodings."""
        ...


@dataclass(frozen=True)
class FileBytes:
    """The bytes of all tensors that the ONNX file for this machine stores: weights, biases, scales, zero points."""

    clock: Clock
    unit = "bytes"

    def costs(self, candidates: Candidates, precisions: Iterable[Precision]) -> Costs:
        """The bytes of each layer, from a file in each precision and one in float."""
        layer_bytes: dict[Precision, dict[str, int]] = {}
        rests: dict[Precision, int] = {}
        for precision in dict.fromkeys(("float", *precisions)):
            stored = self.clock.stored_bytes(_timed(candidates, candidates.encodings_of(candidates.uniform(precision))))
            layer_bytes[precision] = {unit.name: _bytes(unit, precision, stored.layers) for unit in candidates.units}
            rests[precision] = stored.total - sum(layer_bytes[precision].values())
        units = {unit.name: {p: float(layer_bytes[p][unit.name]) for p in layer_bytes} for unit in candidates.units}
        return Costs(units, max(rests.values()), rests["float"] + sum(layer_bytes["float"].values()))

    def measured(self, candidates: Candidates, encodings: Mapping[str, Encoding]) -> float:
        """The bytes of a whole network with these encodings, from its file."""
        return self.clock.stored_bytes(_timed(candidates, encodings)).total


@dataclass(frozen=True)
class Latency:
    """Latency in ms; of layers as profiled, scaled to the whole network's.

    Where the engine tells no parts, a layer's costs are 0 in int8, and what the network takes longer with that layer
    alone in float. 4-bit weights are unpacked to 8 bits when a file is loaded: they take what int8 takes.
    """

    clock: Clock
    unit = "ms"

    def costs(self, candidates: Candidates, precisions: Iterable[Precision]) -> Costs:
        """Those of each layer, from the network in float and in int8."""
        networks = [_timed(candidates, {}), _timed(candidates, candidates.encodings_of(candidates.uniform("int8")))]
        profiles = [self.clock.profile(network) for network in networks]
        if any(profile is None for profile in profiles):
            return self._differences(candidates, networks)
        whole_ms = self.clock.ms_of(networks)
        floats, integers = (
            _of_units(candidates.units, profile or (), total_ms)
            for profile, total_ms in zip(profiles, whole_ms, strict=True)
        )
        units: dict[str, Mapping[Precision, float]] = {
            name: {"float": floats[name], "int8": integers[name], "int4": integers[name]} for name in floats
        }
        return Costs(units, whole_ms[1] - sum(integers.values()), whole_ms[0])

    def measured(self, candidates: Candidates, encodings: Mapping[str, Encoding]) -> float:
        """The cost of a whole network with these encodings."""
        return self.clock.ms(_timed(candidates, encodings))

    def _differences(self, candidates: Candidates, networks: list[Timed]) -> Costs:
        """From the network in float and in int8, and with each unit alone in float."""
        all_int8 = candidates.uniform("int8")
        changed = [
            _timed(candidates, candidates.encodings_of({**all_int8, unit.name: "float"})) for unit in candidates.units
        ]
        float_ms, integer_ms, *changed_ms = self.clock.ms_of([*networks, *changed])
        units: dict[str, Mapping[Precision, float]] = {
            unit.name: {"float": ms - integer_ms, "int8": 0.0, "int4": 0.0}
            for unit, ms in zip(candidates.units, changed_ms, strict=True)
        }
        return Costs(units, integer_ms, float_ms)


def _timed(candidates: Candidates, encodings: Mapping[str, Encoding]) -> Timed:
    return Timed(candidates.model, one_sample(candidates.inputs), encodings)


def _of_units(units: Iterable[Unit], profile: Iterable[Part], total_ms: float) -> dict[str, float]:
    """The ms of each unit, the parts of a profile scaled so that they sum to ``total_ms``."""
    taken = {part.name: part.ms for part in profile}
    scale = total_ms / max(sum(taken.values()), 1e-9)
    return {unit.name: scale * sum(taken.get(layer, 0.0) for layer in dict.fromkeys(unit.layers)) for unit in units}


def _bytes(unit: Unit, precision: Precision, alone: Mapping[str, int]) -> int:
    """What a file told of the layers of ``unit``, or at least what its weight takes, where nodes are not named so."""
    named = sum(alone.get(layer, 0) for layer in unit.layers)
    bits = 32 if precision == "float" else BITS[precision]
    return max(named, -(-unit.tensor.numel() * bits // 8))
