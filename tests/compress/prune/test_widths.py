"""Widths by latency: the table and its file, one-layer files, the search, the target; no real time is asserted."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from compress.clock import LayerShape, Precision, Timed
from compress.deploy.clock import MachineClock
from compress.edits import replay
from compress.errors import InvalidInput
from compress.graph.trace import trace
from compress.prune import Prune
from compress.prune.channels.groups import channels
from compress.prune.latency.table import LatencyTable, deployable
from compress.prune.latency.widths import Latencies, Search, candidates, importance, timed_layers
from compress.prune.select import SELECTIONS
from compress.prune.surgery.choose import Rules, Selection
from compress.prune.surgery.size_model import SizeModel
from compress.quantize.detect import detected
from compress.stage import Context, evaluation_copy
from export.onnx.one_layer import layer_file
from runtimes import cache
from runtimes.runtime import load
from tests.support.invented_clock import InventedClock

IMAGE = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, width, 3, padding=1)
        self.depthwise = nn.Conv2d(width, width, 3, stride=2, padding="valid", groups=width)
        self.second = nn.Conv2d(width, 2 * width, 1)
        self.fc = nn.Linear(2 * width, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.depthwise(torch.relu(self.first(x))))
        y: Tensor = self.fc(torch.relu(self.second(x)).mean((2, 3)))
        return y


def net() -> nn.Module:
    torch.manual_seed(0)
    return Net().eval()


def staircase_ms(layer: LayerShape) -> float:
    """An engine that works in blocks of 8 outputs and is slow at odd widths."""
    blocks = 8 * -(-layer.outputs // 8)
    return 1e-5 * layer.inputs * blocks * (1.5 if layer.outputs % 2 else 1.0) * layer.size[0] / layer.groups


def invented(**options: object) -> InventedClock:
    """Latencies from a formula; the network's is the sum of its layers and a constant."""
    return InventedClock(_timed_ms, layer_ms=staircase_ms, **options)  # type: ignore[arg-type]


def _timed_ms(network: Timed) -> float:
    return network_ms(network.model)


def network_ms(network: nn.Module) -> float:
    layers, _ = timed_layers(trace(evaluation_copy(network), (IMAGE,)))
    return 0.002 + 0.7 * sum(staircase_ms(layer.shape) for layer in layers)


def layers_of(*outputs: int) -> list[LayerShape]:
    return [LayerShape("conv", 8, o, (4, 4), (3, 3), (1, 1), (1, 1)) for o in outputs]


def test_a_table_measures_once_and_keeps_it_in_a_file(tmp_path: Path) -> None:
    clock = invented()
    table = LatencyTable(clock, tmp_path / "new" / "folder")
    table.measure([*layers_of(8, 16), *layers_of(8)])
    assert [layer.outputs for layer in clock.layers] == [8, 16]
    assert table.ms(layers_of(24)[0]) == staircase_ms(layers_of(24)[0]) and len(clock.layers) == 3
    again = invented()
    reread = LatencyTable(again, tmp_path / "new" / "folder")
    assert [reread.ms(layer) for layer in layers_of(8, 16, 24)] == [
        staircase_ms(layer) for layer in layers_of(8, 16, 24)
    ]
    assert not again.layers and len(reread) == 3


def test_other_conditions_have_another_file(tmp_path: Path) -> None:
    clocks = [invented(), invented(threads=2), invented(version="2"), invented(target="litert")]
    kinds: list[tuple[InventedClock, Precision]] = [*((clock, "float") for clock in clocks), (invented(), "int8")]
    for clock, precision in kinds:
        LatencyTable(clock, tmp_path, precision=precision).measure(layers_of(8))
        assert len(clock.layers) == 1
    assert len(list(tmp_path.iterdir())) == len(kinds)
    without = invented()
    LatencyTable(without, None).measure(layers_of(8))
    assert len(without.layers) == 1 and len(list(tmp_path.iterdir())) == len(kinds)


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", '{"version": 1}', '{"version": 99, "conditions": {}, "ms": {}}', "\x00\xff", "null",
     '{"version": 1, "conditions": CONDITIONS, "ms": {"LAYER": "fast"}}',
     '{"version": 1, "conditions": CONDITIONS, "ms": {"LAYER": -1.0}}',
     '{"version": 1, "conditions": CONDITIONS, "ms": {"LAYER": NaN}}',
     '{"version": 1, "conditions": CONDITIONS, "ms": [1]}'],
)  # fmt: skip
def test_a_corrupted_file_is_measured_again_and_replaced(tmp_path: Path, content: str) -> None:
    (layer,) = layers_of(8)
    first = LatencyTable(invented(), tmp_path)
    first.measure([layer])
    assert first.file is not None
    conditions = json.dumps({**invented().conditions, "precision": "float"})
    first.file.write_text(content.replace("CONDITIONS", conditions).replace("LAYER", str(layer)), encoding="latin-1")
    clock = invented()
    assert LatencyTable(clock, tmp_path).ms(layer) == staircase_ms(layer) and clock.layers == [layer]
    assert json.loads(first.file.read_text())["ms"] == {str(layer): staircase_ms(layer)}


