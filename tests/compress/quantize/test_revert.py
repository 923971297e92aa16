"""What is slower in integers goes back to float: decided by what an engine tells, here by what a test says it told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from compress import deploy
from compress.clock import Clock, Part, Timed
from compress.deploy.clock import MachineClock
from compress.errors import InvalidInput
from compress.pipeline import advance
from compress.quantize import Quantize, TargetName, revert, simulate
from compress.quantize.budget.budget import Budget
from compress.quantize.detect import detected, suited
from compress.quantize.revert import revert_slower, slowest, without
from compress.quantize.scheme import SchemeName
from compress.sources.load import Network
from compress.sources.specification import Source
from compress.stage import Result
from export.onnx.exporter import export_onnx
from runtimes.runtime import load
from tests.support.invented_clock import InventedClock
from tests.support.small_networks import Joined, context_on, file_outputs, made


def test_the_worst_run_of_layers_is_found() -> None:
    integers = {"a": 3.0, "b": 1.0, "c": 2.0, "d": 1.0, "e": 5.0}
    floats = {"a": 1.0, "b": 1.5, "c": 1.0, "d": 9.0, "e": 4.5}  # "e" gains too little to count
    worst = slowest(integers, floats, set())
    assert worst is not None and worst.parts == ("a", "b", "c")
    rest = slowest(integers, floats, {"a"})
    assert rest is not None and rest.parts == ("c",)
    assert slowest({"a": 1.0}, {"a": 1.0}, set()) is None
    assert slowest({"a": 1.0}, {}, set()) is None


def test_without_a_layer_its_neighbours_stay_in_integers() -> None:
    model, inputs, context = made(Joined)
    result = Quantize().apply(model, context)
    left = without(result.model, result.encodings, (inputs[0][:1],), {"left"})
    assert set(result.encodings) - set(left) == {"left.weight"} | {
        name for name in result.encodings if name not in left and "." not in name
    }
    assert "right.weight" in left and "left.weight" not in left


def measured(times: Sequence[Sequence[float]], integers: dict[str, float]) -> InventedClock:
    """The engine tells these times for its files, one row after the other, and these for layers in integers."""

    def profile(network: Timed) -> tuple[Part, ...]:
        return tuple(Part((name,), ms if network.encodings else 1.0) for name, ms in integers.items())

    return InventedClock(iter([*times, times[-1]]), profile)  # in the end, all in integers again beside what is left


def reverted(clock: Clock, **options: object) -> Result:
    """Joined as the stage leaves it, with what is slower in float."""
    model, _, context = made(Joined)
    settings = options or {"revert_slower": True}
    return Quantize.model_validate(settings).apply(model, replace(context, clock=clock))


def test_a_region_goes_back_if_the_file_is_faster_without_it() -> None:
    result = reverted(measured([(9.0, 5.0), (9.0, 5.0, 4.0)], {"stem": 2.0, "left": 0.5, "right": 0.5}))
    assert result.encodings["stem.weight"].restored and not result.encodings["right.weight"].restored
    told = {skip.layer: skip.reason for skip in result.skipped}
    assert told["stem"] == "kept in float: its region takes 2.000 ms in integers, 1.000 ms in float"
    assert ("stem", "weight") in {(edit.layer, edit.what) for edit in result.edits if edit.kind == "precision"}
    (choice,) = result.measured
    assert choice.target == detected().target and choice.threads == 1 and choice.cpu
    assert choice.told == (
        "slower in integers, so restored to float at load: 1 of 5 weights; 4.000 ms instead of 5.000 ms all in "
        "integers, 9.000 ms all in float"
    )


def test_in_the_end_all_in_integers_is_timed_again_and_stays_if_it_is_as_fast() -> None:
    times = [(9.0, 5.0), (9.0, 5.0, 4.0), (9.0, 4.5, 4.49)]
    result = reverted(measured(times, {"stem": 2.0, "left": 0.5, "right": 0.5}))
    assert not any(encoding.restored for encoding in result.encodings.values())
    assert result.measured[0].told == (
        "slower in integers, so restored to float at load: none; 4.500 ms, 9.000 ms all in float"
    )
    assert not any("its region" in skip.reason for skip in result.skipped)


def test_a_region_stays_if_the_file_is_not_faster_without_it() -> None:
    result = reverted(measured([(9.0, 5.0), (9.0, 5.0, 4.99)], {"stem": 2.0, "left": 0.5}))
    assert "stem.weight" in result.encodings and not result.encodings["stem.weight"].restored


def test_a_network_that_is_faster_in_float_stays_in_integers_unless_the_fastest_is_asked_for() -> None:
    result = reverted(measured([(4.0, 5.0)], {"stem": 1.0}))
    assert not any(encoding.restored for encoding in result.encodings.values())
    assert result.measured[0].told.endswith("5.000 ms, 4.000 ms all in float (fastest would keep that)")
    result = reverted(measured([(4.0, 5.0)], {"stem": 1.0}), fastest=True)
    assert len(result.encodings) == 5 and all(encoding.restored for encoding in result.encodings.values())
    assert "the network takes 5.000 ms in integers, 4.000 ms in float" in result.skipped[0].reason


class Deep(nn.Module):
    """Twenty layers in a row: (N, 4) -> (N, 4)."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(nn.Linear(4, 4) for _ in range(20)))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


