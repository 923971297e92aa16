"""Files tell where their network was made for another target than theirs, and what they leave in floats."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from compress import deploy
from compress.integers.target import TARGETS
from compress.pipeline import advance
from compress.quantize import Quantize
from compress.sources.load import Network
from compress.sources.specification import Source
from export.format import Job
from tests.support.small_networks import Joined, made


def quantized(settings: dict[str, object]) -> Network:
    model, inputs, context = made(Joined)
    network = Network(model, Source("module", "tests.support.small_networks", "Joined"), example_inputs=inputs)
    return advance(network, Quantize.model_validate(settings), context, name="quantize")[0]


@pytest.fixture(scope="module")
def fitted() -> Network:
    """For OpenVINO on processors without VNNI, whose weights have 7 bits."""
    return quantized({"target": "openvino-avx2", "recover": ["bias_correction"], "revert_slower": False})


def notes(network: Network, target: str) -> list[str]:
    return list(deploy.notes.notes_on(network, Job(network.model, network.example_inputs, target, network.encodings)))


def test_what_was_fitted_to_other_integers_is_told(fitted: Network) -> None:
    for target in ("openvino-avx2", "ort-avx2"):
        assert notes(fitted, target) == [], "7-bit weights, and activations of the same values"
    (note,) = notes(fitted, "openvino")
    assert note.startswith(
        "quantize: weights and biases were fitted to the integers of openvino-avx2 (bias_correction)"
    )
    assert note.endswith("those of openvino have other values; quantize with --target openvino")


def test_ranges_alone_are_for_every_target() -> None:
    network = quantized({"target": "openvino-avx2", "revert_slower": False})
    assert notes(network, "openvino") == []


def test_layers_that_the_target_has_no_integers_for_are_told_once() -> None:
    model, _, context = made(Joined)
    stage = Quantize(target="ncnn", revert_slower=False)
    told = [skip for skip in stage.apply(model, context).skipped if "faster so in ncnn" in skip.reason]
    assert [skip.layer for skip in told] == ["depthwise"]
    assert notes(quantized({"target": "ncnn", "revert_slower": False}), "ncnn") == []
    here = quantized({"revert_slower": False})
    assert notes(here, "ncnn") == ["depthwise: kept in float: depthwise convolutions are faster so in ncnn"]
    assert notes(here, "litert") == []


def test_the_stage_tells_the_floats_of_any_target(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TARGETS, "litert", replace(TARGETS["litert"], float_depthwise=True))
    model, _, context = made(Joined)
    result = Quantize(target="litert", revert_slower=False).apply(model, context)
    assert "depthwise" in [skip.layer for skip in result.skipped if "faster so in litert" in skip.reason]


def test_targets_of_the_same_values() -> None:
    x86 = TARGETS["ort-x86"]
    assert x86.rounds_as(TARGETS["ort-arm"]) and x86.rounds_as(TARGETS["openvino"]), "uint8 is int8 moved by 128"
    assert not any(x86.rounds_as(TARGETS[name]) for name in ("ort-avx2", "tensorrt", "ncnn", "litert"))


def test_the_record_of_a_file_has_the_notes(fitted: Network, tmp_path: Path) -> None:
    record, _ = deploy.export(fitted, "m", tmp_path / "m.onnx", deploy.Wanted("onnx", "ort-x86"))
    assert any("fitted to the integers of openvino-avx2" in note for note in record.notes)
