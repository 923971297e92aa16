"""Layers that are slower in integers than in float compute in float, as a clock tells for the target.

The float and the integer network are profiled part by part; where the engine tells no parts, the network is timed
with some consecutive layers in float at a time, and then with each of those alone that gain together. The run of
consecutive layers in which floats gain most is taken out of the integers, and the network is timed against the one
before in one interleaved loop; the change stays if it is faster. This repeats until nothing more is gained, and
leaves something in integers, unless the fastest is asked for: then nothing stays in integers where the float network
is still the faster one. Weights of layers that compute in float stay stored in integers, a quarter of the bytes, and
are restored when the file is loaded. What the boundaries cost (conversions, changes of layout) counts for the layer
that they lead to.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from torch import Tensor, nn

from ..clock import Clock, Part, Timed
from ..graph.trace import Graph, one_sample, trace
from ..integers.encoding import Encoding
from ..integers.placement import encoded_placement, without_layers
from ..stage import Progress, Skip, silent

ROUNDS = 6
"""The most regions that are tried."""

GAIN = 0.01
"""What a change must gain, of the latency, to be told from noise."""

MARGIN = 0.15
"""Parts in which floats gain less than this stay in integers, which take fewer bytes."""

MOST_GROUPS = 8
"""Groups of layers that are timed at first where the engine tells no parts: each takes a file, and seconds of runs."""


@dataclass(frozen=True)
class Reversion:
    """Encodings of which layers that are slower in integers went back to float, and the latencies that say so.

    Args:
        encodings: those that are left; of layers that compute in float, those of their weights, to be restored.
        skipped: the layers that went back, with what they took in integers and in float.
        float_ms: the latency of the network in float.
        integer_ms: with all in integers.
        kept_ms: with what is left.
    """

    encodings: Mapping[str, Encoding]
    skipped: tuple[Skip, ...]
    float_ms: float
    integer_ms: float
    kept_ms: float

    def told(self) -> str:
        """In words, how many weights went back to float, and the latencies with and without."""
        weights = [encoding for encoding in self.encodings.values() if encoding.symmetric or encoding.levels]
        floats = sum(encoding.restored for encoding in weights)
        words = f"{floats} of {len(weights)} weights" if floats else "none"
        words = f"slower in integers, so restored to float at load: {words}; {self.kept_ms:.3f} ms"
        if floats:
            words += f" instead of {self.integer_ms:.3f} ms all in integers"
        words += f", {self.float_ms:.3f} ms all in float"
        return words + (" (fastest would keep that)" if self.float_ms < self.kept_ms else "")


@dataclass(frozen=True)
class Region:
    """Consecutive parts of a network, and what they take in either form, in ms."""

    parts: tuple[str, ...]
    integer_ms: float
    float_ms: float

    @property
    def gained_ms(self) -> float:
        """Milliseconds that the region gains in float, beyond the margin; negative where it gains less."""
        return (1 - MARGIN) * self.integer_ms - self.float_ms


def revert_slower(
    model: nn.Module,
    encodings: Mapping[str, Encoding],
    example_inputs: tuple[Tensor, ...],
    clock: Clock,
    *,
    fastest: bool = False,
    progress: Progress = silent,
) -> Reversion:
    """The encodings without those of layers that are slower in integers, as ``clock`` tells of single samples.

    Args:
        model: the network as the stage Quantize leaves it.
        fastest: leave nothing in integers where all in float is faster still.
    """
    network = _Network(model, dict(encodings), one_sample(example_inputs))
    plain, best = network.timed({}), network.timed(encodings)
    float_ms, best_ms = clock.ms_of((plain, best))
    integer_ms, best_encodings, skipped = best_ms, dict(encodings), list[Skip]()
    profiles = _Profiles.of(network, clock, plain, best)
    reverted: set[str] = set()
    tried: set[str] = set()
    for number in range(ROUNDS):
        progress("revert what is slower", number, ROUNDS, f"{best_ms:.3f} ms, float {float_ms:.3f} ms")
        region = slowest(profiles.integers, profiles.floats, tried)
        if region is None or region.integer_ms - region.float_ms < GAIN * best_ms:
            break
        tried |= set(region.parts)
        layers = {layer for part in region.parts for layer in profiles.layers[part]}
        candidate = network.with_floats(reverted | layers)
        if not fastest and all(candidate[name].restored for name in network.weights):
            continue
        changed = network.timed(candidate)
        float_ms, best_ms, changed_ms = clock.ms_of((plain, best, changed))
        if changed_ms > (1 - GAIN) * best_ms:
            continue
        best, best_ms, best_encodings = changed, changed_ms, candidate
        profiles.renew(clock, best)
        reverted |= layers
        skipped += [Skip(layer, f"kept in float: {profiles.told(region)}") for layer in sorted(layers)]
    progress("revert what is slower", ROUNDS, ROUNDS)
    if fastest and best_ms > float_ms:
        latencies = f"{best_ms:.3f} ms in integers, {float_ms:.3f} ms in float"
        skip = Skip("", f"kept in float: the network takes {latencies}")
        return Reversion(network.all_floats(), (skip,), float_ms, integer_ms, float_ms)
    return Reversion(best_encodings, tuple(skipped), float_ms, integer_ms, best_ms)


@dataclass(frozen=True)
class _Network:
    """A quantized network, and its forms with layers in float; ``inputs`` are one sample."""

    model: nn.Module
    encodings: Mapping[str, Encoding]
    inputs: tuple[Tensor, ...]

    @cached_property
    def graph(self) -> Graph:
        """What it computes."""
        return trace(self.model, self.inputs, dynamic_batch=True)

    @property
    def weights(self) -> list[str]:
        """The names of the weights in integers."""
        return [name for name, _ in self.model.named_parameters() if name in self.encodings]

    def timed(self, encodings: Mapping[str, Encoding]) -> Timed:
        return Timed(self.model, self.inputs, encodings)

    def with_floats(self, layers: set[str]) -> dict[str, Encoding]:
        """The encodings with these layers in float, their weights stored in integers all the same."""
        left = without_layers(self.graph, self.encodings, layers)
        return left | {name: self._restored(name) for name in self.weights if name not in left}

    def all_floats(self) -> dict[str, Encoding]:
        """The encodings of the weights alone, to be restored to float at load."""
        return {name: self._restored(name) for name in self.weights}

    def layers(self) -> list[str]:
        """The names of the layers with weights in integers, in the order in which they run."""
        placement = encoded_placement(self.graph, self.encodings)
        return list(dict.fromkeys(product.layer for product in placement.products))

    def _restored(self, name: str) -> Encoding:
        return replace(self.encodings[name], restored=True)


@dataclass
class _Profiles:
    """What each part of a network takes in integers and in float, in ms.

    Where the engine does not tell, ``integers`` and ``floats`` differ by what the whole network gains with that part in
    float, and one of them is zero.
    """

    integers: dict[str, float]
    floats: dict[str, float]
    layers: dict[str, set[str]] = field(default_factory=dict)
    told_by_engine: bool = True

    @classmethod
    def of(cls, network: _Network, clock: Clock, plain: Timed, integers: Timed) -> _Profiles:
        profiles = [clock.profile(each) for each in (plain, integers)]
        profiles_read = cls({}, {})
        if all(profile is not None for profile in profiles):
            profiles_read.floats, profiles_read.integers = (profiles_read._noted(profile or ()) for profile in profiles)
            return profiles_read
        gains = _gains(network, clock, integers)
        return cls(
            {layers[0]: max(gain, 0.0) for layers, gain in gains},
            {layers[0]: max(-gain, 0.0) for layers, gain in gains},
            {layers[0]: set(layers) for layers, _ in gains},
            told_by_engine=False,
        )

    def renew(self, clock: Clock, integers: Timed) -> None:
        """Profile the network in integers again, where the engine tells its parts."""
        profile = clock.profile(integers) if self.told_by_engine else None
        if profile is not None:
            self.integers = self._noted(profile)

    def told(self, region: Region) -> str:
        """In words, why a region is in float."""
        if self.told_by_engine:
            return f"its region takes {region.integer_ms:.3f} ms in integers, {region.float_ms:.3f} ms in float"
        return f"the network is {region.integer_ms - region.float_ms:.3f} ms faster with its region in float"

    def _noted(self, profile: Iterable[Part]) -> dict[str, float]:
        """What a profile tells of each part; its layers are remembered."""
        for part in profile:
            self.layers.setdefault(part.name, set()).update(part.layers)
        return {part.name: part.ms for part in profile}


def _gains(network: _Network, clock: Clock, integers: Timed) -> list[tuple[tuple[str, ...], float]]:
    """Consecutive layers, in the order in which they run, and the ms that the network gains with them in float."""

    def timed(parts: Sequence[tuple[str, ...]]) -> tuple[float, list[float]]:
        changed = [network.timed(network.with_floats(set(layers))) for layers in parts]
        whole_ms, *changed_ms = clock.ms_of((integers, *changed))
        return GAIN * whole_ms, [whole_ms - ms for ms in changed_ms]

    names = network.layers()
    size = -(-len(names) // MOST_GROUPS)
    groups = [tuple(names[start : start + size]) for start in range(0, len(names), size)]
    least, of_groups = timed(groups)
    split = [layers for layers, gain in zip(groups, of_groups, strict=True) if len(layers) > 1 and gain > least]
    alone: dict[str, float] = {}
    if split:
        each = [(layer,) for layers in split for layer in layers]
        alone = {layer: gain for (layer,), gain in zip(each, timed(each)[1], strict=True)}
    gains: list[tuple[tuple[str, ...], float]] = []
    for layers, gain in zip(groups, of_groups, strict=True):
        apart = [((layer,), alone[layer]) for layer in layers if layer in alone]
        better_apart = apart and sum(max(0.0, gain_ms) for _, gain_ms in apart) > gain
        gains += apart if better_apart else [(layers, gain)]
    return gains


def without(
    model: nn.Module, encodings: Mapping[str, Encoding], example_inputs: tuple[Tensor, ...], layers: set[str]
) -> dict[str, Encoding]:
    """``encodings`` with these layers in float: of what is still read or made in integers."""
    return without_layers(trace(model, example_inputs, dynamic_batch=True), encodings, layers)


def slowest(integers: Mapping[str, float], floats: Mapping[str, float], tried: set[str]) -> Region | None:
    """The run of consecutive parts that floats speed up most, beyond the margin, or None where they speed up none.

    Args:
        integers: ms of each part in the integer file, in the order in which they run.
        floats: likewise, in the float file.
        tried: parts that are not looked at again; a run ends there.

    >>> slowest({"a": 1.0, "b": 3.0, "c": 2.0, "d": 1.0}, {"a": 2.0, "b": 1.0, "c": 1.5, "d": 1.0}, set())
    Region(parts=('b', 'c'), integer_ms=5.0, float_ms=2.5)
    """
    best: Region | None = None
    run: list[str] = []
    for part in integers:
        if part in tried or part not in floats:
            run = []
            continue
        run.append(part)
        if sum((1 - MARGIN) * integers[each] - floats[each] for each in run) <= 0:
            run = []
            continue
        region = Region(tuple(run), sum(integers[each] for each in run), sum(floats[each] for each in run))
        if best is None or region.gained_ms > best.gained_ms:
            best = region
    return best
