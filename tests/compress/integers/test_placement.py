"""Which tensors become integers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from compress.data import Data, SampleSplit
from compress.errors import InvalidInput
from compress.graph.trace import Graph, trace
from compress.integers.placement import Placement, placement_of
from compress.quantize import Quantize
from compress.stage import Context
from export.onnx.exporter import export_onnx
from tests.support.small_networks import Joined, PoolFirst, Tokens, Unfolded, made


def decided(kind: type[nn.Module], *exclude: str) -> tuple[Graph, Placement]:
    model, inputs, _ = made(kind)
    graph = trace(model, inputs, dynamic_batch=True)
    return graph, placement_of(graph, exclude)


def test_an_activation_is_encoded_behind_the_relu_that_clips_it() -> None:
    graph, sites = decided(Joined)
    assert "conv2d" not in sites.measured
    assert sites.measured["relu"] == "relu"
    assert sites.measured["max_pool2d"] == "relu", "pooling moves values: same encoding"
    assert {"image", "add", "conv2d_1", "cat", "adaptive_avg_pool2d", "flatten"} <= set(sites.measured)
    assert "linear" not in sites.measured, "the result stays in float"
    assert [p.weight for p in sites.products] == [
        f"{name}.weight" for name in ("stem", "depthwise", "left", "right", "classify")
    ]
    assert sites.skipped == ()
    assert graph.model is not None


def test_parts_of_a_concatenation_share_its_encoding() -> None:
    _, sites = decided(Joined)
    parts = [name for name, at in sites.measured.items() if at == "cat"]
    assert len(parts) == 3, parts  # both clipped branches, and the whole


def test_parts_that_start_at_zero_do_not_share_with_parts_that_do_not() -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = (nn.Conv2d(3, 4, 1) for _ in range(3))
            self.d = nn.Conv2d(8, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.d(torch.cat([torch.relu(self.a(x)), self.b(x)], 1))
            return y

    sites = placement_of(trace(Mixed(), (torch.randn(2, 3, 4, 4),)))
    assert sites.measured["relu"] == "relu"
    assert sites.measured["conv2d_1"] == sites.measured["cat"] == "cat"


def test_pooling_before_the_relu_takes_the_range_behind_it() -> None:
    _, sites = decided(PoolFirst)
    assert sites.measured["conv2d"] == sites.measured["max_pool2d"] == sites.measured["relu"] == "relu"
    assert [(s.layer, s.reason) for s in sites.skipped] == [("", "log_softmax runs in float")]


def test_what_cannot_run_in_integers_is_said() -> None:
    _, sites = decided(Unfolded)
    reasons = {(skip.layer, skip.reason) for skip in sites.skipped}
    assert {
        ("norm", "batch_norm runs in float"),
        ("act", "relu runs in float"),
        ("up", "conv_transpose2d runs in float"),
    } == reasons
    assert len(sites.products) == 3


def test_a_layer_used_twice_is_two_products_of_one_weight() -> None:
    _, sites = decided(Tokens)
    assert [p.weight for p in sites.products] == ["query.weight", "value.weight", "query.weight", "query.weight"]


def test_excluded_layers_stay_in_float_and_are_named() -> None:
    _, sites = decided(Joined, "left", "stem*")
    assert {p.layer for p in sites.products} == {"depthwise", "right", "classify"}
    assert {s.layer for s in sites.skipped if "excluded" in s.reason} == {"left", "stem"}


def test_a_pattern_that_matches_nothing_is_an_error() -> None:
    with pytest.raises(InvalidInput, match="'rigth': matches no layer"):
        decided(Joined, "left", "rigth")


def test_weights_that_are_computed_stay_in_float() -> None:
    class Standardized(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.conv2d(x, self.weight - self.weight.mean(), self.bias)

    sites = placement_of(trace(nn.Sequential(Standardized(3, 4, 1)), (torch.randn(2, 3, 4, 4),)))
    assert sites.products == ()
    assert any("computed" in skip.reason and skip.layer == "0" for skip in sites.skipped)
    assert sites.measured == {}


class Unused(nn.Module):
    """Computes a second head, a sum and a pooling that nothing depends on: (N, 3, 8, 8) -> (N, 5)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head, self.second = nn.Conv2d(3, 8, 3), nn.Linear(8, 5), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.stem(x))
        _ = torch.max_pool2d(y + y, 2), self.second(y.mean((2, 3)) * 2)
        logits: Tensor = self.head(y.mean((2, 3)))
        return logits


def test_what_no_result_depends_on_stays_in_float(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, x = Unused().eval(), torch.randn(8, 3, 8, 8)
    context = Context((x[:1],), Data("random", {"calibration": SampleSplit(x, None)}))
    result = Quantize().apply(model, context)
    assert {name for name in result.encodings if name.endswith("weight")} == {"stem.weight", "head.weight"}
    assert {skip.layer: skip.reason for skip in result.skipped}["second"].endswith(
        "no result of the network depends on it"
    )
    assert export_onnx(result.model, (x[:1],), tmp_path / "net.onnx", encodings=result.encodings).file.exists()
