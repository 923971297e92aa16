"""A clock whose times a test makes up: no file is written, no engine runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from compress.clock import LayerShape, Part, Precision, StoredBytes, Timed
from compress.deploy.clock import MachineClock
from compress.errors import InvalidInput
from compress.quantize.detect import detected


def _no_layer(layer: LayerShape) -> float:
    raise AssertionError("no layer is timed here")


def _no_profile(network: Timed) -> tuple[Part, ...] | None:
    return None


@dataclass(frozen=True)
class InventedClock:
    """Times of networks, parts and layers from functions; bytes are those of real files.

    Args:
        network_ms: of a network, or rows of times: one for each call, of its networks in turn.
        parts: of a network; by default the engine does not tell them.
        layer_ms: of a layer alone.
        refused: targets that do not run on the device.
        asked: the calls, one after the other.
    """

    network_ms: Callable[[Timed], float] | Iterator[Sequence[float]] = field(default_factory=lambda: iter(()))
    parts: Callable[[Timed], tuple[Part, ...] | None] = _no_profile
    layer_ms: Callable[[LayerShape], float] = _no_layer
    target: str = field(default_factory=lambda: detected().target)
    threads: int = 1
    version: str = "1"
    refused: tuple[str, ...] = ()
    asked: list[str] = field(default_factory=list)
    layers: list[LayerShape] = field(default_factory=list)
    engine = "Invented"
    native: str = field(default_factory=lambda: detected().target)
    processor = "a processor"

    @property
    def conditions(self) -> Mapping[str, str | int]:
        return {"engine": "invented", "engine version": self.version, "target": self.target, "threads": self.threads}

    def on(self, target: str | None, threads: int) -> InventedClock:
        if target in self.refused:
            raise InvalidInput(f"target {target}: it is not here")
        self.asked.append(f"on {target or self.target}, {threads}")
        return self

    def ms(self, network: Timed) -> float:
        return self.ms_of([network])[0]

    def ms_of(self, networks: Sequence[Timed]) -> list[float]:
        self.asked.append(f"time {len(networks)}")
        if callable(self.network_ms):
            return [self.network_ms(network) for network in networks]
        return list(next(self.network_ms))[: len(networks)]

    def profile(self, network: Timed) -> tuple[Part, ...] | None:
        self.asked.append("profile")
        return self.parts(network)

    def layers_ms(self, layers: Sequence[LayerShape], precision: Precision) -> list[float]:
        self.layers.extend(layers)
        return [self.layer_ms(layer) for layer in layers]

    def stored_bytes(self, network: Timed) -> StoredBytes:
        return MachineClock().stored_bytes(network)