def test_what_another_process_stored_stays(tmp_path: Path) -> None:
    one, two = LatencyTable(invented(), tmp_path), LatencyTable(invented(), tmp_path)
    one.measure(layers_of(8))
    two.measure(layers_of(16))
    clock = invented()
    LatencyTable(clock, tmp_path).measure(layers_of(8, 16))
    assert not clock.layers


def test_a_folder_that_cannot_be_written_is_told_and_no_error(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    LatencyTable(invented(), tmp_path / "file" / "folder").measure(layers_of(8))
    assert "cannot be written" in caplog.text


LAYERS = [
    LayerShape("conv", 4, 6, (8, 9), (3, 5), (2, 1), (1, 2), (1, 1)),
    LayerShape("conv", 6, 6, (8, 8), (3, 3), (1, 1), (1, 1), groups=6),
    LayerShape("linear", 12, 5, (1, 3)),
]


@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: layer.kind)
@pytest.mark.parametrize("precision", ["float", "int8"])
def test_a_layer_file_runs_as_its_shape_and_precision_say(
    layer: LayerShape, precision: Precision, tmp_path: Path
) -> None:
    model = layer_file(layer, precision, detected().target)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, tmp_path / "layer.onnx")
    engine = load(tmp_path / "layer.onnx")
    shape = (1, layer.inputs, *layer.size) if layer.kind == "conv" else (layer.size[1], layer.inputs)
    x = np.random.default_rng(0).random(shape, dtype=np.float32)
    (y,) = engine.run({"x": x}).values()
    real = {
        tensor.name: onnx.numpy_helper.to_array(tensor)
        for tensor in layer_file(layer, "float", detected().target).graph.initializer
    }
    weight, given = torch.from_numpy(real["weight"].copy()), torch.from_numpy(x)
    if layer.kind == "conv":
        expected = nn.functional.conv2d(
            given, weight, None, layer.stride, layer.padding, layer.dilation, layer.groups
        ).relu()
    else:
        expected = nn.functional.linear(given, weight).relu()
    assert np.abs(y - expected.numpy()).max() < (1e-5 if precision == "float" else 0.1)
    assert (engine.executed_graph().integer > 0) == (precision == "int8")  # type: ignore[union-attr]


def test_the_engine_measures_layers_and_networks() -> None:
    clock = MachineClock()
    assert all(ms > 0 for ms in clock.layers_ms(LAYERS, "float"))
    assert clock.conditions["target"] == detected().target and clock.conditions["engine"] == "onnxruntime"
    networks = [deployable(net(), (IMAGE,), precision) for precision in ("float", "int8")]
    assert not networks[0].encodings and networks[1].encodings
    assert all(ms > 0 for ms in clock.ms_of(networks))


@pytest.mark.parametrize("target", ["litert", "ncnn", "openvino"])
@pytest.mark.parametrize("precision", ["float", "int8"])
def test_layers_are_timed_in_the_engine_of_another_target(target: str, precision: Precision) -> None:
    try:
        clock = MachineClock(target)
    except InvalidInput as error:
        pytest.skip(str(error))
    layers = [LayerShape("conv", 4, 8, (6, 6), (3, 3), (1, 1), (1, 1)), LayerShape("linear", 8, 6, (1, 1))]
    assert all(ms > 0 for ms in clock.layers_ms(layers, precision))
    assert clock.conditions["target"] == target


def search_of(model: nn.Module, clock: InventedClock, scope: str = "layer") -> tuple[Selection, SizeModel, Latencies]:
    found = channels(trace(evaluation_copy(model), (IMAGE,)))
    groups = found.groups
    generator = torch.Generator().manual_seed(0)
    scores = [torch.rand(len(g.units), generator=generator, dtype=torch.float64) for g in groups]
    counts = SizeModel(found, groups, [torch.argsort(s).tolist() for s in scores])
    rules = Rules("measured")
    ranges = [rules.range_of(g, len(g.units)) for g in groups]
    selection = Selection(groups, scores, ranges, SELECTIONS.read(scope), [None] * len(groups))
    return selection, counts, Latencies(counts, LatencyTable(clock, None))


def test_layers_are_timed_at_the_shapes_of_the_network_that_is_cut() -> None:
    _, counts, latencies = search_of(net(), invented())
    assert [layer.shape.kind for layer in latencies.layers] == ["conv", "conv", "conv", "linear"]
    for kept in ([16, 32], [5, 9], [1, 32]):
        pruned = evaluation_copy(net())
        replay(pruned, counts.channels.edits(counts.removed(kept)))
        layers, skipped = timed_layers(trace(pruned, (IMAGE,)))
        assert latencies.ms(kept) == pytest.approx(sum(staircase_ms(layer.shape) for layer in layers)) and not skipped
    assert latencies.layers[1].shape.groups == 16 and latencies.layers[1].shape.padding == (0, 0)


