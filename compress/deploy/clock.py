"""The clock that stages are given: networks written for a target, and timed in its engine on a device."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import nn

from ..clock import LayerShape, Part, Precision, StoredBytes, Timed
from ..data import Data, SampleSplit
from ..errors import InvalidInput
from ..integers.target import target_named
from ..quantize import Quantize
from ..quantize.detect import detected
from ..siblings import export, runtimes
from ..stage import Context
from .devices import target_on
from .write import encodings_for

PROFILED_RUNS = 30
NETWORKS = runtimes.measure.presets.Preset("networks", warmup_runs=10, warmup_s=0.1, runs=60, seconds=1.0)
LAYERS = runtimes.measure.presets.Preset("layers", warmup_runs=5, warmup_s=0.0, runs=30, seconds=0.0)


@dataclass(frozen=True)
class ModelFile:
    """A file to run.

    Args:
        path: that the engine is given.
        engine: that runs it.
        inputs: arrays of one sample, in the network's order.
        binding: how the network's inputs are called in the file.
    """

    path: Path
    engine: str
    inputs: tuple[np.ndarray[tuple[int, ...], np.dtype[np.generic]], ...]
    binding: runtimes.bound.Binding


class MachineClock:
    """Latencies of networks on a device, in files as they are deployed; see :class:`compress.clock.Clock`.

    Each latency is the lower quartile of its runs: other work on the device slows some of them, and slows only. A
    network's file is written once, and removed with the network.

    Args:
        target: whose files are timed; left out, that of this machine.
        threads: that one operation may use.
        device: that runs them; left out, this machine.

    Raises:
        InvalidInput: files of that target do not run there; says why.
        DeviceError: the device cannot be reached.
    """

    def __init__(
        self, target: str | None = None, threads: int = 1, device: runtimes.devices.device.Device | None = None
    ) -> None:
        self.device = device or runtimes.devices.local.LocalDevice()
        self.native = detected().target if device is None else target_on(self.device).target
        self.target = target or self.native
        self.threads = threads
        self._format = _native_format(self.target)
        if target is not None:
            self._require()
        self._files: weakref.WeakKeyDictionary[Timed, ModelFile] = weakref.WeakKeyDictionary()

    def __repr__(self) -> str:
        return f"MachineClock({self.target!r}, {self.threads}, {self.device!r})"

    @property
    def engine(self) -> str:
        """What runs the files, for people."""
        return runtimes.facts.title_of(self._format.engine)

    @property
    def processor(self) -> str:
        """That they run on."""
        here = self._conditions
        return here.cpu or here.board or here.architecture

    @property
    def conditions(self) -> Mapping[str, str | int]:
        """What a latency depends on besides the network."""
        return {
            "engine": self._format.engine,
            "engine version": self.device.version(self._format.engine),
            "target": self.target,
            "cpu": self.processor,
            "instructions": " ".join(self._conditions.isa or ()),
            "threads": self.threads,
            **self._elsewhere,
        }

    def on(self, target: str | None, threads: int) -> MachineClock:
        """A clock on the same device, for ``target`` (None is this one's own) and so many threads; raises as above."""
        if target in (None, self.target) and threads == self.threads:
            return self
        return MachineClock(target or self.target, threads, self.device)

    def ms(self, network: Timed) -> float:
        """The latency of a network in ms."""
        return self.ms_of([network])[0]

    def ms_of(self, networks: Sequence[Timed]) -> list[float]:
        """The latency of each network in ms, of at least 60 runs and a second of each, in turn."""
        return self._quartiles([self._file(each) for each in networks], NETWORKS)

    def profile(self, network: Timed) -> tuple[Part, ...] | None:
        """What each part takes; None where the engine tells no durations, or the format cannot name its parts."""
        naming = getattr(self._exporter, "name_parts", None)
        if naming is None:
            return None
        file = self._file(network)
        with tempfile.TemporaryDirectory() as folder:
            named = replace(file, path=Path(folder, f"named{self._format.suffix}"))
            layers = naming(file.path, named.path)
            with self._loaded(named) as (engine, feed):
                executed = engine.executed_graph(feed, runs=PROFILED_RUNS)
        if executed is None or not any(node.duration_ms for node in executed.nodes):
            return None
        nodes = [(node.name, node.kind != "other", node.duration_ms) for node in executed.nodes]
        return export.onnx.parts.parts_of(nodes, layers)

    def layers_ms(self, layers: Sequence[LayerShape], precision: Precision) -> list[float]:
        """The latency of each layer in ms, of 30 runs in turn."""
        with tempfile.TemporaryDirectory() as folder:
            files = [self._layer_file(layer, precision, Path(folder, str(i))) for i, layer in enumerate(layers)]
            return self._quartiles(files, LAYERS)

    def stored_bytes(self, network: Timed) -> StoredBytes:
        """What the ONNX file of a network stores for this machine, whatever the target."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "network.onnx")
            export.onnx.exporter.export_onnx(
                network.model, network.inputs, path, encodings=network.encodings, target=detected().target
            )
            graph = onnx.load(str(path)).graph
        parts = export.onnx.parts
        return StoredBytes(parts.stored_bytes(graph), parts.bytes_by_layer(graph))

    @cached_property
    def _conditions(self) -> runtimes.sensors.conditions.Conditions:
        return self.device.conditions()

    @property
    def _where(self) -> str:
        return "here" if self.device.name == runtimes.devices.device.LOCAL else f"on {self.device.name}"

    @property
    def _elsewhere(self) -> dict[str, str | int]:
        """What else a latency depends on, on a device that is not this machine."""
        if self.device.name == runtimes.devices.device.LOCAL:
            return {}
        here = self._conditions
        told = {
            "device": self.device.name,
            "board": here.board,
            "governor": here.governor,
            "power mode": here.power_mode,
        }
        return {name: value for name, value in told.items() if value is not None}

    @contextmanager
    def _loaded(self, file: ModelFile) -> Iterator[tuple[runtimes.runtime.Runtime, runtimes.runtime.Arrays]]:
        engine = self.device.load(file.path, file.engine, runtimes.runtime.Options(threads=self.threads))
        try:
            yield engine, runtimes.bound.one_feed(engine, file.binding, file.inputs)
        finally:
            engine.close()

    def _quartiles(self, files: Sequence[ModelFile], preset: runtimes.measure.presets.Preset) -> list[float]:
        """The lower quartile of the latencies of each file in ms, run in turn in one loop."""
        with ExitStack() as opened:
            loaded = [opened.enter_context(self._loaded(file)) for file in files]
            samples = self.device.interleave(loaded, preset)
        return [float(np.percentile(row, 25)) for row in samples.rows_ms]

    def _require(self) -> None:
        """Refuse a target whose files do not run on the device."""
        here = self.native
        targets = runtimes.facts.targets()
        if self.target != here and targets[self.target].suits and targets[here].engine == self._format.engine:
            raise InvalidInput(
                f"target {self.target}: its latencies are those of another processor than {here} {self._where}"
            )
        try:
            self.device.version(self._format.engine)
        except runtimes.errors.EngineMissing as error:
            raise InvalidInput(f"target {self.target}: {error}") from error

    @property
    def _exporter(self) -> export.format.Exporter:
        return export.format.exporter(self._format.name)

    def _file(self, network: Timed) -> ModelFile:
        """The file of a network, written now if it was not yet."""
        if network not in self._files:
            folder = Path(tempfile.mkdtemp(prefix="edgepress-clock-"))
            weakref.finalize(network, shutil.rmtree, folder, ignore_errors=True)
            self._files[network] = self._write(network, folder)
        return self._files[network]

    def _write(self, network: Timed, folder: Path) -> ModelFile:
        encodings = encodings_for(self._format, network.model, network.encodings)
        job = export.format.Job(network.model, network.inputs, self.target, encodings)
        written = self._exporter.export(job, folder / f"network{self._format.suffix}")
        return ModelFile(
            written.file,
            written.engine or self._format.engine,
            tuple(x.numpy() for x in network.inputs),
            runtimes.bound.Binding(written.inputs, written.outputs),
        )

    def _layer_file(self, layer: LayerShape, precision: Precision, folder: Path) -> ModelFile:
        folder.mkdir()
        path = folder / f"layer{self._format.suffix}"
        write = getattr(self._exporter, "write_layer", None)
        if write is None:
            return self._write(_layer(layer, precision), folder)
        write(layer, precision, self.target, path)
        inputs = (_noise(_shape(layer)).numpy(),)
        return ModelFile(path, self._format.engine, inputs, runtimes.bound.Binding())


def _native_format(target: str) -> export.facts.Format:
    """The format that is the engine's own.

    Raises:
        InvalidInput: there is no such target, or no such format.
    """
    engine = target_named(target).engine
    for form in export.facts.formats().values():
        if form.engine == engine and target in form.targets:
            return form
    raise InvalidInput(f"target {target!r}: no format is written for its engine")


def _layer(layer: LayerShape, precision: Precision) -> Timed:
    """A network of one layer with random weights and a ReLU behind it."""
    torch_layer = (
        nn.Conv2d(layer.inputs, layer.outputs, layer.kernel, layer.stride, layer.padding, layer.dilation, layer.groups)
        if layer.kind == "conv"
        else nn.Linear(layer.inputs, layer.outputs)
    )
    model, x = nn.Sequential(torch_layer, nn.ReLU()).eval(), _noise(_shape(layer))
    if precision == "float":
        return Timed(model, (x,))
    data = Data("noise", {"calibration": SampleSplit(x, None)})
    done = Quantize().apply(model, Context((x,), data, task="outputs"))
    return Timed(done.model, (x,), done.encodings)


def _shape(layer: LayerShape) -> tuple[int, ...]:
    return (1, layer.inputs, *layer.size) if layer.kind == "conv" else (layer.size[1], layer.inputs)


def _noise(shape: tuple[int, ...]) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))
