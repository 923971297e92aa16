"""Layers that are slower in integers than in float compute in float, as measured in the engine on this machine.

The float and the integer file are profiled node by node. The run of consecutive layers in which floats gain most is
taken out of the integers, the file is written again, and timed against the one before in one interleaved loop; it is
kept if it is faster. This repeats until nothing more is gained, and leaves something in integers, unless the fastest is
asked for: then nothing stays in integers where the float file is still the faster one. Weights of layers that compute
in float stay stored in integers, a quarter of the bytes, and are restored when the file is loaded. What the boundaries
cost (conversions, changes of layout) counts for the layer that they lead to.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import onnx
from torch import Tensor, nn

from ..graph import one_sample, trace
from ..integers.encoding import Encoding
from ..integers.placement import placement_of
from ..siblings import export, runtimes
from ..stage import Progress, Skip, silent
from .detect import detected

ROUNDS = 6
"""The most regions that are tried."""

PROFILED_RUNS = 30
FOLLOWERS = frozenset({"Relu", "Clip", "Sigmoid", "HardSigmoid", "HardSwish", "LeakyRelu", "Add", "Mul"})
"""Operations that engines fuse into what comes before, or that have no weights: part of it."""

GAIN = 0.01
"""What a change must gain, of the latency, to be told from noise."""

MARGIN = 0.15
"""Parts in which floats gain less than this stay in integers, which take fewer bytes."""


@dataclass(frozen=True)
class Kept:
    """What stays in integers.

    Args:
        encodings: those that are left; of layers that compute in float, those of their weights, to be restored.
        skipped: the layers that went back, with what they took in integers and in float.
        float_ms: the latency of the file in float.
        integer_ms: with all in integers.
        kept_ms: with what is left.
    """

    encodings: Mapping[str, Encoding]
    skipped: tuple[Skip, ...]
    float_ms: float
    integer_ms: float
    kept_ms: float

    def told(self) -> str:
        """In words, what it cost and gained."""
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
        """What floats gain beyond the margin."""
        return (1 - MARGIN) * self.integer_ms - self.float_ms


def revert_slower(
    model: nn.Module,
    encodings: Mapping[str, Encoding],
    example_inputs: tuple[Tensor, ...],
    *,
    fastest: bool = False,
    threads: int = 1,
    progress: Progress = silent,
) -> Kept:
    """The encodings without those of layers that are slower in integers, in ONNX Runtime on this machine, batch 1.

    Args:
        model: the network as the stage Quantize leaves it.
        fastest: leave nothing in integers where all in float is faster still.
        threads: that one operator may use.
    """
    one = one_sample(example_inputs)
    with tempfile.TemporaryDirectory() as folder:
        files = _Files(model, one, Path(folder), threads)
        plain, best = files.write({}), files.write(encodings)
        float_ms, best_ms = files.time((plain, best))
        integer_ms, kept, skipped = best_ms, dict(encodings), list[Skip]()
        weights = [name for name, _ in model.named_parameters() if name in encodings]
        floats, integers = files.profile(plain), files.profile(best)
        reverted: set[str] = set()
        tried: set[str] = set()
        for number in range(ROUNDS):
            progress("revert what is slower", number, ROUNDS, f"{best_ms:.3f} ms, float {float_ms:.3f} ms")
            region = slowest(integers, floats, tried)
            if region is None or region.integer_ms - region.float_ms < GAIN * best_ms:
                break
            tried |= set(region.parts)
            layers = {layer for part in region.parts for layer in files.parts[part]}
            candidate = without(model, encodings, one, reverted | layers)
            if not fastest and not any(name in candidate for name in weights):
                continue
            candidate |= {name: replace(encodings[name], restored=True) for name in weights if name not in candidate}
            file = files.write(candidate)
            float_ms, best_ms, candidate_ms = files.time((plain, best, file))
            if candidate_ms > (1 - GAIN) * best_ms:
                continue
            best, best_ms, kept = file, candidate_ms, candidate
            integers = files.profile(best)
            reverted |= layers
            told = f"{region.integer_ms:.3f} ms in integers, {region.float_ms:.3f} ms in float"
            skipped += [Skip(layer, f"kept in float: its region takes {told}") for layer in sorted(layers)]
        progress("revert what is slower", ROUNDS, ROUNDS)
        if fastest and best_ms > float_ms:
            told = f"{best_ms:.3f} ms in integers, {float_ms:.3f} ms in float"
            restored = {name: replace(encodings[name], restored=True) for name in weights}
            skip = Skip("", f"kept in float: the network takes {told}")
            return Kept(restored, (skip,), float_ms, integer_ms, float_ms)
        return Kept(kept, tuple(skipped), float_ms, integer_ms, best_ms)


def without(
    model: nn.Module, encodings: Mapping[str, Encoding], example_inputs: tuple[Tensor, ...], layers: set[str]
) -> dict[str, Encoding]:
    """``encodings`` with these layers in float: of what is still read or made in integers."""
    known = {name for name, _ in model.named_modules()}  # an operation in a forward may be named after itself
    sites = placement_of(trace(model, example_inputs, dynamic_batch=True), layers & known)
    wanted = {*sites.measured, *(product.weight for product in sites.products)}
    return {name: encoding for name, encoding in encodings.items() if name in wanted}


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
        found = Region(tuple(run), sum(integers[each] for each in run), sum(floats[each] for each in run))
        if best is None or found.gained_ms > best.gained_ms:
            best = found
    return best


@dataclass
class _Files:
    """Files of one network in a folder, what they take, and the layers of their parts."""

    model: nn.Module
    inputs: tuple[Tensor, ...]
    folder: Path
    threads: int
    count: int = 0
    parts: dict[str, set[str]] = field(default_factory=dict)

    def write(self, encodings: Mapping[str, Encoding]) -> Path:
        self.count += 1
        path = self.folder / f"{self.count}.onnx"
        target = detected().target
        export.onnx.exporter.export_onnx(
            self.model, self.inputs, path, encodings=dict(encodings) or None, target=target
        )
        return path

    def time(self, files: Sequence[Path]) -> list[float]:
        """The latency of each in ms: the lower quartile of at least 50 interleaved runs and a second of each."""
        options = runtimes.runtime.Options(threads=self.threads)
        loaded = [runtimes.runtime.load(file, options=options) for file in files]
        try:
            works = [_work(each, self._feed(each)) for each in loaded]
            preset = runtimes.benchmark.Preset("quick", warmup_runs=5, warmup_s=0.1, runs=50, seconds=1.0)
            samples = runtimes.benchmark.interleave(works, preset, runtimes.benchmark.sentinel())
        finally:
            for each in loaded:
                each.close()
        return [float(np.percentile(row, 25)) for row in samples.rows_ms]

    def profile(self, file: Path) -> dict[str, float]:
        """What each part takes in ms, in the order in which they run: a layer with what follows it at once."""
        named = file.with_suffix(".named.onnx")
        if not named.exists():
            model = onnx.load(str(file))
            for part, layers in name_parts(model.graph).items():
                self.parts.setdefault(part, set()).update(layers)
            onnx.save(model, str(named))
        engine = runtimes.runtime.load(named, options=runtimes.runtime.Options(threads=self.threads))
        try:
            executed = engine.executed_graph(self._feed(engine), runs=PROFILED_RUNS)
        finally:
            engine.close()
        assert executed is not None, "ONNX Runtime tells its nodes"
        found: dict[str, float] = {}
        waiting = 0.0
        for node in executed.nodes:
            named_part = re.match(r"layer:(.*):\d+", node.name)
            if node.kind == "other" or named_part is None:
                waiting += node.duration_ms
                continue
            found[named_part[1]] = found.get(named_part[1], 0.0) + node.duration_ms + waiting
            waiting = 0.0
        return found

    def _feed(self, engine: runtimes.runtime.Runtime) -> runtimes.runtime.Arrays:
        return {spec.name: x.numpy() for spec, x in zip(engine.inputs, self.inputs, strict=True)}


def name_parts(graph: onnx.GraphProto) -> dict[str, set[str]]:
    """The layers of each part of a file: of an operation with weights and of what follows it, which engines fuse.

    Nodes and values are named ``layer:<part>:<number>``, a name that survives whatever the engine does to them.
    """
    kept = {value.name for value in (*graph.input, *graph.output)}
    order = {node.output[0]: number for number, node in enumerate(graph.node)}
    heads: dict[str, str] = {}
    parts: dict[str, set[str]] = {}
    names: dict[str, str] = {}
    for number, node in enumerate(graph.node):
        layer = re.sub(r"/[A-Z]\w*$", "", node.name)
        read = [name for name in node.input if name in heads]
        follows = node.op_type in FOLLOWERS or not layer
        head = heads[max(read, key=order.__getitem__)] if follows and read else layer
        if not head:
            continue
        heads[node.output[0]] = head
        if not layer:
            continue
        parts.setdefault(head, set()).add(layer)
        node.name = f"layer:{head}:{number}"
        if node.output[0] not in kept:
            names[node.output[0]] = node.name
    export.onnx.rewrite.rename(graph, names)
    return parts


def _work(engine: runtimes.runtime.Runtime, feed: runtimes.runtime.Arrays) -> Callable[[], object]:
    return lambda: engine.run(feed)
