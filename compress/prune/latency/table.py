"""Latencies of layers and networks, as a clock tells; those of layers are kept in a file for the next time.

The table holds single layers at the widths that were asked for. Their sum is no network's latency: each has the cost of
one session, and a network has other operations too. Differences of sums follow the differences of networks, up to a
factor that is found by measuring the network.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from ...clock import Clock, LayerShape, Precision, Timed
from ...data import Data
from ...errors import InvalidInput
from ...files.untrusted import read_json
from ...fold import Fold
from ...graph.trace import one_sample
from ...quantize import Quantize
from ...siblings import runtimes
from ...stage import Context, Progress, evaluation_copy, silent

BATCH = 32
"""Layers that are timed in one interleaved loop."""

VERSION = 1
"""The version of the table's files; layers of files with another one are measured again."""

_LOG = logging.getLogger(__name__)


def deployable(network: nn.Module, inputs: tuple[Tensor, ...], precision: Precision) -> Timed:
    """The network as it is deployed: its batch norms folded, in int8 where ``precision`` says so.

    The int8 network is calibrated on the example inputs: its accuracy is nobody's, its latency is that of the file that
    will be deployed.
    """
    one = one_sample(inputs)
    context = Context(one, Data("example inputs", {"calibration": _Examples(one)}), task="outputs")
    folded = Fold().apply(evaluation_copy(network), context).model
    if precision == "float":
        return Timed(folded, one)
    quantized = Quantize().apply(folded, context)
    return Timed(quantized.model, one, quantized.encodings)


@dataclass(frozen=True)
class _Examples:
    """Inputs as a split: one batch, no labels."""

    inputs: tuple[Tensor, ...]

    def __len__(self) -> int:
        return len(self.inputs[0])

    def batches(self, batch_size: int, **_: object) -> Iterator[tuple[tuple[Tensor, ...]]]:
        yield (self.inputs,)


class LatencyTable:
    """Latencies of layers in ms, measured once and kept in a file.

    Args:
        precision: of the layers: float32, or int8 weights and activations.
        folder: of the file; None keeps nothing. A file that cannot be read, or is of other conditions, is measured
            again and replaced.
    """

    def __init__(
        self, clock: Clock, folder: Path | None, progress: Progress = silent, *, precision: Precision = "float"
    ) -> None:
        self.clock = clock
        self.precision = precision
        self.conditions = {**clock.conditions, "precision": precision}
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
            for layer, latency_ms in zip(batch, self.clock.layers_ms(batch, self.precision), strict=True):
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
            stored = {str(name): float(value) for name, value in content["ms"].items()}
        except (InvalidInput, ValueError, OverflowError, KeyError, TypeError, AttributeError):
            _LOG.warning("%s cannot be read: its layers are measured again", self.file)
            return {}
        return {name: value for name, value in stored.items() if math.isfinite(value) and value > 0}

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
