"""Activation functions and batch norms in integers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from compress import Context, Result
from compress.edits import replay
from compress.graph.trace import trace
from compress.integers.decompose import decompose, gate
from compress.integers.placement import placement_of
from compress.quantize import Quantize, simulate
from export.onnx.exporter import export_onnx
from runtimes.runtime import load
from tests.support.small_networks import EXACT_TARGET, context_on, snr_db


class Gated(nn.Module):
    """Hard swish, SiLU, and squeeze-and-excitation behind a hard sigmoid: (N, 3, 16, 16) -> (N, 5)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, 2, 1)
        self.swish = nn.Hardswish(inplace=True)
        self.depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.silu = nn.SiLU()
        self.squeeze, self.excite = nn.Conv2d(16, 8, 1), nn.Conv2d(8, 16, 1)
        self.project = nn.Conv2d(16, 8, 1)
        self.classify = nn.Linear(8, 5)

    def forward(self, image: Tensor) -> Tensor:
        x = self.silu(self.depthwise(self.swish(self.stem(image))))
        scale = torch.relu(self.squeeze(x.mean((2, 3), keepdim=True)))
        x = nn.functional.hardsigmoid(self.excite(scale)) * x
        y: Tensor = self.classify(self.swish(self.project(x)).mean((2, 3)))
        return y


class Dense(nn.Module):
    """Batch norms behind concatenations, an average of windows, and parts that several concatenations read."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for width in (8, 12, 16))
        self.convs = nn.ModuleList(nn.Conv2d(width, 4, 3, padding=1) for width in (8, 12))
        self.pool = nn.AvgPool2d(2)
        self.classify = nn.Linear(16, 5)

    def forward(self, image: Tensor) -> Tensor:
        parts = [self.stem(image)]
        for norm, conv in zip(self.norms, self.convs, strict=False):
            parts.append(conv(torch.relu(norm(torch.cat(parts, 1)))))
        x = self.pool(torch.relu(self.norms[-1](torch.cat(parts, 1))))
        y: Tensor = self.classify(x.mean((2, 3)))
        return y


def made(kind: type[nn.Module]) -> tuple[nn.Module, Tensor, Context]:
    torch.manual_seed(0)
    model, images = kind(), torch.randn(32, 3, 16, 16)
    for parameter in model.parameters():
        parameter.data *= 1.5
    model.train()(images)
    return model.eval(), images, context_on((images,))


def deployed(model: nn.Module, images: Tensor, result: Result, path: Path) -> tuple[Tensor, object]:
    export_onnx(result.model, (images[:2],), path, encodings=dict(result.encodings), target=EXACT_TARGET)
    engine = load(path)
    feed = {engine.inputs[0].name: images.numpy()}
    outputs = torch.from_numpy(engine.run(feed)["output"])
    executed = engine.executed_graph(feed)
    engine.close()
    return outputs, executed


@pytest.mark.parametrize("kind", [Gated, Dense])
def test_the_whole_network_runs_in_integers_and_as_simulated(kind: type[nn.Module], tmp_path: Path) -> None:
    model, images, context = made(kind)
    result = Quantize().apply(model, context)
    assert result.skipped == ()
    outputs, executed = deployed(model, images, result, tmp_path / "net.onnx")
    assert executed.float_nodes == ()  # type: ignore[attr-defined]
    with torch.no_grad():
        simulated = simulate(result.model, result.encodings, (images[:2],), target=EXACT_TARGET)(images)
        assert snr_db(simulated, outputs) > 35
        assert snr_db(model(images), outputs) > 25


def test_decomposed_activations_compute_the_same() -> None:
    model, images, _ = made(Gated)
    graph = trace(model, (images[:2],), dynamic_batch=True)
    names = [node.name for node in graph.calls(*_activations())]
    assert len(names) == 4
    assert decompose(graph, lambda node: node.name != names[0]) == 3
    assert {node.name for node in graph.nodes} >= {gate(node) for node in graph.nodes if node.name in names[1:]}
    with torch.no_grad():
        outputs = graph.program.module(check_guards=False)(images)
        torch.testing.assert_close(outputs, model(images), rtol=1e-5, atol=1e-6)


def _activations() -> tuple[object, ...]:
    aten = torch.ops.aten
    return aten.hardswish_.default, aten.silu.default, aten.hardsigmoid.default


def test_an_excluded_activation_is_left_whole() -> None:
    model, _, context = made(Gated)
    result = Quantize(exclude=("silu",)).apply(model, context)
    assert "silu_gate" not in result.encodings and "hardsigmoid_gate" in result.encodings
    assert ("silu", "silu runs in float") in {(skip.layer, skip.reason) for skip in result.skipped}


def test_what_a_dense_block_joins_has_one_encoding() -> None:
    model, images, context = made(Dense)
    network = Quantize().apply(model, context).model
    sites = placement_of(trace(network, (images[:2],), dynamic_batch=True))
    joined = [name for name in sites.measured if name.startswith("cat")]
    assert len(joined) >= 2
    assert {sites.measured[name] for name in joined} == {joined[-1]}


def test_a_batch_norm_behind_a_concatenation_is_a_depthwise_convolution_that_replays() -> None:
    model, images, context = made(Dense)
    result = Quantize().apply(model, context)
    fresh = Dense().eval()
    replay(fresh, result.edits)
    fresh.load_state_dict(result.model.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(fresh(images), model(images), rtol=1e-4, atol=1e-5)
    assert isinstance(fresh.norms[1], nn.Conv2d) and fresh.norms[1].groups == 12
