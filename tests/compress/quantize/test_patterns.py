"""Kinds of operations in float as a whole: what is in a kind, what stays encoded, and that the clock decides."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from compress import deploy
from compress.clock import Timed
from compress.errors import GateFailed
from compress.graph.trace import Graph, trace
from compress.integers.placement import encoded_placement, without_layers
from compress.quantize import Quantize, simulate
from compress.quantize.patterns import Group, groups_of
from compress.sources.load import Network
from compress.sources.specification import Source
from compress.stage import Result
from tests.support.invented_clock import InventedClock
from tests.support.small_networks import Joined, context_on, made


class Mixed(nn.Module):
    """Each kind once: a residual sum, a concatenation, a pooling, a gate, a hard-swish, a depthwise convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.swish = nn.Hardswish()
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.branch = nn.Conv2d(8, 8, 3, padding=1)
        self.squeeze = nn.Conv2d(8, 8, 1)
        self.join = nn.Conv2d(16, 8, 1)
        self.classify = nn.Linear(8, 4)

    def forward(self, image: Tensor) -> Tensor:
        x = torch.relu(self.depthwise(self.swish(self.stem(image))))
        x = torch.relu(x + self.branch(x))
        x = x * torch.sigmoid(self.squeeze(x))
        x = self.join(torch.cat([x, torch.relu(self.branch(x))], 1))
        logits: Tensor = self.classify(x.mean((2, 3)))
        return logits


def quantized() -> tuple[Result, tuple[Tensor, ...], Graph, dict[str, Group]]:
    torch.manual_seed(0)
    inputs = (torch.randn(16, 3, 8, 8),)
    model = Mixed().eval()
    for name, parameter in model.named_parameters():
        if name.endswith("weight"):
            nn.init.kaiming_normal_(parameter)  # so that what is rounded is seen in the results
    result = Quantize(revert_slower=False).apply(model, context_on(inputs))
    one = (inputs[0][:1],)
    graph = trace(result.model, one, dynamic_batch=True)
    groups = groups_of(graph, encoded_placement(graph, result.encodings))
    return result, one, graph, {group.name: group for group in groups}


def test_operations_are_of_one_kind_each() -> None:
    _, _, _, groups = quantized()
    counts = {name: (len(group.operations), sorted(group.layers)) for name, group in groups.items()}
    assert counts == {
        "sums": (1, []),
        "concatenations": (1, []),
        "poolings": (1, []),
        "products of activations": (1, []),
        "activation functions": (5, []),  # four parts of the hard-swish, and the sigmoid
        "depthwise convolutions": (0, ["depthwise"]),
        "first and last layers": (0, ["classify", "stem"]),
    }
    every = [name for group in groups.values() for name in group.operations]
    assert len(every) == len(set(every))


@pytest.mark.parametrize(
    ("kind", "gone", "stays"),
    [
        ("sums", {"conv2d_2"}, {"relu", "relu_1"}),  # the branch is read by the sum alone, its result by a layer
        ("poolings", {"conv2d_5"}, {"mean"}),
        ("activation functions", {"hardswish_gate", "conv2d", "sigmoid", "conv2d_3"}, {"hardswish", "mul"}),
    ],
)
def test_what_operations_in_float_alone_read_is_not_encoded(kind: str, gone: set[str], stays: set[str]) -> None:
    result, _, graph, groups = quantized()
    left = without_layers(graph, result.encodings, (), groups[kind].operations)
    assert gone | stays <= set(result.encodings)
    assert gone <= set(result.encodings) - set(left) and stays <= set(left)
    weights = {name for name in result.encodings if name.endswith(".weight")}
    assert weights <= set(left), "layers stay in integers"


def test_files_with_any_kind_in_float_compute_what_their_simulation_does(tmp_path: Path) -> None:
    result, one, graph, groups = quantized()
    source = Source("module", "tests.compress.quantize.test_patterns", "Mixed")
    whole = simulate(result.model, result.encodings, one)(*one)
    counts, changed = {}, set()
    for number, group in enumerate(groups.values()):
        encodings = without_layers(graph, result.encodings, group.layers, group.operations)
        network = Network(result.model, source, example_inputs=one, encodings=encodings)
        record, _ = deploy.export(network, "m", tmp_path / f"{number}.onnx", deploy.Wanted("onnx"))
        assert record.parity is not None and record.nodes is not None
        counts[group.name] = record.nodes.float
        if not torch.equal(simulate(result.model, encodings, one)(*one), whole):
            changed.add(group.name)
    assert all(counts.values()), f"each has nodes in float: {counts}"
    assert changed >= {"products of activations", "activation functions", "depthwise convolutions"}, "less is rounded"


def test_the_clock_decides_of_each_kind() -> None:
    """Sums are slower in integers, concatenations faster."""
    model, _, context = made(Joined)
    whole = Quantize(revert_slower=False).apply(model, context)
    names = set(whole.encodings)

    def ms(network: Timed) -> float:
        gone = names - set(network.encodings)
        return 9.0 if not network.encodings else 5.0 - 1.0 * ("conv2d_1" in gone) + 0.5 * ("cat" in gone)

    clock = InventedClock(ms)
    result = Quantize(patterns=True).apply(model, replace(context, clock=clock))
    (choice,) = result.measured
    assert choice.told == (
        "slower in integers, so restored to float at load: none; computed in float: sums; 4.000 ms instead of 5.000 ms "
        "all in integers, 9.000 ms all in float"
    )
    assert "conv2d_1" in names - set(result.encodings) and not any(e.restored for e in result.encodings.values())
    told = [skip.reason for skip in result.skipped]
    assert "kept in float: the network is 1.000 ms faster with its sums in float" in told
    assert not [reason for reason in told if "concatenations" in reason]


def test_a_kind_that_cannot_be_written_in_float_is_told_and_the_search_goes_on() -> None:
    model, _, context = made(Joined)

    def ms(network: Timed) -> float:
        if not network.encodings:
            return 9.0
        if "conv2d_1" not in network.encodings and not network.encodings["depthwise.weight"].restored:
            raise GateFailed("export: the engine has no such sum")
        return 4.0

    result = Quantize(patterns=True).apply(model, replace(context, clock=InventedClock(ms)))
    told = [skip.reason for skip in result.skipped]
    assert "sums cannot be tried in float: export: the engine has no such sum" in told
    assert "conv2d_1" in result.encodings
