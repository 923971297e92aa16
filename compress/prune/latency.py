"""Latencies of layers and networks in the engine on this machine; those of layers are kept in a file for the next time.

The table holds single layers at the widths that were asked for. Their sum is no network's latency: each has the cost of
one session, and a network has other operations too. Differences of sums follow the differences of networks, up to a
factor that is found by measuring the network.
"""

from __future__ import annotations

import gc
import hashlib
import json
import logging
import math
import os
import platform
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnx
from torch import Tensor, nn

from ..data import Data
from ..errors import InvalidInput
from ..graph import one_sample
from ..siblings import export, runtimes
from ..stage import Context, Progress, evaluation_copy, silent
from ..untrusted import read_json
from .one_layer import LayerShape, Precision, layer_file, target_here

ENGINE = "onnxruntime"
Rows = tuple[tuple[float, ...], ...]

BATCH = 32
"""Layers that are timed in one interleaved loop."""

VERSION = 1
"""Of the files; others are measured again."""

_LOG = logging.getLogger(__name__)


class Clock(Protocol):
    """What measures. ``conditions`` are what a latency depends on besides the layer."""

    @property
    def conditions(self) -> Mapping[str, str | int]: ...

    def layers_ms(self, layers: Sequence[LayerShape]) -> list[float]:
        """The latency of each layer alone, in ms."""
        ...

    def networks_ms(self, networks: Sequence[nn.Module], inputs: tuple[Tensor, ...]) -> list[float]:
        """The latency of each network as a deployed file on one sample, in ms, timed interleaved."""
        ...


@dataclass(frozen=True)
class EngineClock:
    """ONNX Runtime on this machine: medians of interleaved runs, by the runtimes package.

    Args:
        precision: of the files: float32, or int8 weights and activations.
        threads: that one operator may use.
    """

    precision: Precision = "float"
    threads: int = 1

    @property
    def conditions(self) -> Mapping[str, str | int]:
        found = runtimes.devices.local.conditions()
        return {
            "engine": ENGINE,
            "engine version": runtimes.runtime.engine_named(ENGINE).version(),
            "cpu": found.cpu or platform.processor() or found.architecture,
            "instructions": " ".join(found.isa or ()),
            "threads": self.threads,
            "precision": self.precision,
        }

    def layers_ms(self, layers: Sequence[LayerShape]) -> list[float]:
        """The lower quartile of 30 runs of each, after 5 to warm up: in so short a time other work on the machine can
        slow half of them, and it slows only.
        """
        with tempfile.TemporaryDirectory() as folder:
            files = []
            for number, layer in enumerate(layers):
                files.append(Path(folder, f"{number}.onnx"))
                onnx.save(layer_file(layer, self.precision), files[-1])
            rows = self._files_ms(files, warmup_runs=5, runs=30, seconds=0.0)
        return [float(np.percentile(row, 25)) for row in rows]

    def networks_ms(self, networks: Sequence[nn.Module], inputs: tuple[Tensor, ...]) -> list[float]:
        """The median of at least 60 runs and a second of each, in files with their batch norms folded.

        The int8 files are calibrated on the example inputs: their accuracy is nobody's, their latency is that of the
        file that will be deployed.
        """
        one = one_sample(inputs)
        with tempfile.TemporaryDirectory() as folder:
            files = [Path(folder, f"{number}.onnx") for number in range(len(networks))]
            for network, file in zip(networks, files, strict=True):
                self._export(network, one, file)
            rows = self._files_ms(files, warmup_runs=10, runs=60, seconds=1.0)
        return [float(np.median(row)) for row in rows]

    def _export(self, network: nn.Module, inputs: tuple[Tensor, ...], file: Path) -> None:
        from ..fold import Fold
        from ..quantize import Quantize

        exporter: Any = export.onnx.exporter
        context = Context(inputs, Data("example inputs", {"calibration": _Examples(inputs)}))  # type: ignore[dict-item]
        model, encodings = Fold().apply(evaluation_copy(network), context).model, None
        if self.precision == "int8":
            quantized = Quantize().apply(model, context)
            model, encodings = quantized.model, dict(quantized.encodings)
        exporter.export_onnx(model, inputs, file, encodings=encodings, target=target_here())

    def _files_ms(self, files: Sequence[Path], *, warmup_runs: int, runs: int, seconds: float) -> Rows:
        preset = runtimes.benchmark.Preset("quick", warmup_runs, 0.0, runs, seconds)
        engine, options = runtimes.runtime.engine_named(ENGINE), runtimes.runtime.Options(threads=self.threads)
        with ExitStack() as opened:
            works = []
            for file in files:
                loaded = engine.load(file, options)
                opened.callback(loaded.close)
                feed = runtimes.runtime.random_inputs(loaded.inputs)
                works.append(lambda run=loaded.run, feed=feed: run(feed))
            with _resting():
                return runtimes.benchmark.interleave(works, preset, lambda: None).rows_ms


