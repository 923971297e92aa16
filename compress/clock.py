"""How long networks take on a target: what stages may ask. Who writes files and runs engines is above them.

A stage knows no engine. It says which networks it wants timed, and :class:`Clock` tells milliseconds; the one that
commands and recipes give to stages is :class:`compress.deploy.clock.MachineClock`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from torch import Tensor, nn

from .integers.encoding import Encoding

Precision = Literal["float", "int8"]


@dataclass(frozen=True)
class LayerShape:
    """What decides the latency of a convolution or linear layer.

    Args:
        inputs: channels or features.
        outputs: likewise.
        size: (H, W) of a convolution's input; (1, rows) of a linear layer's.
        kernel: and stride, padding, dilation as (vertical, horizontal).
    """

    kind: Literal["conv", "linear"]
    inputs: int
    outputs: int
    size: tuple[int, int]
    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1

    def __str__(self) -> str:
        """One line that tells it from all others.

        >>> str(LayerShape("conv", 16, 32, (32, 32), (3, 3), (2, 2), (1, 1)))
        'conv 16>32 at 32x32 kernel 3x3 stride 2x2 padding 1x1 dilation 1x1 groups 1'
        """
        text = f"{self.kind} {self.inputs}>{self.outputs} at {self.size[0]}x{self.size[1]}"
        if self.kind == "linear":
            return text
        pairs = (
            ("kernel", self.kernel),
            ("stride", self.stride),
            ("padding", self.padding),
            ("dilation", self.dilation),
        )
        return " ".join((text, *(f"{name} {a}x{b}" for name, (a, b) in pairs), f"groups {self.groups}"))


@dataclass(frozen=True, eq=False)
class Timed:
    """A network to time, as its file is deployed. Two are the same only if they are one object: files are written once.

    Args:
        model: in evaluation mode, its batch norms folded.
        inputs: of one sample, (1, ...) each.
        encodings: of what is in integers, by parameter name and by node of the trace; none is a network in float.
    """

    model: nn.Module
    inputs: tuple[Tensor, ...]
    encodings: Mapping[str, Encoding] = field(default_factory=dict)


@dataclass(frozen=True)
class Part:
    """What an engine runs as one: a layer with weights, and those that follow it at once.

    Args:
        layers: their names, the one with weights first.
        ms: of the part.
    """

    layers: tuple[str, ...]
    ms: float

    @property
    def name(self) -> str:
        """The name of the part: that of the layer in it that has weights."""
        return self.layers[0]


@dataclass(frozen=True)
class StoredBytes:
    """What a network's file stores: in all, and what belongs to one layer alone, by its name."""

    total: int
    layers: Mapping[str, int]


class Clock(Protocol):
    """How long networks take in the files of one target, in the target's engine, on one device.

    A network is timed on one sample. Times of different calls are not to be compared: what else a device does differs
    from one second to the next; networks of one call are run in turn.
    """

    @property
    def target(self) -> str:
        """Whose files are timed: "ort-x86"."""
        ...

    @property
    def native(self) -> str:
        """The target for the device's own processor: whose files are timed where none is named."""
        ...

    @property
    def engine(self) -> str:
        """What runs them, for people: "ONNX Runtime"."""
        ...

    @property
    def processor(self) -> str:
        """That they run on."""
        ...

    @property
    def threads(self) -> int:
        """That one operation may use."""
        ...

    @property
    def conditions(self) -> Mapping[str, str | int]:
        """What a latency depends on besides the network: times that were taken under others do not hold."""
        ...

    def on(self, target: str | None, threads: int) -> Clock:
        """A clock like this one, for ``target`` (None is this one's own) and so many threads.

        Raises:
            InvalidInput: files of that target are not run here; says why.
        """
        ...

    def ms(self, network: Timed) -> float:
        """The latency of a network in ms."""
        ...

    def ms_of(self, networks: Sequence[Timed]) -> list[float]:
        """The latency of each network in ms, run in turn in one loop."""
        ...

    def profile(self, network: Timed) -> tuple[Part, ...] | None:
        """What each part of a network takes, in the order in which they run; None where the engine does not tell."""
        ...

    def layers_ms(self, layers: Sequence[LayerShape], precision: Precision) -> list[float]:
        """The latency of each layer alone in ms, from float to float, run in turn in one loop."""
        ...

    def stored_bytes(self, network: Timed) -> StoredBytes:
        """What the ONNX file of a network stores for this machine, whatever the target."""
        ...