@pytest.mark.parametrize(
    ("gains", "together", "floats"),
    [
        ({5: 2.0, 4: -0.5}, {}, {5}),  # a group gains, and one of its layers alone more
        ({}, {(9, 10, 11): 3.0}, {9, 10, 11}),  # layers that gain together, and none of them alone
        ({7: 1.0, 8: -9.0}, {}, set()),  # a group that loses is not looked into
    ],
)
def test_many_layers_are_timed_in_groups(
    gains: dict[int, float], together: dict[tuple[int, ...], float], floats: set[int]
) -> None:
    def ms(network: Timed) -> float:
        encodings = network.encodings
        here = {i for i in range(20) if (e := encodings.get(f"layers.{i}.weight")) is None or e.restored}
        more = sum(gain for layers, gain in together.items() if here >= set(layers))
        return 100.0 - sum(gains.get(i, 0.0) for i in here) - more

    torch.manual_seed(0)
    clock = InventedClock(ms)
    context = replace(context_on((torch.randn(40, 4),)), clock=clock)
    result = Quantize(revert_slower=True, target="litert").apply(Deep().eval(), context)
    restored = {name for name, encoding in result.encodings.items() if encoding.restored}
    assert restored == {f"layers.{i}.weight" for i in floats}
    assert clock.asked.count("time 8") == 1 and "time 21" not in clock.asked  # all in integers, and seven groups


def test_something_stays_in_integers_region_by_region_too() -> None:
    every = dict.fromkeys(("stem", "depthwise", "left", "right", "classify"), 2.0)
    result = reverted(measured([(4.0, 9.0), (4.0, 9.0, 1.0)], every))
    assert not any(encoding.restored for encoding in result.encodings.values())


def test_without_parts_the_network_is_timed_with_each_layer_in_float() -> None:
    """An engine that tells no parts: "stem" and "left" each make the network faster in float, the others do not."""
    gains = {"stem.weight": 2.0, "left.weight": 1.0, "right.weight": -1.0, "depthwise.weight": -5.0}

    def ms(network: Timed) -> float:
        floats = [n for n in gains if n not in network.encodings or network.encodings[n].restored]
        return 10.0 - sum(gains[name] for name in floats)

    clock = InventedClock(ms)
    result = reverted(clock, revert_slower=True, target="litert", threads=2)
    assert {n for n, encoding in result.encodings.items() if encoding.restored} == {"stem.weight", "left.weight"}
    told = {skip.layer: skip.reason for skip in result.skipped}
    assert told["stem"] == "kept in float: the network is 2.000 ms faster with its region in float"
    assert "on litert, 2" in clock.asked and "time 6" in clock.asked  # all in integers, and each of five layers
    assert result.measured[0].engine == "Invented"
    assert "7.000 ms instead of 10.000 ms all in integers" in result.measured[0].told


