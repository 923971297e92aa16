"""What each layer takes in each precision, read from files that are written and run: stored bytes, or milliseconds.

One file is written for every precision. What belongs to one layer alone in it is that layer's cost; the rest is shared.
A sum of costs is near the file of a mixed choice, not the same (neighbours share constants and conversions), so that a
choice is measured as a whole before it is taken.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import onnx

from ..graph import one_sample
from ..integers.encoding import Encoding
from ..siblings import export
from .detect import detected
from .precisions import BITS, Candidates, Precision, Unit
from .revert import _Files


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
        """The cost of a choice."""
        return self.rest + sum(self.units[name][precision] for name, precision in chosen.items())


class Gauge(Protocol):
    """What tells costs."""

    @property
    def unit(self) -> str:
        """In words: "bytes", "ms"."""
        ...

    def costs(self, candidates: Candidates, precisions: Iterable[Precision]) -> Costs:
        """Those of each layer, from a file in each precision."""
        ...

    def measured(self, candidates: Candidates, encodings: Mapping[str, Encoding]) -> float:
        """That of a whole network, from its file."""
        ...


class StoredBytes:
    """The bytes of all tensors that the ONNX file for this machine stores: weights, biases, scales, zero points."""

    unit = "bytes"

    def costs(self, candidates: Candidates, precisions: Iterable[Precision]) -> Costs:
        """Those of each layer, from a file in each precision and one in float."""
        found: dict[Precision, dict[str, int]] = {}
        rests: dict[Precision, int] = {}
        for precision in dict.fromkeys(("float", *precisions)):
            model = self._model(candidates, candidates.encodings_of(candidates.uniform(precision)))
            alone = bytes_by_layer(model.graph)
            found[precision] = {unit.name: _bytes(unit, precision, alone) for unit in candidates.units}
            rests[precision] = stored_bytes(model.graph) - sum(found[precision].values())
        units = {unit.name: {p: float(found[p][unit.name]) for p in found} for unit in candidates.units}
        return Costs(units, max(rests.values()), rests["float"] + sum(found["float"].values()))

    def measured(self, candidates: Candidates, encodings: Mapping[str, Encoding]) -> float:
        """That of a whole network, from its file."""
        return stored_bytes(self._model(candidates, encodings).graph)

    def _model(self, candidates: Candidates, encodings: Mapping[str, Encoding]) -> onnx.ModelProto:
        one = one_sample(candidates.inputs)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "network.onnx")
            target = detected().target
            export.onnx.exporter.export_onnx(
                candidates.model, one, path, encodings=dict(encodings) or None, target=target
            )
            return onnx.load(str(path))


@dataclass(frozen=True)
class EngineLatency:
    """Latency in ONNX Runtime on this machine, batch 1, in ms; of layers as profiled, scaled to the whole file's.

    4-bit weights are unpacked to 8 bits when a file is loaded: they take what int8 takes.

    Args:
        threads: that one operator may use.
    """

    threads: int = 1
    unit = "ms"

    def costs(self, candidates: Candidates, precisions: Iterable[Precision]) -> Costs:
        """Those of each layer, from a file in float and one in int8."""
        one = one_sample(candidates.inputs)
        with tempfile.TemporaryDirectory() as folder:
            files = _Files(candidates.model, one, Path(folder), self.threads)
            written = (files.write({}), files.write(candidates.encodings_of(candidates.uniform("int8"))))
            whole = files.time(written)
            profiles = [files.profile(file) for file in written]
        heads = {part for profile in profiles for part in profile}
        owners = {unit.name: heads & set(unit.layers) for unit in candidates.units}
        taken: list[dict[str, float]] = []
        for profile, total_ms in zip(profiles, whole, strict=True):
            scale = total_ms / max(sum(profile.values()), 1e-9)
            taken.append(
                {name: scale * sum(profile.get(part, 0.0) for part in parts) for name, parts in owners.items()}
            )
        units: dict[str, Mapping[Precision, float]] = {
            name: {"float": taken[0][name], "int8": taken[1][name], "int4": taken[1][name]} for name in owners
        }
        return Costs(units, whole[1] - sum(taken[1].values()), whole[0])

    def measured(self, candidates: Candidates, encodings: Mapping[str, Encoding]) -> float:
        """That of a whole network, from its file."""
        one = one_sample(candidates.inputs)
        with tempfile.TemporaryDirectory() as folder:
            files = _Files(candidates.model, one, Path(folder), self.threads)
            return files.time((files.write(encodings),))[0]


def stored_bytes(graph: onnx.GraphProto) -> int:
    """Of all tensors that are stored."""
    return sum(_size(tensor) for tensor in graph.initializer)


def bytes_by_layer(graph: onnx.GraphProto) -> dict[str, int]:
    """Bytes of the stored tensors that the nodes of one layer alone read, be it through nodes that belong to none."""
    owners: dict[str, set[str]] = {}
    for node in reversed(graph.node):
        layer = re.sub(r"/[A-Z]\w*$", "", node.name)
        own = {layer} if layer else set().union(*(owners.get(name, set()) for name in node.output))
        for name in node.input:
            owners.setdefault(name, set()).update(own)
    found: dict[str, int] = {}
    for tensor in graph.initializer:
        readers = owners.get(tensor.name, set())
        if len(readers) == 1:
            layer = next(iter(readers))
            found[layer] = found.get(layer, 0) + _size(tensor)
    return found


def _bytes(unit: Unit, precision: Precision, alone: Mapping[str, int]) -> int:
    """What a file told of the layers of ``unit``, or at least what its weight takes, where nodes are not named so."""
    told = sum(alone.get(layer, 0) for layer in unit.layers)
    bits = 32 if precision == "float" else BITS[precision]
    return max(told, -(-unit.tensor.numel() * bits // 8))


def _size(tensor: onnx.TensorProto) -> int:
    return len(tensor.raw_data) or int(onnx.numpy_helper.to_array(tensor).nbytes)
