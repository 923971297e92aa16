"""What is slower in integers goes back to float: decided by what an engine tells, here by what a test says it told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from compress import deploy
from compress.errors import InvalidInput
from compress.load import Network
from compress.pipeline import advance
from compress.quantize import Quantize, TargetName, revert, simulate
from compress.quantize.detect import detected, suited
from compress.quantize.mixed import Mixed
from compress.quantize.revert import revert_slower, slowest, without
from compress.quantize.scheme import SchemeName
from compress.specification import Source
from export.onnx.exporter import export_onnx
from runtimes.runtime import load
from tests.support.small_networks import Joined, file_outputs, made


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


def measured(monkeypatch: pytest.MonkeyPatch, times: Sequence[Sequence[float]], integers: dict[str, float]) -> Quantize:
    """The engine tells these times for its files, one row after the other, and these for layers in integers."""
    rows = iter(times)
    monkeypatch.setattr(revert._Files, "time", lambda self, files: list(next(rows))[: len(files)])

    def profile(self: revert._Files, file: Path) -> dict[str, float]:
        self.parts.update({name: {name} for name in integers})
        return dict.fromkeys(integers, 1.0) if file.stem == "1" else integers

    monkeypatch.setattr(revert._Files, "profile", profile)
    return Quantize(revert_slower=True)


def test_a_region_goes_back_if_the_file_is_faster_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    model, _, context = made(Joined)
    stage = measured(monkeypatch, [(9.0, 5.0), (9.0, 5.0, 4.0)], {"stem": 2.0, "left": 0.5, "right": 0.5})
    result = stage.apply(model, context)
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


def test_a_region_stays_if_the_file_is_not_faster_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    model, _, context = made(Joined)
    stage = measured(monkeypatch, [(9.0, 5.0), (9.0, 5.0, 4.99)], {"stem": 2.0, "left": 0.5})
    assert "stem.weight" in stage.apply(model, context).encodings


def test_a_network_that_is_faster_in_float_stays_in_integers_unless_the_fastest_is_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, _, context = made(Joined)
    stage = measured(monkeypatch, [(4.0, 5.0)], {"stem": 1.0})
    result = stage.apply(model, context)
    assert not any(encoding.restored for encoding in result.encodings.values())
    assert result.measured[0].told.endswith("5.000 ms, 4.000 ms all in float (fastest would keep that)")
    measured(monkeypatch, [(4.0, 5.0)], {"stem": 1.0})
    result = Quantize(fastest=True).apply(model, context)
    assert len(result.encodings) == 5 and all(encoding.restored for encoding in result.encodings.values())
    assert "the network takes 5.000 ms in integers, 4.000 ms in float" in result.skipped[0].reason


def test_something_stays_in_integers_region_by_region_too(monkeypatch: pytest.MonkeyPatch) -> None:
    model, _, context = made(Joined)
    every = dict.fromkeys(("stem", "depthwise", "left", "right", "classify"), 2.0)
    result = measured(monkeypatch, [(4.0, 9.0), (4.0, 9.0, 1.0)], every).apply(model, context)
    assert not any(encoding.restored for encoding in result.encodings.values())


def test_only_this_machine_decides_for_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    model, _, context = made(Joined)
    here = detected().target
    times = [(9.0, 5.0), (9.0, 5.0, 4.0)]
    measured(monkeypatch, times, {"stem": 2.0, "left": 0.5})
    assert Quantize(target=here).apply(model, context).encodings["stem.weight"].restored
    monkeypatch.setattr(revert, "_Files", None)  # nothing is measured any more
    for stage in (Quantize(), Quantize(target="litert"), Quantize(target=here, revert_slower=False)):
        result = stage.apply(model, context)
        assert not result.measured and not result.encodings["stem.weight"].restored
    for asked in ("revert_slower", "fastest"):
        told = rf"on this machine \({here}\) only, and the target is litert; leave --{asked.replace('_', '-')} out"
        with pytest.raises(InvalidInput, match=told):
            Quantize(target="litert", **{asked: True}).apply(model, context)
    with pytest.raises(InvalidInput, match=rf"--latency is measured on this machine \({here}\), and .* litert"):
        Quantize(target="litert", mixed=Mixed(latency=1.1)).apply(model, context)


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
    result = Quantize(target=target, mixed=Mixed(size=1.5)).apply(model, context)
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


def test_an_export_for_another_target_tells_what_was_measured_here(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    model, inputs, context = made(Joined)
    stage = measured(monkeypatch, [(9.0, 5.0), (9.0, 5.0, 4.0)], {"stem": 2.0, "left": 0.5})
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
    assert f"quantize: the layers that compute in float were chosen by latencies for {here} (ONNX Runtime" in notes[0]


def test_real_files_are_measured_and_named_by_their_layers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(revert, "ROUNDS", 1)
    model, inputs, context = made(Joined)
    result = Quantize().apply(model, context)
    files = revert._Files(result.model, (inputs[0][:1],), tmp_path, threads=1)
    plain, integers = files.write({}), files.write(result.encodings)
    parts = {"stem", "depthwise", "left", "right", "classify"}
    assert parts <= set(files.profile(plain)) and parts <= set(files.profile(integers))
    assert files.parts["left"] == {"left", "act"}
    kept = revert_slower(result.model, result.encodings, (inputs[0][:1],))
    assert set(kept.encodings) <= set(result.encodings)
    assert min(kept.float_ms, kept.integer_ms, kept.kept_ms) > 0