def test_the_search_is_as_good_as_trying_all() -> None:
    selection, counts, latencies = search_of(net(), invented())
    worth = importance(selection, counts)
    options = [list(range(1, 17)), list(range(2, 33, 2))]
    search = Search(latencies, options, worth)
    for budget in (0.3, 0.5, 0.7):
        limit = budget * counts.macs(counts.whole)
        kept = search.within(counts.macs, limit, [4, 8], speed=1.0)
        assert kept is not None and 0.95 * limit <= counts.macs(kept) <= limit
        everything = [k for k in itertools.product(*options) if 0.95 * limit <= counts.macs(k) <= limit]
        assert search._loss(kept, 1.0) == pytest.approx(min(search._loss(k, 1.0) for k in everything))
        most = budget * latencies.ms(counts.whole)
        kept = search.within(latencies.ms, most, [4, 8], speed=0.0)
        best = max(worth(k) for k in itertools.product(*options) if latencies.ms(k) <= most)
        assert kept is not None and latencies.ms(kept) <= most and worth(kept) >= 0.97 * best
    assert search.within(counts.macs, 1.0, [4, 8], speed=1.0) is None


def test_candidates_are_near_what_is_wanted_and_within_the_range() -> None:
    selection, _, _ = search_of(net(), invented())
    assert candidates(selection, [8.0, 10.0]) == [[*range(4, 17)], [*range(6, 21, 2)]]
    assert candidates(selection, [8.0, 10.0], all_wider=True)[1] == [*range(6, 33, 2)]
    assert candidates(selection, [0.0, 0.0]) == [[1], [1]]


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Context:
    """A context with an invented clock."""
    monkeypatch.setenv("EDGEPRESS_CACHE", str(tmp_path / "cache"))
    return Context((IMAGE,), clock=invented())


@pytest.mark.parametrize("target", [{"macs": 2.0}, {"ratio": 0.4}])
def test_measured_widths_meet_the_target_and_are_fast_ones(timed: Context, target: dict[str, float]) -> None:
    nearest = Prune.model_validate({**target, "round_to": 1}).apply(net(), timed).model
    assert isinstance(timed.clock, InventedClock) and not timed.clock.layers
    measured = Prune.model_validate({**target, "round_to": "measured"}).apply(net(), timed).model
    widths = [measured.get_submodule(name).out_channels for name in ("first", "second")]
    assert all(width % 2 == 0 for width in widths), "odd ones take half as long again"  # type: ignore[operator]
    macs = [channels(trace(evaluation_copy(m), (IMAGE,))).macs() for m in (net(), nearest, measured)]
    if "macs" in target:
        assert 0.9 * macs[1] <= macs[2] <= macs[0] / 2
    else:
        assert sum(widths) <= 0.6 * 48  # type: ignore[arg-type]
    assert list(cache.folder().glob("layers-*.json"))


@pytest.mark.parametrize("factor", [1.3, 2.0])
@pytest.mark.parametrize("round_to", [4, "measured"])
def test_a_latency_is_reached_by_measuring_the_network(timed: Context, factor: float, round_to: int | str) -> None:
    result = Prune.model_validate({"latency": factor, "round_to": round_to}).apply(net(), timed)
    reached = network_ms(net()) / network_ms(result.model)
    assert factor <= reached <= 1.45 * factor
    if reached > 1.1 * factor:
        assert any(
            f"faster: {reached:.2f} times, where {factor:.3g} were asked for" in s.reason for s in result.skipped
        )


def test_a_latency_out_of_reach_tells_what_is_reachable(timed: Context) -> None:
    with pytest.raises(InvalidInput, match=r"latency=100 is out of reach: at most \d+\.\d\d times faster"):
        Prune(latency=100, round_to="measured", minimum=4).apply(net(), timed)


def test_a_latency_in_steps(timed: Context) -> None:
    result = Prune(latency=2.0, steps=2, round_to=1).apply(net(), timed)
    assert network_ms(net()) / network_ms(result.model) >= 2.0


def test_layers_that_the_table_does_not_know_are_told(timed: Context) -> None:
    model = nn.Sequential(
        nn.ConvTranspose2d(3, 16, 2), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.Flatten(), nn.Linear(784, 5)
    )
    result = Prune(macs=1.5, round_to="measured").apply(model, timed)
    assert any(s.layer == "0" and "its latency is taken as fixed" in s.reason for s in result.skipped)


def test_the_clock_times_for_the_threads_that_are_asked_for(timed: Context) -> None:
    result = Prune(latency=1.3, round_to=1, threads=3, latency_target="litert").apply(net(), timed)
    assert isinstance(timed.clock, InventedClock) and "on litert, 3" in timed.clock.asked
    assert result.measured[0].engine == "Invented"


@pytest.mark.parametrize("settings", [{"latency": 1.3}, {"macs": 2.0, "round_to": "measured"}])
def test_a_context_without_a_clock_is_told_how_to_get_one(settings: dict[str, object]) -> None:
    with pytest.raises(InvalidInput, match=r"prune: latencies are measured, and the context has no clock; give one"):
        Prune.model_validate(settings).apply(net(), Context((IMAGE,)))
