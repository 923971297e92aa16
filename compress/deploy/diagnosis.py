"""Where a deployed file loses what its network gives in float: its layers, in the engine and in the network."""

from __future__ import annotations

import math
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.fx import Node

from ..errors import InvalidInput, PackageMissing
from ..graph.interface import names_of
from ..graph.trace import Graph, trace
from ..graph.values import values_of
from ..integers.placement import without_layers
from ..integers.simulate import simulate
from ..report.schema import Diagnosis, LayerNoise, OutputParity, Profile, Remedy
from ..siblings import export, runtimes
from ..sources.artifact import outputs_of
from ..sources.load import Network
from ..tasks.noise import Noise, OutputNoise
from .deployed import Deployed
from .profile import executed_graph, profile_of
from .write import kind_of

WORST = 3
"""Layers that are named, and tried in float."""

RUNS = 30
"""That times of layers are taken from."""

FOLLOWERS = 4
"""Operations after a layer's own that a file may have taken into it: a batch norm, an activation, a sum."""

Inputs = tuple[Tensor, ...]


@dataclass
class _Seen:
    """Of one inner value, how far it is from each value of the network that it may stand for."""

    candidates: tuple[Node, ...]
    noise: dict[Node, OutputNoise] = field(default_factory=dict)

    def see(self, actual: Tensor, values: Mapping[Node, object]) -> None:
        for node in self.candidates:
            expected = values.get(node)
            if isinstance(expected, Tensor) and expected.shape == actual.shape:
                self.noise.setdefault(node, OutputNoise()).see(actual, expected)

    @property
    def best(self) -> OutputNoise | None:
        """How far it is from the nearest, that which the file computes at this place; None where none has its shape."""
        return max(self.noise.values(), key=lambda noise: noise.snr_db, default=None)


def diagnose(
    file: Deployed, network: Network, batches: Sequence[Inputs], threads: int = 1, *, remedies: bool = True
) -> Diagnosis:
    """Compare what each layer of ``file`` gives in its engine with what it gives in ``network`` in float.

    Args:
        file: of a format whose exporter can give the values inside a file.
        network: that the file was made from; its batch norms are folded as they are in the file.
        batches: inputs of the network.
        remedies: try the worst layers in float, each alone, in the simulation.

    Raises:
        InvalidInput: the format gives no inner values.
    """
    graph = trace(network.model, batches[0])
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, f"exposed{file.path.suffix}")
        values = _exposed(file, copy)
        exposed = Deployed(file.name, copy, network, file.target, file.runs_in, file.binding)
        seen = {value.name: _Seen(tuple(_candidates(graph, value.layer))) for value in values}
        outputs = _compare(exposed, values, graph, batches, threads, seen)
        local = runtimes.devices.local.LocalDevice()
        ran, ran_exposed = (executed_graph(each, batches[0], threads, local, 1) for each in (file, exposed))
        named = executed_graph(file, batches[0], threads, local, RUNS, by_layer=True)
    profile = None if named is None else profile_of(file.name, file.runs_in, named, None, None, threads)
    layers = _layers(values, seen, profile)
    added = [layer for layer in sorted(layers, key=lambda each: -each.added_db) if layer.added_db > -math.inf]
    worst = tuple(layer.layer for layer in added[:WORST])
    names = names_of(graph).outputs
    told = names if len(names) == len(outputs.outputs) else [f"output {i}" for i in range(len(outputs.outputs))]
    return Diagnosis(
        name=file.name,
        engine=file.runs_in,
        samples=sum(len(inputs[0]) for inputs in batches),
        outputs=tuple(_parity(name, noise) for name, noise in zip(told, outputs.outputs, strict=True)),
        layers=layers,
        total_ms=None if profile is None else profile.total_ms,
        worst=worst,
        remedies=tuple(_remedies(network, file, graph, batches, worst)) if remedies else (),
        unmatched=tuple(dict.fromkeys(value.layer for value in values if seen[value.name].best is None)),
        changed=ran is not None and ran_exposed is not None and _computed(ran) != _computed(ran_exposed),
    )


def _exposed(file: Deployed, copy: Path) -> tuple[export.format.InnerValue, ...]:
    """Write the copy of a file that gives its inner values; which ones these are."""
    able = []
    for form in export.facts.formats().values():
        expose = _exposer(form.name)
        if expose is not None and form.engine == file.runs_in and form.suffix == file.path.suffix.lower():
            return expose(file.path, copy)
        able += [form.name] if expose is not None else []
    title = runtimes.facts.title_of(file.runs_in)
    raise InvalidInput(
        f"diagnose {file.name}: a file for {title} does not give its inner values; give --format {' or '.join(able)}"
    )


