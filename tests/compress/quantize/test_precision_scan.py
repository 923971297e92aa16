"""The scan of each layer alone in fewer bits: against networks simulated one by one; its record and its file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from compress.data import Data, SampleSplit
from compress.errors import InvalidInput
from compress.quantize import Quantize, simulate
from compress.quantize.budget import sensitivity
from compress.quantize.budget.precisions import Candidates
from compress.quantize.budget.sensitivity import PrecisionScan, PrecisionSensitivity, noise_ratio
from compress.quantize.budget.trade_off import Comparison
from compress.stage import Context
from tests.support.small_networks import Joined, Tokens, Unfolded, made

NETWORKS: dict[type[nn.Module], str] = {Joined: "float", Unfolded: "int8", Tokens: "float"}


@pytest.fixture(autouse=True)
def _few_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sensitivity, "BATCH", 12)


def candidates_of(kind: type[nn.Module]) -> tuple[Candidates, tuple[Tensor, ...], Context]:
    model, inputs, context = made(kind)
    result = Quantize().apply(model, context)
    return Candidates.of(result.model, result.encodings, context.example_inputs, target="ort-x86"), inputs, context


@pytest.mark.parametrize("kind", NETWORKS, ids=lambda kind: kind.__name__)
def test_each_layer_costs_what_its_simulation_says(kind: type[nn.Module]) -> None:
    candidates, inputs, context = candidates_of(kind)
    around = NETWORKS[kind]
    found = PrecisionScan(others_in=around, samples=33).measure(candidates, context)
    x = tuple(each[:33] for each in inputs)
    with torch.no_grad():
        exact = (candidates.model(*x),)

    def noise(encodings: object) -> float:
        with torch.no_grad():
            return noise_ratio(exact, (simulate(candidates.model, encodings, context.example_inputs)(*x),))  # type: ignore[arg-type]

    whole = candidates.uniform("int8")
    base = noise(candidates.encodings_of(whole)) if around == "int8" else 0.0
    assert found.noise == pytest.approx(base, rel=1e-4) and found.samples == 33
    assert [layer.weight for layer in found.layers] == [unit.name for unit in candidates.units]
    unit, layer = candidates.units[-1], found.layers[-1]
    if around == "int8":
        expected = noise(candidates.encodings_of(whole | {unit.name: "float"})) - base
        assert layer.loss("float", "snr") == pytest.approx(expected, rel=1e-3)
        assert layer.loss("int8", "snr") == 0
    else:
        read = {p.read: candidates.encodings[p.read] for p in unit.products if p.read in candidates.encodings}
        expected = noise(read | {name: candidates.weights["int4"][name] for name in unit.weights})
        assert layer.loss("int4", "snr") == pytest.approx(expected, rel=1e-4)
        assert layer.loss("float", "snr") == 0


def test_layers_that_share_a_weight_go_together() -> None:
    candidates, _, _ = candidates_of(Tokens)
    assert [(unit.layers, len(unit.products)) for unit in candidates.units] == [(("query",), 3), (("value",), 1)]


def test_a_scan_goes_on_where_it_was_interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    candidates, _, context = candidates_of(Joined)
    scan, record = PrecisionScan(samples=30), tmp_path / "record.json"
    whole = scan.measure(candidates, context)
    runs: list[int] = []
    outputs = sensitivity.Program.outputs  # type: ignore[attr-defined]

    def interrupted(self: sensitivity.Program, inputs: tuple[Tensor, ...], *rest: object) -> object:  # type: ignore[name-defined]
        runs.append(len(inputs[0]))
        if len(runs) == 3:
            raise KeyboardInterrupt
        return outputs(self, inputs, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(sensitivity.Program, "outputs", interrupted)  # type: ignore[attr-defined]
    with pytest.raises(KeyboardInterrupt):
        scan.measure(candidates, context, record=record)
    assert record.exists()
    assert scan.measure(candidates, context, record=record) == whole
    assert not record.exists() and runs[3:] == [12, 12, 6, 6], "the float network and all others, in two batches"
    record.write_text("{", encoding="utf-8")
    assert scan.measure(candidates, context, record=record) == whole, "what is no record is not gone on from"


def test_points_are_told_where_there_are_labels(data: Data, small_net: nn.Module, tmp_path: Path) -> None:
    context = Context((data.example(),), data)
    result = Quantize().apply(small_net, context)
    candidates = Candidates.of(result.model, result.encodings, context.example_inputs, target="ort-x86")
    found = PrecisionScan().measure(candidates, context)
    assert found.split == "validation" and found.samples == 24 and found.score is not None
    assert all(layer.score is not None and layer.score[-1] == 0 for layer in found.layers)
    (tmp_path / "sensitivity.json").write_text(found.model_dump_json(), encoding="utf-8")
    assert PrecisionSensitivity.read(tmp_path) == found
    with pytest.raises(InvalidInput, match=r"not JSON|not the scan of a quantization"):
        PrecisionSensitivity.read(Path(__file__))
    with pytest.raises(InvalidInput, match="no such file"):
        PrecisionSensitivity.read(tmp_path / "none.json")
    other = found.model_copy(update={"layers": found.layers[1:]})
    with pytest.raises(InvalidInput, match="the scan is of another network: it has no"):
        other.of_units(candidates.units)
    wrong = Data("wrong", {"validation": SampleSplit(torch.zeros(4, 3, 8, 8), None)})
    with pytest.raises(InvalidInput, match=r"samples have the shapes \[\(3, 8, 8\)\]"):
        PrecisionScan().measure(candidates, Context(context.example_inputs, wrong))


@pytest.mark.parametrize(
    "returned",
    [
        lambda y: {"logits": y, "first": (y[:, :1],)},
        lambda y: y.sum(),
        lambda y: (y, y > 0, y.argmax(1)),
        lambda y: [y],
    ],
    ids=["dictionary", "number", "truths and integers", "list"],
)
def test_whatever_a_network_returns_can_be_compared(returned: Callable[[Tensor], object]) -> None:
    class Returns(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(6, 8), nn.Linear(8, 4)

        def forward(self, x: Tensor) -> object:
            return returned(self.last(torch.relu(self.first(x))))

    torch.manual_seed(0)
    x = torch.randn(32, 6)
    context = Context((x[:1],), Data("random", {"calibration": SampleSplit(x, None)}))
    result = Quantize().apply(Returns().eval(), context)
    candidates = Candidates.of(result.model, result.encodings, context.example_inputs, target="ort-x86")
    scan = PrecisionScan(samples=32).measure(candidates, context)
    assert all(layer.loss("int4", "snr") > layer.loss("int8", "snr") > 0 for layer in scan.layers)
    ratio, score = Comparison.of(candidates, context, 32)(candidates.encodings)
    assert ratio is not None and ratio > 10 and score is None
