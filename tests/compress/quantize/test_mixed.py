"""Mixed precision: budgets as the file keeps them, choices against all others, and what goes together with it."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path

import onnx
import pytest
from pydantic import ValidationError
from torch import nn

from compress.clock import Timed
from compress.data import Data
from compress.deploy.clock import MachineClock
from compress.errors import InvalidInput
from compress.integers.encoding import Encoding
from compress.quantize import Quantize
from compress.quantize.budget import budget as mixed
from compress.quantize.budget.budget import ORDER, Budget, Mixing
from compress.quantize.budget.layer_costs import Costs, Latency
from compress.quantize.budget.precisions import Candidates, Precision
from compress.quantize.budget.sensitivity import PrecisionScan, UnitSensitivity
from compress.quantize.budget.trade_off import trade_off
from compress.quantize.detect import detected
from compress.quantize.revert import Reversion, without
from compress.stage import Context
from export.onnx.exporter import export_onnx
from export.onnx.parts import bytes_by_layer
from tests.support.invented_clock import InventedClock
from tests.support.small_networks import Joined, made


def stored(path: Path) -> int:
    """The bytes of the initializers of a file."""
    return sum(onnx.numpy_helper.to_array(tensor).nbytes if tensor.data_type != onnx.TensorProto.INT4 else
               len(tensor.raw_data) for tensor in onnx.load(str(path)).graph.initializer)  # fmt: skip


def test_a_budget_of_bytes_is_kept_by_the_file(data: Data, small_net: nn.Module, tmp_path: Path) -> None:
    context = Context((data.example(),), data, clock=MachineClock())
    mix = Budget(size=3.2, samples=20, precisions=("int4", "int8"))
    stage = Quantize(budget=mix, recover=[{"adaround": 5}])
    result = stage.apply(small_net, context)
    file, target = tmp_path / "mixed.onnx", detected().target
    export_onnx(result.model, context.example_inputs, file, encodings=result.encodings, target=target)
    export_onnx(result.model, context.example_inputs, tmp_path / "float.onnx")
    budget, got = stored(tmp_path / "float.onnx") / 3.2, stored(file)
    assert got <= budget
    kinds = {edit.layer: str(edit.after) for edit in result.edits if edit.kind == "precision"}
    assert set(kinds.values()) == {"int4", "int8"}, "the budget lies between the two"
    assert all(result.encodings[f"{layer}.weight"].stored == kind for layer, kind in kinds.items())
    four = list(kinds.values()).count("int4")
    told = [str(edit.after) for edit in result.edits if edit.what == "weights" and "of at most" in str(edit.after)]
    assert told == [f"{four} int4, {len(kinds) - four} int8: {got:,.0f} of at most {budget:,.0f} bytes"]


def of_joined() -> tuple[Candidates, Context]:
    model, _, context = made(Joined)
    result = Quantize().apply(model, context)
    return Candidates.of(result.model, result.encodings, context.example_inputs, target="ort-x86"), context


class Sums:
    """A gauge whose files cost what their layers do, and so much more."""

    unit = "bytes"

    def __init__(self, costs: Costs, more: float) -> None:
        self.known, self.more = costs, more

    def costs(self, candidates: Candidates, precisions: object) -> Costs:
        return self.known

    def measured(self, candidates: Candidates, encodings: object) -> float:
        assert isinstance(encodings, dict)
        chosen = {
            unit.name: "float" if unit.name not in encodings else f"int{encodings[unit.name].bits}"
            for unit in candidates.units
        }
        return self.known.of(chosen) + self.more  # type: ignore[arg-type]


def test_the_choice_is_the_best_of_all() -> None:
    candidates, context = of_joined()
    names = [unit.name for unit in candidates.units]
    sensitivities = PrecisionScan(samples=20).measure(candidates, context).of_units(candidates.units)
    units = {unit.name: {"int4": n / 2, "int8": n, "float": 4 * n}
             for unit in candidates.units for n in [float(unit.tensor.numel())]}  # fmt: skip
    costs = Costs(units, 100.0, 3000.0)  # type: ignore[arg-type]
    mixing = Mixing(candidates, sensitivities, costs, Sums(costs, 30.0), "snr", ORDER, 900.0)
    mix = mixing.choose()

    def loss(chosen: tuple[Precision, ...]) -> float:
        return sum(each.loss(p, "snr") for each, p in zip(sensitivities, chosen, strict=True))

    every = [dict(zip(names, chosen, strict=True)) for chosen in product(ORDER, repeat=5)]
    fitting = [tuple(chosen.values()) for chosen in every if costs.of(chosen) + 30 <= 900]
    assert mix.cost <= 900 and mix.loss == pytest.approx(min(map(loss, fitting)))
    with pytest.raises(InvalidInput, match=r"the budget is 200 bytes, and the cheapest choice takes 454, 6\.61 times"):
        replace(mixing, budget=200.0).choose()


def test_latencies_choose_between_integers_and_float(monkeypatch: pytest.MonkeyPatch) -> None:
    candidates, context = of_joined()
    names = [unit.name for unit in candidates.units]
    times = {
        "stem": (4.0, 1.0),
        "depthwise": (1.0, 2.0),
        "left": (2.0, 1.0),
        "right": (2.0, 1.0),
        "classify": (1.0, 1.0),
    }

    class Timed(Latency):
        def costs(self, candidates: Candidates, precisions: object) -> Costs:
            known = {f"{name}.weight": {"float": a, "int8": b} for name, (a, b) in times.items()}
            return Costs(known, 0.5, 10.5)  # type: ignore[arg-type]

        def measured(self, candidates: Candidates, encodings: object) -> float:
            assert isinstance(encodings, dict)
            chosen = {name: "int8" if name in encodings else "float" for name in names}
            return self.costs(candidates, ()).of(chosen)  # type: ignore[arg-type]

    monkeypatch.setattr(mixed, "Latency", Timed)
    mix = Budget(latency=1.5, samples=20).start(candidates, context, MachineClock()).choose()
    integers = {name for name, precision in mix.precisions.items() if precision == "int8"}
    assert "stem.weight" in integers and len(integers) == 2 and integers & {"left.weight", "right.weight"}
    assert mix.told() == "2 int8, 3 float: 6.500 of at most 7.000 ms"


def test_latencies_of_an_engine_that_tells_no_parts_are_differences_of_whole_networks() -> None:
    candidates, context = of_joined()
    slower = {"stem": 3.0, "depthwise": -1.0, "left": 1.0, "right": 1.0, "classify": 0.25}  # ms, in float

    def ms(network: Timed) -> float:
        return 5.0 + sum(more for name, more in slower.items() if f"{name}.weight" not in network.encodings)

    clock = InventedClock(ms)
    costs = Latency(clock).costs(candidates, ORDER)
    assert costs.whole == 9.25 and costs.rest == 5.0
    assert {name: costs.units[f"{name}.weight"]["float"] for name in slower} == pytest.approx(slower)
    assert clock.asked == ["profile", "profile", "time 7"]  # two whole networks and five with a layer in float
    mix = Budget(latency=1.5, samples=20).start(candidates, context, clock).choose()
    assert mix.cost <= 9.25 / 1.5 and mix.precisions["depthwise.weight"] == "float"
    assert mix.precisions["stem.weight"] == "int8"


def test_layers_that_go_back_to_float_stay_stored_in_the_bits_that_were_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    model, _, context = made(Joined)

    def reverted(
        network: nn.Module, encodings: dict[str, Encoding], inputs: tuple[object, ...], clock: object, **_: object
    ) -> Reversion:
        left = without(network, encodings, inputs, {"left"})  # type: ignore[arg-type]
        return Reversion(left | {"left.weight": replace(encodings["left.weight"], restored=True)}, (), 2.0, 3.0, 1.0)

    monkeypatch.setattr("compress.quantize.quantize.revert_slower", reverted)
    numbers = {"stem": 216, "depthwise": 72, "left": 32, "right": 288, "classify": 40}
    known = {f"{name}.weight": {"int4": n / 2, "int8": n, "float": 4 * n} for name, n in numbers.items()}
    gauge = Sums(Costs(known, 0.0, 2592.0), 0.0)  # type: ignore[arg-type]
    monkeypatch.setattr(mixed, "FileBytes", lambda clock: gauge)
    chosen = Quantize(budget=Budget(size=4, samples=20)).apply(model, context)
    result = Quantize(budget=Budget(size=4, samples=20), revert_slower=True).apply(model, context)
    bits = {name: result.encodings[name].bits for name in known}
    assert bits == {name: chosen.encodings[name].bits for name in known} and set(bits.values()) <= {4, 8}
    assert [name for name in known if result.encodings[name].restored] == ["left.weight"]
    assert sum(numbers[name.partition(".")[0]] * b / 8 for name, b in bits.items()) <= 648


def test_the_curve_rises_with_the_bytes(data: Data, small_net: nn.Module) -> None:
    context = Context((data.example(),), data)
    result = Quantize().apply(small_net, context)
    candidates = Candidates.of(result.model, result.encodings, context.example_inputs, target="ort-x86")
    found = PrecisionScan().measure(candidates, context)
    units = {unit.name: {"int4": n / 2, "int8": n, "float": 4 * n}
             for unit in candidates.units for n in [float(unit.tensor.numel())]}  # fmt: skip
    costs = Costs(units, 100.0, 3000.0)  # type: ignore[arg-type]
    curve = trade_off(candidates, found, costs, context, points=5, simulated=2)
    losses = [point.loss for point in curve.points]
    assert losses == sorted(losses, reverse=True)
    first, last = curve.points[0], curve.points[-1]
    assert set(first.precisions.values()) == {"int4"} and set(last.precisions.values()) == {"int8"}
    assert first.snr_db is not None and last.snr_db is not None and first.snr_db < last.snr_db
    assert first.predicted_snr_db == pytest.approx(first.snr_db, abs=6) and last.score is not None


def test_tensors_belong_to_the_layer_that_alone_reads_them() -> None:
    make, tensor = onnx.helper.make_node, onnx.numpy_helper.from_array
    import numpy as np

    nodes = [
        make("DequantizeLinear", ["w", "s"], ["a"]),
        make("Conv", ["x", "a"], ["b"], name="one"),
        make("QuantizeLinear", ["b", "shared"], ["c"]),
        make("DequantizeLinear", ["c", "shared"], ["d"]),
        make("Conv", ["d", "v"], ["e"], name="two"),
        make("Add", ["e", "bias"], ["y"], name="two/Add_3"),
    ]
    stores = {"w": (np.int8, 6), "s": (np.float32, 1), "shared": (np.float32, 1), "v": (np.float32, 2)}
    stores["bias"] = (np.float32, 3)
    graph = onnx.helper.make_graph(
        nodes, "g", [], [], [tensor(np.zeros(n, kind), name) for name, (kind, n) in stores.items()]
    )
    assert bytes_by_layer(graph) == {"one": 10, "two": 24}


def test_what_cannot_be_asked_for() -> None:
    for given in ({}, {"size": 2.0, "latency": 2.0}, {"size": 2.0, "precisions": ()}, {"size": 0.5}):
        with pytest.raises(ValidationError):
            Budget(**given)
    assert Budget(latency=2).options == ("int8", "float")
    model, _, context = made(Joined)
    with pytest.raises(InvalidInput, match="no weight of this network is in integers"):
        Quantize(scheme="fp16", budget=Budget(size=2)).apply(model, context)
    lone = UnitSensitivity(
        layers=("a",), weight="a.weight", parameters=1, precisions=("int4",), noise=(0.5,), score=(1.0,)
    )
    assert lone.loss("int4", "score") == pytest.approx(1 + 5e-7)