def _exposer(name: str) -> Callable[[Path, Path], tuple[export.format.InnerValue, ...]] | None:
    """What writes files of a format again with their inner values as outputs, where there is such a function."""
    try:
        return getattr(export.format.exporter(name), "expose_values", None)
    except PackageMissing:
        return None


def _computed(graph: runtimes.runtime.ExecutedGraph) -> Counter[str]:
    """How often each operation ran that computes something."""
    return Counter(node.op for node in graph.nodes if node.kind != "other")


def _candidates(graph: Graph, layer: str) -> Iterator[Node]:
    """The values of the network that a node of ``layer`` in a file may stand for."""
    for node in graph.calls():
        if layer in (graph.layer(node), node.name):  # an operation in the network's own forward is named after itself
            yield node
            after = node
            for _ in range(FOLLOWERS):
                users = list(after.users)
                if len(users) != 1 or users[0].op != "call_function":
                    break
                after = users[0]
                yield after


def _compare(
    file: Deployed,
    values: Sequence[export.format.InnerValue],
    graph: Graph,
    batches: Sequence[Inputs],
    threads: int,
    seen: Mapping[str, _Seen],
) -> Noise:
    """Let every inner value be seen beside those of the network; how far the outputs are."""
    outputs = Noise()
    engine = file.load(threads)
    try:
        for inputs in batches:
            feed = runtimes.bound.feed(engine, file.binding, [x.numpy() for x in inputs])
            given = runtimes.checks.check.run_samples(engine, feed, max(1, len(inputs[0])))
            expected = values_of(graph, inputs)
            for inner in values:
                seen[inner.name].see(torch.from_numpy(inner.real(given[inner.name])), expected)
            wanted = [value for node in graph.outputs if isinstance(value := expected[node], Tensor)]
            names = file.binding.outputs or tuple(given)[: len(wanted)]
            outputs.see([torch.from_numpy(given[name]) for name in names], wanted)
    finally:
        engine.close()
    return outputs


def _layers(
    values: Sequence[export.format.InnerValue], seen: Mapping[str, _Seen], profile: Profile | None
) -> tuple[LayerNoise, ...]:
    """A record for each layer, in the order of their last values."""
    ratio = {value.name: _ratio(seen[value.name].best) for value in values}
    rows = {row.layer: row for row in profile.rows} if profile is not None else {}
    grouped: dict[str, list[export.format.InnerValue]] = {}
    for value in values:
        if not math.isnan(ratio[value.name]):
            grouped.setdefault(value.layer, []).append(value)
    layers = []
    for layer, members in grouped.items():
        inside = {member.name for member in members}
        read = [ratio[name] for member in members for name in member.reads if name not in inside]
        own = ratio[members[-1].name]
        added = own - max((each for each in read if not math.isnan(each)), default=0.0)
        row = rows.get(layer)
        layers.append(
            LayerNoise(
                layer=layer,
                operations=tuple(member.operation for member in members),
                snr_db=-_db(own),
                added_db=_db(added),
                kind=row.kind if row is not None else None,
                duration_ms=row.duration_ms if row is not None else None,
                fallen_back=row is not None and bool(row.fallen_back),
            )
        )
    return tuple(layers)


def _ratio(noise: OutputNoise | None) -> float:
    """The power of the difference by that of the values; NaN where they were not compared."""
    return math.nan if noise is None else 10 ** (-noise.snr_db / 10)


def _db(ratio: float) -> float:
    return 10 * math.log10(ratio) if ratio > 0 else -math.inf


def _parity(name: str, noise: OutputNoise) -> OutputParity:
    return OutputParity(
        name=name, snr_db=noise.snr_db, part_snr_db=noise.worst_snr_db if len(noise.of_parts) > 1 else None
    )


def _remedies(
    network: Network, file: Deployed, graph: Graph, batches: Sequence[Inputs], layers: Sequence[str]
) -> list[Remedy]:
    """What each of the layers in float would give, the best first; none where nothing is in integers."""
    if kind_of(network) != "integer" or file.target is None:
        return []
    found = []
    for layer in layers:
        left = without_layers(graph, network.encodings, [layer])
        if left.keys() == dict(network.encodings).keys():
            continue
        rounded = simulate(network.model, left, network.example_inputs, target=file.target)
        noise = _noise(rounded, network.model, batches)
        found.append(Remedy(layer=layer, setting=f"--exclude {layer}", snr_db=noise.worst_snr_db))
    return sorted(found, key=lambda remedy: -remedy.snr_db)


def _noise(rounded: nn.Module, model: nn.Module, batches: Sequence[Inputs]) -> Noise:
    noise = Noise()
    with torch.no_grad():
        for inputs in batches:
            noise.see(outputs_of(rounded, inputs), outputs_of(model, inputs))
    return noise