def test_only_a_target_that_runs_here_decides() -> None:
    model, _, context = made(Joined)
    here = detected().target
    times = [(9.0, 5.0), (9.0, 5.0, 4.0)]
    assert reverted(measured(times, {"stem": 2.0, "left": 0.5}), target=here).encodings["stem.weight"].restored
    nothing = InventedClock()  # nothing is measured any more
    for settings in ({"ranges": {"samples": 40}}, {"target": "litert"}, {"target": here, "revert_slower": False}):
        result = reverted(nothing, **settings)
        assert not result.measured and not result.encodings["stem.weight"].restored
    other: TargetName = "ort-avx2" if here != "ort-avx2" else "ort-arm"
    for target in ("tensorrt", other):
        for asked in ("revert_slower", "fastest"):
            told = (
                rf"on this machine \({here}\) only, and the target is {target}; leave --{asked.replace('_', '-')} out"
            )
            with pytest.raises(InvalidInput, match=told):
                Quantize(target=target, **{asked: True}).apply(model, context)
        with pytest.raises(InvalidInput, match=rf"--latency is measured on this machine \({here}\), and .* {target}"):
            Quantize(target=target, budget=Budget(latency=1.1)).apply(model, context)


@pytest.mark.parametrize("settings", [{"revert_slower": True}, {"budget": {"latency": 1.1}}, {"budget": {"size": 3.0}}])
def test_a_context_without_a_clock_is_told_how_to_get_one(settings: dict[str, object]) -> None:
    model, _, context = made(Joined)
    with pytest.raises(InvalidInput, match=r"no clock; give one: Context\(\.\.\., clock=compress\.MachineClock\(\)\)"):
        Quantize.model_validate(settings).apply(model, replace(context, clock=None))


@pytest.mark.parametrize(
    "target", [*(pytest.param(name, marks=pytest.mark.slow) for name in ("litert", "ncnn")), "openvino"]
)
def test_what_is_slower_goes_back_in_the_engine_of_another_target(target: TargetName, tmp_path: Path) -> None:
    """End to end: files of the target are written, and run in its engine."""
    if not _runs(target):
        pytest.skip(f"{target} does not run here")
    model, inputs, context = made(Joined)
    result = Quantize(target=target, revert_slower=True).apply(model, context)
    (choice,) = result.measured
    assert choice.target == target and choice.choice == "the layers that compute in float"
    floats = [name for name, encoding in result.encodings.items() if encoding.restored]
    assert f"{len(floats)} of 5 weights" in choice.told or (not floats and "none" in choice.told)
    source = Source("module", "tests.support.small_networks", "Joined")
    network = Network(result.model, source, example_inputs=inputs, encodings=result.encodings)
    wanted = deploy.Wanted(target=target)
    exported, _ = deploy.export(network, "m", tmp_path / f"m{deploy.suffix_of(wanted)}", wanted)
    assert exported.parity is not None and not any("chosen by latencies" in note for note in exported.notes)


def _runs(target: str) -> bool:
    try:
        MachineClock(target)
    except InvalidInput:
        return False
    return True


@pytest.mark.parametrize(("scheme", "says"), [("w4a8", "4-bit weights"), ("w8a16", "no 16-bit activations")])
def test_what_the_target_cannot_have_is_refused_before_the_work(scheme: SchemeName, says: str) -> None:
    model, _, context = made(Joined)
    for target in ("tensorrt", "ncnn", "openvino"):
        with pytest.raises(InvalidInput, match=f"target {target}: its engine .*{says}"):
            Quantize(target=target, scheme=scheme).apply(model, context)
    assert Quantize(target="litert", scheme=scheme).apply(model, context).encodings


