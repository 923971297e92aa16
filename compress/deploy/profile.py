"""Where the time of a file goes: its nodes as the engine ran them, joined with what the network's layers cost."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from torch import Tensor

from ..cost.count import Cost, LayerCost, cost
from ..report.schema import Profile, ProfileRow, Roofline
from ..siblings import export, runtimes
from ..sources.load import Network
from .deployed import Deployed

RUNS = 30
"""Of which each node's lower quartile is told."""

_PRODUCT = re.compile(r"conv|gemm|matmul|fully.?connected|linear|inner.?product|dense", re.IGNORECASE)
_NAMED = re.compile(r"layer:(.*):\d+")
"""As `export.onnx.parts.name_parts` names nodes."""

_AFTER_LAYER = re.compile(r"[/_:.;#]|$")


def needs(profile: bool) -> tuple[runtimes.measure.modes.nodes.NodeTimes, ...]:
    """What a device has to offer for files whose profile is told."""
    return (runtimes.measure.modes.nodes.NodeTimes(RUNS),) if profile else ()


def executed_graph(
    file: Deployed,
    inputs: Sequence[Tensor] | None,
    threads: int,
    device: runtimes.devices.device.Device,
    runs: int,
    *,
    by_layer: bool = False,
) -> runtimes.runtime.ExecutedGraph | None:
    """The nodes that the engine really runs of a file, as it was timed; None where it does not tell.

    The file is run as it is, also where the device computes its integers otherwise than its target's.

    Args:
        inputs: of the network; left out, random ones of the file.
        by_layer: name the nodes after the network's layers, in formats that can.

    Raises:
        RuntimesError: the engine cannot be used there, or fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = _named_copy(file.path, file.runs_in, Path(folder)) if by_layer else file.path
        runtime = device.load(path, file.runs_in, runtimes.runtime.Options(threads))
        try:
            arrays = None if inputs is None else [x.numpy() for x in inputs]
            feed = None if arrays is None else runtimes.bound.one_feed(runtime, file.binding, arrays)
            return runtime.executed_graph(feed, runs=runs)
        finally:
            runtime.close()


def profile_file(
    file: Deployed,
    graph: runtimes.runtime.ExecutedGraph | None,
    network: Network | None,
    roofline: runtimes.measure.modes.roofline.Roofline | None,
    threads: int,
    device: runtimes.devices.device.Device,
) -> Profile | None:
    """Where the time of a file goes; None where its engine tells no time of single nodes.

    Args:
        graph: what the engine ran, its nodes named after layers.
        network: that the file was made from, where that is known.
        device: that ran it.
    """
    if graph is None or not graph.duration_ms:
        return None
    counted = cost(network.model, network.example_inputs) if network is not None else None
    profile = profile_of(file.name, file.runs_in, graph, counted, roofline, threads)
    is_local = device.name == runtimes.devices.device.LOCAL
    return profile.model_copy(update={"device": None if is_local else device.name})


def roofline_of(
    device: runtimes.devices.device.Device, engine: str, threads: int
) -> runtimes.measure.modes.roofline.Roofline:
    """What a device can do at most with so many threads, integers by ``engine`` where it has a probe; DeviceError."""
    request = runtimes.measure.request.Request(threads=threads)
    subject = runtimes.measure.subject.Subject((), (), (engine,), None, request)
    return device.measure(runtimes.measure.modes.roofline.RooflineProbe(engine), subject)


def profile_of(
    name: str,
    engine: str,
    graph: runtimes.runtime.ExecutedGraph,
    counted: Cost | None,
    roofline: runtimes.measure.modes.roofline.Roofline | None,
    threads: int = 1,
) -> Profile:
    """Where the time goes.

    Args:
        graph: what the engine ran, with durations.
        counted: what the layers cost; None where the network is not known, and the names of nodes are all there is.
    """
    layers = {each.layer: each for each in reversed(counted.layers)} if counted is not None else None
    products = _products(counted)
    by_name = {node.name: found for node in graph.nodes if (found := _layer_in(node.name, layers))}
    by_order = _by_order(graph.nodes, by_name, products)
    grouped: dict[tuple[str, str], list[runtimes.runtime.Node]] = {}
    for node in graph.nodes:
        layer = by_name.get(node.name) or by_order.get(node.name, "")
        grouped.setdefault((layer, "" if layer else node.op), []).append(node)
    rows = [
        _row(layer, nodes, "name" if nodes[0].name in by_name else "order" if layer else "", products, roofline)
        for (layer, _), nodes in grouped.items()
    ]
    rows.sort(key=lambda row: -row.duration_ms)
    joined = {row.layer for row in rows}
    left = tuple(layer for layer in products if layer not in joined)
    return Profile(
        name=name,
        engine=engine,
        threads=threads,
        total_ms=graph.duration_ms,
        rows=tuple(rows),
        left_layers=left,
        roofline=None if roofline is None else Roofline.model_validate(roofline.to_json()),
    )


def _named_copy(file: Path, engine: str, folder: Path) -> Path:
    """A copy of a file in ``folder`` whose nodes are named after layers, in formats that can; else the file itself."""
    for form in export.facts.formats().values():
        if form.engine != engine or form.suffix != file.suffix.lower():
            continue
        naming = getattr(export.format.exporter(form.name), "name_parts", None)
        if naming is not None:
            naming(file, folder / f"named{form.suffix}")
            return folder / f"named{form.suffix}"
    return file


def _products(counted: Cost | None) -> dict[str, LayerCost]:
    """The layers that have multiply-adds; those of one name are one, as where a module is called twice."""
    return {each.layer: each for each in counted.layers if each.macs} if counted is not None else {}


def _layer_in(node: str, layers: Mapping[str, LayerCost] | None) -> str:
    """The layer with the longest name that a node's begins with, or that stands in it; "" where it is none."""
    named = _NAMED.match(node)
    if named is not None:
        return named[1] if layers is None or named[1] in layers else ""
    best = ""
    for layer in layers or ():
        if len(layer) > len(best) and node.startswith(layer) and _AFTER_LAYER.match(node[len(layer) :]):
            best = layer
    return best


