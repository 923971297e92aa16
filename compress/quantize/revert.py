"""Layers that are slower in integers than in float compute in float, as a clock tells for the target.

The float and the integer network are profiled part by part; where the engine tells no parts, the network is timed
with some consecutive layers in float at a time, and then with each of those alone that gain together. The run of
consecutive layers in which floats gain most is taken out of the integers, and the network is timed against the one
before in one interleaved loop; the change stays if it is faster. This repeats until nothing more is gained, and
leaves something in integers, unless the fastest is asked for: then nothing stays in integers where the float network
is still the faster one. Where it is asked for, kinds of operations (:mod:`.patterns`) are tried in float as a whole
before that, in the same way. In the end all changes together are held against all in integers, in one more loop, and
stay if they are faster. Weights of layers that compute in float stay stored in integers, a quarter of the bytes, and
are restored when the file is loaded. What the boundaries cost (conversions, changes of layout) counts for the layer
that they lead to.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from functools import cached_property

from torch import Tensor, nn

from ..clock import Clock, Part, Timed
from ..errors import GateFailed, InvalidInput
from ..graph.trace import Graph, one_sample, trace
from ..integers.encoding import Encoding
from ..integers.placement import Placement, encoded_placement, without_layers
from ..stage import Progress, Skip, silent
from .patterns import Group, groups_of

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
        groups: kinds of operations that are in float as a whole.
    """

    encodings: Mapping[str, Encoding]
    skipped: tuple[Skip, ...]
    float_ms: float
    integer_ms: float
    kept_ms: float
    groups: tuple[str, ...] = ()

    def told(self) -> str:
        """In words, how many weights went back to float, and the latencies with and without."""
        weights = [encoding for encoding in self.encodings.values() if encoding.symmetric or encoding.levels]
        floats = sum(encoding.restored for encoding in weights)
        words = f"{floats} of {len(weights)} weights" if floats else "none"
        words = f"slower in integers, so restored to float at load: {words}"
        words += f"; computed in float: {', '.join(self.groups)}" if self.groups else ""
        words += f"; {self.kept_ms:.3f} ms"
        if floats or self.groups:
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
    patterns: bool = False,
    progress: Progress = silent,
) -> Reversion:
    """The encodings without those of layers that are slower in integers, as ``clock`` tells of single samples.

    Args:
        model: the network as the stage Quantize leaves it.
        fastest: leave nothing in integers where all in float is faster still.
        patterns: try kinds of operations in float as a whole before single layers.
    """
    network = _Network(model, dict(encodings), one_sample(example_inputs))
    search = _Search.begun(network, clock, may_be_empty=fastest)
    integer_ms, first = search.best_ms, search.best
    for group in groups_of(network.graph, network.placement()) if patterns else ():
        progress("revert what is slower", 0, ROUNDS, f"{group.name}; {search.told()}")
        search.try_group(group)
    profiles = _Profiles.of(network, clock, search.plain, search.best)
    tried = set(search.layers)
    for number in range(ROUNDS):
        progress("revert what is slower", number, ROUNDS, search.told())
        region = slowest(profiles.integers, profiles.floats, tried)
        if region is None or region.integer_ms - region.float_ms < GAIN * search.best_ms:
            break
        tried |= set(region.parts)
        layers = {layer for part in region.parts for layer in profiles.layers[part]}
        if search.take(layers) is not None:
            search.skipped += [Skip(layer, f"kept in float: {profiles.told(region)}") for layer in sorted(layers)]
            profiles.renew(clock, search.best)
    progress("revert what is slower", ROUNDS, ROUNDS)
    if search.best is not first:  # each change was held against the one before it, in a loop of its own
        search.float_ms, integer_ms, search.best_ms = clock.ms_of((search.plain, first, search.best))
        if search.best_ms > (1 - GAIN) * integer_ms:
            search = replace(search, best=first, best_ms=integer_ms, groups=[], skipped=[])
    if fastest and search.best_ms > search.float_ms:
        latencies = f"{search.best_ms:.3f} ms in integers, {search.float_ms:.3f} ms in float"
        skip = Skip("", f"kept in float: the network takes {latencies}")
        return Reversion(network.all_floats(), (skip,), search.float_ms, integer_ms, search.float_ms)
    return Reversion(
        search.best.encodings, tuple(search.skipped), search.float_ms, integer_ms, search.best_ms, tuple(search.groups)
    )


@dataclass
class _Search:
    """The fastest form of a network so far, and what is in float in it; latencies are those of the last loop.

    Args:
        plain: all in float.
        may_be_empty: nothing has to stay in integers.
        groups: that are in float as a whole, by name.
    """

    network: _Network
    clock: Clock
    plain: Timed
    best: Timed
    float_ms: float
    best_ms: float
    may_be_empty: bool
    layers: set[str] = field(default_factory=set)
    operations: set[str] = field(default_factory=set)
    groups: list[str] = field(default_factory=list)
    skipped: list[Skip] = field(default_factory=list)

    @classmethod
    def begun(cls, network: _Network, clock: Clock, *, may_be_empty: bool) -> _Search:
        """With all in integers."""
        plain, best = network.timed({}), network.timed(network.encodings)
        float_ms, best_ms = clock.ms_of((plain, best))
        return cls(network, clock, plain, best, float_ms, best_ms, may_be_empty)

    def told(self) -> str:
        """The latencies, in words."""
        return f"{self.best_ms:.3f} ms, float {self.float_ms:.3f} ms"

    def take(self, layers: Set[str], operations: Set[str] = frozenset()) -> float | None:
        """The ms that the network gains with these in float as well, which it has so from now on; None where it gains
        too little to be told from noise, or nothing would stay in integers.
        """
        layers, operations = self.layers | layers, self.operations | operations
        candidate = self.network.with_floats(layers, operations)
        everything = all(candidate[name].restored for name in self.network.weights)
        if candidate == dict(self.best.encodings) or (everything and not self.may_be_empty):
            return None
        changed = self.network.timed(candidate)
        self.float_ms, before_ms, changed_ms = self.clock.ms_of((self.plain, self.best, changed))
        self.best_ms = before_ms
        if changed_ms > (1 - GAIN) * before_ms:
            return None
        self.best, self.best_ms, self.layers, self.operations = changed, changed_ms, set(layers), set(operations)
        return before_ms - changed_ms

    def try_group(self, group: Group) -> None:
        """Compute a group in float, if the network is faster so."""
        try:
            gained_ms = self.take(group.layers, group.operations)
        except (GateFailed, InvalidInput) as error:
            self.skipped.append(Skip("", f"{group.name} cannot be tried in float: {error}"))
            return
        if gained_ms is not None:
            self.groups.append(group.name)
            why = f"kept in float: the network is {gained_ms:.3f} ms faster with its {group.name} in float"
            self.skipped += [Skip(layer, why) for layer in group.places]


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

    def with_floats(self, layers: Set[str], operations: Set[str] = frozenset()) -> dict[str, Encoding]:
        """The encodings with these layers and operations in float, weights stored in integers all the same."""
        left = without_layers(self.graph, self.encodings, layers, operations)
        return left | {name: self._restored(name) for name in self.weights if name not in left}

    def all_floats(self) -> dict[str, Encoding]:
        """The encodings of the weights alone, to be restored to float at load."""
        return {name: self._restored(name) for name in self.weights}

    def placement(self) -> Placement:
        """What is in integers."""
        return encoded_placement(self.graph, self.encodings)

    def layers(self) -> list[str]:
        """The names of the layers with weights in integers, in the order in which they run."""
        return list(dict.fromkeys(product.layer for product in self.placement().products))

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
