"""Nodes joined with layers: by names, by order, and not at all."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from compress.cli.output.profile_table import profile_table
from compress.cost.count import Cost, LayerCost
from compress.deploy.profile import profile_of
from compress.report.schema import Profile
from runtimes.measure.modes.roofline import Roofline
from runtimes.runtime import ExecutedGraph, Node

LIMITS = Roofline(1, float_ops=2e9, integer_ops=8e9, bytes_per_s=1e9)


def layer(name: str, macs: int, moved: int) -> LayerCost:
    return LayerCost(name, "conv2d", 10, macs, 0, 100, moved, (1, 4), lambda: None)


COST = Cost(
    100, 3_000_000, 400, (layer("a", 1_000_000, 8_000), layer("a.b", 2_000_000, 4_000_000), layer("a.relu", 0, 9)), ()
)


def node(name: str, op: str, ms: float, kind: str = "float", provider: str = "CPU") -> Node:
    return Node(name, op, kind, ms, provider)  # type: ignore[arg-type]


def profile(*nodes: Node) -> Profile:
    return profile_of("net", "onnxruntime", ExecutedGraph(nodes), COST, LIMITS)


def test_names_of_nodes_tell_layers() -> None:
    told = profile(
        node("layer:a:0_nchwc", "Conv", 2.0),
        node("layer:a.b:1", "Conv", 8.0, "integer"),
        node("token", "Reorder", 1.0, "other"),
    )
    assert [(row.layer, row.duration_ms, row.joined) for row in told.rows] == [
        ("a.b", 8.0, "name"), ("a", 2.0, "name"), ("", 1.0, ""),
    ]  # fmt: skip
    assert told.total_ms == 11.0 and told.left_nodes == ("token",) and told.left_layers == ()
    second, first = told.rows[:2]
    assert (first.macs, first.moved_bytes, first.intensity) == (1_000_000, 8_000, 250.0)
    assert first.roofline_share == pytest.approx(1.0 / 2.0)  # 2e6 operations at 2e9 a second
    assert (second.kind, second.moved_bytes) == ("integer", 1_000_000)  # a byte in place of four
    assert second.roofline_share == pytest.approx(1.0 / 8.0)  # memory is the slower


@pytest.mark.parametrize("separator", ["/Conv", ":1", ".weight", "_quant", ""])
def test_a_name_that_begins_with_that_of_a_layer_is_of_it(separator: str) -> None:
    told = profile(node(f"a.b{separator}", "Conv", 1.0), node("another", "Pool", 1.0))
    assert told.rows[0].layer in ("a.b", "") and {row.layer for row in told.rows} == {"a.b", ""}
    assert told.left_layers == ("a",)


def test_where_names_tell_nothing_the_order_does() -> None:
    told = profile(node("conv_0", "Convolution", 2.0), node("relu_0", "ReLU", 1.0), node("conv_1", "Convolution", 3.0))
    assert [(row.layer, row.joined, row.nodes) for row in told.rows] == [
        ("a.b", "order", ("conv_1",)), ("a", "order", ("conv_0",)), ("", "", ("relu_0",)),
    ]  # fmt: skip


def test_the_order_tells_nothing_where_the_numbers_differ() -> None:
    told = profile(node("conv_0", "Convolution", 2.0))
    assert [row.layer for row in told.rows] == [""] and told.left_layers == ("a", "a.b")


def test_without_a_network_there_are_only_times() -> None:
    told = profile_of("net", "onnxruntime", ExecutedGraph((node("x", "Conv", 2.0),)), None, None)
    assert told.rows[0].macs is None and told.left_layers == () and told.model_dump_json()


def test_the_table_fits_80_columns_and_names_what_is_left() -> None:
    told = profile(node("layer:a:0", "Conv", 2.0), *(node(f"t{n}", f"Op{n}", 0.1, "other") for n in range(9)))
    shown = io.StringIO()
    Console(file=shown, width=80).print(profile_table(told, most_rows=3))
    text = shown.getvalue()
    assert all(len(line) <= 80 for line in text.splitlines()) and "…" not in text
    words = " ".join(text.split())
    assert (
        "7 others" in words
        and "9 nodes in () belong to no known layer" in words
        and "no node was found for a.b" in words
    )
    for value in ("2.000", "69.0", "1.00", "250.0", "2.900"):
        assert value in words