@contextmanager
def _resting() -> Iterator[None]:
    """Python's garbage collector leaves what is there alone: going through a network's objects takes longer than the
    measuring.
    """
    ours = gc.get_freeze_count() == 0
    if ours:
        gc.freeze()
    try:
        yield
    finally:
        if ours:
            gc.unfreeze()


@dataclass(frozen=True)
class _Examples:
    """Inputs as a split: one batch, no labels."""

    inputs: tuple[Tensor, ...]

    def __len__(self) -> int:
        return len(self.inputs[0])

    def batches(self, batch_size: int, **_: object) -> Iterator[tuple[Tensor | tuple[Tensor, ...], None]]:
        yield (self.inputs[0] if len(self.inputs) == 1 else self.inputs), None


class LatencyTable:
    """Latencies of layers in ms, measured once and kept in a file.

    Args:
        folder: of the file; None keeps nothing. A file that cannot be read, or is of other conditions, is measured
            again and replaced.
    """

    def __init__(self, clock: Clock, folder: Path | None, progress: Progress = silent) -> None:
        self.clock = clock
        self.conditions = dict(clock.conditions)
        self.progress = progress
        told = json.dumps(self.conditions, sort_keys=True)
        digest = hashlib.sha256(told.encode()).hexdigest()[:16]
        self.file = None if folder is None else folder / f"layers-{digest}.json"
        self._ms = self._stored()

    def ms(self, layer: LayerShape) -> float:
        """The latency of one layer, measured now if it is not known."""
        if str(layer) not in self._ms:
            self.measure([layer])
        return self._ms[str(layer)]

    def measure(self, layers: Iterable[LayerShape]) -> None:
        """Measure those of ``layers`` that are not known, in interleaved batches, and store all."""
        missing = [layer for layer in dict.fromkeys(layers) if str(layer) not in self._ms]
        for start in range(0, len(missing), BATCH):
            self.progress("measure layers", start, len(missing), str(missing[start]))
            batch = missing[start : start + BATCH]
            for layer, latency_ms in zip(batch, self.clock.layers_ms(batch), strict=True):
                self._ms[str(layer)] = latency_ms
        if missing:
            self.progress("measure layers", len(missing), len(missing))
            self._store()

    def __len__(self) -> int:
        return len(self._ms)

    def _stored(self) -> dict[str, float]:
        if self.file is None or not self.file.exists():
            return {}
        try:
            content = read_json(self.file, "cache")
            if content["version"] != VERSION or content["conditions"] != self.conditions:
                return {}
            found = {str(name): float(value) for name, value in content["ms"].items()}
        except (InvalidInput, ValueError, OverflowError, KeyError, TypeError, AttributeError):
            _LOG.warning("%s cannot be read: its layers are measured again", self.file)
            return {}
        return {name: value for name, value in found.items() if math.isfinite(value) and value > 0}

    def _store(self) -> None:
        if self.file is None:
            return
        # What another process has stored meanwhile stays.
        content = {"version": VERSION, "conditions": self.conditions, "ms": self._stored() | self._ms}
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            partial = self.file.with_suffix(f".{os.getpid()}.partial")
            partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
            partial.replace(self.file)
        except OSError as error:
            _LOG.warning("%s cannot be written (%s): the next run measures again", self.file, error.strerror)


def cache_folder() -> Path:
    """Where latencies are kept: the folder of :func:`runtimes.cache.folder`."""
    return runtimes.cache.folder()