def _by_order(
    nodes: Sequence[runtimes.runtime.Node], by_name: Mapping[str, str], products: Mapping[str, LayerCost]
) -> dict[str, str]:
    """Layers of nodes whose names tell none: products in their order, where there are as many of both."""
    free = [node.name for node in nodes if node.name not in by_name and _PRODUCT.search(node.op)]
    left = [layer for layer in products if layer not in set(by_name.values())]
    return dict(zip(free, left, strict=True)) if len(free) == len(left) else {}


def _row(
    layer: str,
    nodes: Sequence[runtimes.runtime.Node],
    joined: Literal["name", "order", ""],
    products: Mapping[str, LayerCost],
    roofline: runtimes.measure.modes.roofline.Roofline | None,
) -> ProfileRow:
    slowest = max((node for node in nodes if node.kind != "other"), key=lambda node: node.duration_ms, default=nodes[0])
    duration_ms = sum(node.duration_ms for node in nodes)
    counted = products.get(layer)
    moved, least_ms = None, None
    if counted is not None:
        integer = slowest.kind == "integer"
        moved = counted.memory_access_bytes // 4 if integer else counted.memory_access_bytes  # counted in float32
        least_ms = roofline.least_ms(counted.macs, moved, integer=integer) if roofline is not None else None
    return ProfileRow(
        layer=layer,
        nodes=tuple(node.name for node in nodes),
        ops=tuple(dict.fromkeys(node.op for node in nodes)),
        kind=slowest.kind,
        providers=tuple(dict.fromkeys(node.provider for node in nodes if node.provider)),
        duration_ms=duration_ms,
        joined=joined,
        fallen_back=tuple(node.name for node in nodes if node.fell_back),
        fallback_ms=sum(node.duration_ms for node in nodes if node.fell_back),
        macs=counted.macs if counted is not None else None,
        moved_bytes=moved,
        intensity=2 * counted.macs / moved if counted is not None and moved else None,
        roofline_share=least_ms / duration_ms if least_ms is not None and duration_ms else None,
    )
