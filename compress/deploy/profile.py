"""Where the time of a file goes: its nodes as the engine ran them, joined with what the network's layers cost."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from ..cost.count import Cost, LayerCost
from ..siblings import export, runtimes

RUNS = 30
"""Of which each node's lower quartile is told."""

_PRODUCT = re.compile(r"conv|gemm|matmul|fully.?connected|linear|inner.?product|dense", re.IGNORECASE)
_NAMED = re.compile(r"layer:(.*):\d+")
"""As `export.onnx.parts.name_parts` names nodes."""

_AFTER_LAYER = re.compile(r"[/_:.;#]|$")


@dataclass(frozen=True)
class ProfileRow:
    """A layer of the network, or nodes of one operator that belong to none that is known.

    Args:
        layer: its name; "" for nodes that could not be joined.
        nodes: that it was run as, by the engine's names.
        ops: of these, in order.
        kind: the arithmetic of the one that took longest.
        providers: that ran them.
        joined: by what the two were found to belong together.
        moved_bytes: that the layer reads and writes, in the arithmetic it ran in.
        intensity: operations for each byte; a multiply-add is two.
        roofline_share: of the time, what the work takes at least on this device.
    """

    layer: str
    nodes: tuple[str, ...]
    ops: tuple[str, ...]
    kind: Literal["integer", "float", "other"]
    providers: tuple[str, ...]
    duration_ms: float
    joined: Literal["name", "order", ""] = ""
    macs: int | None = None
    moved_bytes: int | None = None
    intensity: float | None = None
    roofline_share: float | None = None


@dataclass(frozen=True)
class Profile:
    """A file's rows, the slowest first.

    Args:
        name: of the file.
        total_ms: of all nodes.
        left_layers: with multiply-adds, that no node was found for.
        roofline: of the device; None where it was not measured.
    """

    name: str
    engine: str
    threads: int
    total_ms: float
    rows: tuple[ProfileRow, ...]
    left_layers: tuple[str, ...]
    roofline: runtimes.measure.roofline.Roofline | None

    @property
    def left_nodes(self) -> tuple[str, ...]:
        """The nodes that were joined with no layer, the slowest first."""
        return tuple(node for row in self.rows if not row.layer for node in row.nodes)

    def to_json(self) -> dict[str, Any]:
        """A mapping of plain values."""
        return {**asdict(self), "left_nodes": list(self.left_nodes)}


def profile_of(
    name: str,
    engine: str,
    graph: runtimes.runtime.ExecutedGraph,
    counted: Cost | None,
    roofline: runtimes.measure.roofline.Roofline | None,
    threads: int = 1,
) -> Profile:
    """Where the time goes.

    Args:
        graph: what the engine ran, with durations.
        counted: what the layers cost; None where the network is not known.
    """
    layers = {each.layer: each for each in reversed(counted.layers)} if counted is not None else {}
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
    return Profile(name, engine, threads, graph.duration_ms, tuple(rows), left, roofline)


def named_copy(file: Path, engine: str, folder: Path) -> Path:
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


def _layer_in(node: str, layers: Mapping[str, LayerCost]) -> str:
    """The layer with the longest name that a node's begins with, or that stands in it; "" where it is none."""
    named = _NAMED.match(node)
    if named is not None:
        return named[1] if named[1] in layers else ""
    best = ""
    for layer in layers:
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
    roofline: runtimes.measure.roofline.Roofline | None,
) -> ProfileRow:
    slowest = max((node for node in nodes if node.kind != "other"), key=lambda node: node.duration_ms, default=nodes[0])
    duration_ms = sum(node.duration_ms for node in nodes)
    ops, providers = (tuple(dict.fromkeys(each)) for each in ([n.op for n in nodes], [n.provider for n in nodes]))
    names = tuple(node.name for node in nodes)
    row = ProfileRow(layer, names, ops, slowest.kind, tuple(filter(None, providers)), duration_ms, joined)
    cost = products.get(layer)
    if cost is None:
        return row
    integer = slowest.kind == "integer"
    moved = cost.memory_access_bytes // 4 if integer else cost.memory_access_bytes  # counted in float32
    least_ms = roofline.least_ms(cost.macs, moved, integer=integer) if roofline is not None else None
    return ProfileRow(
        **{
            name: getattr(row, name) for name in ("layer", "nodes", "ops", "kind", "providers", "duration_ms", "joined")
        },
        macs=cost.macs,
        moved_bytes=moved,
        intensity=2 * cost.macs / moved if moved else None,
        roofline_share=least_ms / duration_ms if least_ms is not None and duration_ms else None,
    )
