"""A file that an engine runs, and what it was made from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from ..quantize import TargetName
from ..siblings import runtimes
from ..sources.load import Network


@dataclass(frozen=True)
class Deployed:
    """A file to run.

    Args:
        name: for people.
        path: of the file that the engine is given.
        network: that it was made from, where that is known.
        target: whose integers it has; left out, those of this machine.
        engine: that runs it; left out, the one that its suffix names.
        binding: how the network's inputs and outputs are called in the file.
        beside: files that belong to it.
    """

    name: str
    path: Path
    network: Network | None = None
    target: TargetName | None = None
    engine: str | None = None
    binding: runtimes.bound.Binding = field(default_factory=runtimes.bound.Binding)
    beside: tuple[Path, ...] = ()

    def is_exact(self, device: runtimes.devices.device.Device | None = None) -> bool:
        """Whether ``device``, by default this machine, computes the file as the device of its target does."""
        in_float = self.network is not None and not self.network.encodings
        if self.target is None or in_float:
            return True
        return (device or runtimes.devices.local.LocalDevice()).is_exact(self.target)

    def load(self, threads: int = 1, device: runtimes.devices.device.Device | None = None) -> runtimes.runtime.Runtime:
        """The file in its engine on ``device``, by default this machine.

        Where that computes its integers otherwise than the device of its target, they are evaluated in floats.
        """
        where = device or runtimes.devices.local.LocalDevice()
        options = runtimes.runtime.Options(threads, reference=not self.is_exact(where))
        return where.load(self.path, self.runs_in, options)

    def as_it_is(self, threads: int, device: runtimes.devices.device.Device) -> runtimes.runtime.Runtime:
        """The file as it is timed, also where the device computes its integers otherwise than its target's."""
        return device.load(self.path, self.runs_in, runtimes.runtime.Options(threads))

    def feed(
        self, inputs: Sequence[Tensor], threads: int, device: runtimes.devices.device.Device
    ) -> runtimes.runtime.Arrays:
        """What the file takes for these inputs of the network, by name: its own engine's, or this machine's."""
        where = device if device.tells_outputs(self.runs_in) else runtimes.devices.local.LocalDevice()
        engine = self.as_it_is(threads, where)
        try:
            return runtimes.bound.feed(engine, self.binding, [x.numpy() for x in inputs])
        finally:
            engine.close()

    @property
    def runs_in(self) -> str:
        """The engine that runs it."""
        return self.engine or runtimes.facts.engine_of(self.path)
