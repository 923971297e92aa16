"""What each engine wants, and which machine wants what."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from pydantic import TypeAdapter

import runtimes.facts
from compress.errors import InvalidInput
from compress.integers.target import read_targets, require_products
from compress.quantize import TARGETS, Encoding, TargetName
from compress.quantize.detect import detected, target_for
from runtimes.facts import TargetFacts

SIGNED, FROM_ZERO = Encoding((-1.0,), (3.0,)), Encoding((0.0,), (6.0,))
WEIGHT = Encoding((-1.0, -0.5), (0.25, 2.0), symmetric=True, axis=0)


def test_every_name_has_a_row() -> None:
    assert tuple(TARGETS) == get_args(TargetName)
    assert all(target.name == name for name, target in TARGETS.items())


@pytest.mark.parametrize(
    ("name", "signed", "from_zero", "bounds"),
    [
        ("ort-x86", 64, 0, (0, 255)),
        ("ort-avx2", 64, 0, (0, 255)),
        ("ort-arm", -64, -128, (-128, 127)),
        ("tensorrt", 0, 0, (-128, 127)),
        ("litert", -64, -128, (-128, 127)),
        ("openvino", 64, 0, (0, 255)),
        ("ncnn", 0, 0, (-127, 127)),
    ],
)
def test_zero_points_and_bounds(name: str, signed: int, from_zero: int, bounds: tuple[int, int]) -> None:
    target = TARGETS[name]
    assert int(target.activation_parameters(SIGNED).zero_point) == signed
    parameters = target.activation_parameters(FROM_ZERO)
    assert (int(parameters.zero_point), parameters.low, parameters.high) == (from_zero, *bounds)
    symmetric = signed == from_zero == 0
    assert float(parameters.scale) == pytest.approx(6 / 127 if symmetric else 6 / 255)
    weight = target.weight_parameters(WEIGHT, 0.1)
    assert not weight.zero_point.any()
    assert weight.low == -weight.high == (-63 if name == "ort-avx2" else -127)


def test_16_bit_activations() -> None:
    wide = replace(SIGNED, bits=16)
    assert TARGETS["ort-x86"].activation_type(wide) == "uint16"
    litert = TARGETS["litert"].activation_parameters(wide)
    assert (int(litert.zero_point), float(litert.scale)) == (0, pytest.approx(3 / 32767))  # type: ignore[comparison-overlap]
    for name in ("tensorrt", "openvino", "ncnn"):
        with pytest.raises(InvalidInput, match=f"target {name}: its engine has no 16-bit activations"):
            TARGETS[name].activation_parameters(wide)


def test_the_bias_is_rounded_where_the_accumulator_wants_it() -> None:
    rounding = {name for name, target in TARGETS.items() if target.rounds_bias(SIGNED)}
    assert rounding == {"ort-x86", "ort-avx2", "ort-arm", "litert"}
    assert not any(target.rounds_bias(None) for target in TARGETS.values()), "weights alone"
    assert not TARGETS["ort-x86"].rounds_bias(replace(SIGNED, bits=16))


def test_weights_alone_keep_all_their_bits_without_vnni() -> None:
    assert TARGETS["ort-avx2"].weight_parameters(WEIGHT).high == 127


def test_one_scale_for_all_channels() -> None:
    parameters = replace(TARGETS["litert"], per_channel=False).weight_parameters(WEIGHT, 0.1)
    np.testing.assert_allclose(parameters.scale, 2 / 127, rtol=1e-6)


def test_what_cannot_be_written_is_said() -> None:
    four = replace(WEIGHT, bits=4)
    require_products(TARGETS["ort-x86"], [four])
    with pytest.raises(InvalidInput, match="target tensorrt: its engine does not multiply 4-bit weights"):
        require_products(TARGETS["tensorrt"], [WEIGHT, four])


@pytest.mark.parametrize(
    ("architecture", "flags", "target"),
    [
        ("x86_64", ["avx2", "avx512_vnni"], "ort-x86"),
        ("AMD64", ["avx_vnni"], "ort-x86"),
        ("x86_64", ["avx2", "avx512f"], "ort-avx2"),
        ("AMD64", None, "ort-avx2"),
        ("aarch64", ["asimddp"], "ort-arm"),
        ("arm64", None, "ort-arm"),
        ("riscv64", None, "ort-avx2"),
    ],
)
def test_the_target_of_a_machine(architecture: str, flags: list[str] | None, target: str) -> None:
    found = target_for(architecture, flags)
    assert found.target == target
    assert architecture.lower() in found.reason


def test_the_target_of_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    file = tmp_path / "cpuinfo"
    file.write_text("processor\t: 0\nflags\t\t: fpu avx2 avx512_vnni sse\n\nflags\t\t: fpu\n")
    assert detected(file).target == "ort-x86"
    file.write_text("flags\t\t: fpu avx2 not_avx512_vnni\n")
    assert detected(file).target == "ort-avx2"
    assert "does not tell" in detected(tmp_path / "none").reason


def test_an_engine_that_states_other_integers_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for integers, wrong in (({"activation": "int7"}, "activation"), ({"activation": "int8", "fast": True}, "fast")):
        stated = {"t": TargetFacts("t", "e", integers)}
        monkeypatch.setattr(runtimes.facts, "targets", lambda stated=stated: stated)
        with pytest.raises(ValueError, match=f"engine e: target t: {wrong}"):
            read_targets()


def test_a_schema_lists_the_targets() -> None:
    assert TypeAdapter(TargetName).json_schema()["enum"] == list(TARGETS)