@pytest.mark.parametrize("target", ["tensorrt", "ncnn", "executorch", "openvino", "coreml", "litert"])
def test_mixed_precision_has_the_bits_of_its_target(target: TargetName) -> None:
    model, _, context = made(Joined)
    result = Quantize(target=target, budget=Budget(size=1.5)).apply(model, context)
    bits = {encoding.bits for name, encoding in result.encodings.items() if name.endswith(".weight")}
    assert bits <= ({4, 8} if target == "litert" else {8}) and bits


@pytest.mark.parametrize("layers", [{"left"}, {"classify"}, {"stem", "depthwise"}])
def test_restored_layers_compute_in_float_from_integers_in_the_file(layers: set[str], tmp_path: Path) -> None:
    model, inputs, context = made(Joined)
    result = Quantize().apply(model, context)
    weights = {f"{layer}.weight" for layer in layers}
    encodings = {n: replace(e, restored=True) if n in weights else e for n, e in result.encodings.items()}
    file = tmp_path / "m.onnx"
    target = suited(("ort-x86", "ort-avx2"))
    export_onnx(result.model, inputs, file, encodings=encodings, target=target)
    found = file_outputs(file, inputs, target)[0]
    wanted = simulate(result.model, encodings, inputs, target=target)(*inputs).detach().numpy()
    assert np.abs(found - wanted).max() < 0.02 * np.abs(wanted).max()
    floats = {onnx.numpy_helper.to_array(x).shape for x in onnx.load(file).graph.initializer if x.data_type == 1}
    assert not floats & {tuple(result.model.get_parameter(name).shape) for name in weights}
    engine = load(file)
    try:
        executed = engine.executed_graph({engine.inputs[0].name: inputs[0].numpy()})
    finally:
        engine.close()
    assert executed is not None
    computing = [op for op in executed.ops if op in ("Conv", "FusedConv", "Gemm", "FusedGemm")]
    assert sum(executed.ops[op] for op in computing) >= len(layers)


def test_an_export_for_another_target_tells_what_was_measured_here(tmp_path: Path) -> None:
    model, inputs, context = made(Joined)
    clock = measured([(9.0, 5.0), (9.0, 5.0, 4.0)], {"stem": 2.0, "left": 0.5})
    stage, context = Quantize(revert_slower=True), replace(context, clock=clock)
    network = Network(model, Source("module", "tests.support.small_networks", "Joined"), example_inputs=inputs)
    network, record = advance(network, stage, context, name="quantize")
    (line,) = record.measured
    assert "1 of 5 weights" in line and "measured for" in line
    here = detected().target
    other: TargetName = "ort-avx2" if here != "ort-avx2" else "ort-arm"
    for target, told in ((here, 0), (other, 1)):
        exported, _ = deploy.export(network, "m", tmp_path / f"{target}.onnx", deploy.Wanted(target=target))
        notes = [note for note in exported.notes if "chosen by latencies" in note]
        assert len(notes) == told
    assert f"quantize: the layers that compute in float were chosen by latencies for {here} (Invented" in notes[0]


def test_real_files_are_measured_and_named_by_their_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(revert, "ROUNDS", 1)
    model, inputs, context = made(Joined)
    result, clock = Quantize().apply(model, context), MachineClock()
    one = (inputs[0][:1],)
    profiles = [clock.profile(Timed(result.model, one, encodings)) for encodings in ({}, result.encodings)]
    parts = {"stem", "depthwise", "left", "right", "classify"}
    left: set[str] = set()
    for profile in profiles:
        assert profile is not None and parts <= {part.name for part in profile}
        assert all(part.ms > 0 for part in profile if part.name in parts)
        left |= next(set(part.layers) for part in profile if part.name == "left")
    assert left == {"left", "act"}
    kept = revert_slower(result.model, result.encodings, one, clock)
    assert set(kept.encodings) <= set(result.encodings)
    assert min(kept.float_ms, kept.integer_ms, kept.kept_ms) > 0
