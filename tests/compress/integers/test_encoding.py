"""The arithmetic of encodings, against the operators of the ONNX specification."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx.reference import ReferenceEvaluator

from compress.integers.target import bias_parameters
from compress.quantize import TARGETS, Encoding

ranges = st.tuples(st.floats(-1e4, 1e4, width=32), st.floats(-1e4, 1e4, width=32)).map(
    lambda pair: (min(pair), max(pair))
)
ranges = ranges.filter(lambda pair: pair[1] - pair[0] > 1e-2)


def specified(values: np.ndarray, scale: np.ndarray, zero: np.ndarray, axis: int) -> np.ndarray:
    """QuantizeLinear and DequantizeLinear of the ONNX specification, in its own reference implementation."""
    graph = onnx.helper.make_graph(
        [
            onnx.helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], axis=axis),
            onnx.helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"], axis=axis),
        ],
        "g",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, None)],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)],
        [onnx.numpy_helper.from_array(scale, "s"), onnx.numpy_helper.from_array(zero, "z")],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 21)])
    return ReferenceEvaluator(model).run(None, {"x": values})[0]  # type: ignore[index]


@pytest.mark.parametrize("dtype", ["uint8", "int8"])
@given(bounds=ranges)
def test_activation_rounds_as_the_specification(dtype: str, bounds: tuple[float, float]) -> None:
    parameters = Encoding((bounds[0],), (bounds[1],)).parameters(dtype)  # type: ignore[arg-type]
    values = np.linspace(bounds[0] * 1.2 - 1, bounds[1] * 1.2 + 1, 101, dtype=np.float32)
    ours = parameters.dequantize(parameters.quantize(values))
    theirs = specified(values, np.float32(parameters.scale), np.asarray(parameters.zero_point, dtype), 0)  # type: ignore[arg-type]
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)


@given(bounds=ranges)
def test_zero_is_exact_and_the_range_is_covered(bounds: tuple[float, float]) -> None:
    parameters = Encoding((bounds[0],), (bounds[1],)).parameters("uint8")
    assert parameters.dequantize(parameters.quantize(np.zeros(1)))[0] == 0
    inside = np.linspace(min(bounds[0], 0), max(bounds[1], 0), 57)
    error = np.abs(parameters.dequantize(parameters.quantize(inside)) - inside)
    # Rounding takes half a step; at the ends the nearest zero point is off by at most half a step, and so is clipping.
    assert error.max() <= 0.501 * float(parameters.scale)


def test_weights_are_symmetric_per_channel_and_narrow() -> None:
    generator = np.random.default_rng(0)
    weight = generator.normal(size=(5, 3, 3, 3)).astype(np.float32) * np.array([0.1, 1, 2, 3, 9]).reshape(5, 1, 1, 1)
    flat = weight.reshape(5, -1)
    encoding = Encoding(tuple(flat.min(1)), tuple(flat.max(1)), symmetric=True, axis=0)
    parameters = TARGETS["ort-x86"].weight_parameters(encoding, 0.1, None)
    integers = parameters.quantize(weight, 0)
    np.testing.assert_array_equal(np.abs(integers).reshape(5, -1).max(1), 127)
    np.testing.assert_array_equal(parameters.zero_point, 0)
    theirs = specified(weight.astype(np.float32), parameters.scale, np.zeros(5, np.int8), 0)
    np.testing.assert_allclose(parameters.dequantize(integers, 0), theirs, rtol=1e-6)
    seven_bits = TARGETS["ort-avx2"].weight_parameters(encoding, 0.1, None).quantize(weight, 0)
    np.testing.assert_array_equal(np.abs(seven_bits).reshape(5, -1).max(1), 63)


def test_a_range_from_zero_gets_the_least_integer_for_zero() -> None:
    encoding = Encoding((0.25,), (6.0,))
    assert int(TARGETS["ort-x86"].activation_parameters(encoding).zero_point) == 0
    assert int(TARGETS["ort-arm"].activation_parameters(encoding).zero_point) == -128


def test_the_bias_of_an_empty_channel_still_fits_in_32_bits() -> None:
    encoding = Encoding((0.0, -1.0), (0.0, 1.0), symmetric=True, axis=0)
    bias = np.array([3.0, -2.0], np.float32)
    weight = TARGETS["ort-x86"].weight_parameters(encoding, 0.02, bias)
    parameters = bias_parameters(0.02, weight)
    integers = parameters.quantize(bias)
    assert np.abs(integers).max() <= 2**30 + 2**8
    np.testing.assert_allclose(parameters.dequantize(integers), bias, rtol=1e-4)
    assert weight.scale[1] == np.float32(1 / 127), "a channel with weights keeps its scale"


def test_encodings_survive_json() -> None:
    encoding = Encoding((-0.1, -2.5), (0.3, 1e-8), bits=7, symmetric=True, axis=0)
    assert Encoding.from_json(json.loads(json.dumps(encoding.to_json()))) == encoding


def test_records_of_earlier_versions_are_read() -> None:
    record = {"low": [-1.0], "high": [2.0], "bits": 8, "symmetric": False, "axis": None}
    assert Encoding.from_json(record) == Encoding((-1.0,), (2.0,))
    assert Encoding((-1.0,), (2.0,)).to_json() == record, "and what they know is written as they wrote it"
    for encoding in (
        Encoding((-1.0,) * 6, (1.0,) * 6, 4, True, 0, block=32),
        Encoding((-9.0,), (1.0,), bits=16, kind="bfloat16"),
    ):
        assert Encoding.from_json(json.loads(json.dumps(encoding.to_json()))) == encoding


def test_blocks_have_scales_of_their_own() -> None:
    weight = np.random.default_rng(1).normal(size=(3, 11)).astype(np.float32)
    blocks = [weight[row, start : start + 4] for row in range(3) for start in (0, 4, 8)]
    encoding = Encoding(tuple(b.min() for b in blocks), tuple(b.max() for b in blocks), 4, True, 0, block=4)
    assert encoding.ranges(weight.shape) == len(encoding.low) == 9
    parameters = TARGETS["ort-x86"].weight_parameters(encoding)
    expected = np.empty_like(weight)
    for number, (row, start) in enumerate((row, start) for row in range(3) for start in (0, 4, 8)):
        scale = np.float32(np.abs(blocks[number]).max() / 7)
        expected[row, start : start + 4] = np.clip(np.rint(blocks[number] / scale), -7, 7) * scale
    integers = parameters.quantize(weight, 0)
    assert np.abs(integers).max() == 7
    np.testing.assert_allclose(parameters.dequantize(integers, 0), expected, rtol=1e-6)


def test_16_bit_activations_round_256_times_finer() -> None:
    for dtype in ("uint16", "int16"):
        wide = Encoding((-1.0,), (3.0,), bits=16).parameters(dtype)
        assert float(wide.scale) == pytest.approx(4 / 65535)
        values = np.linspace(-1, 3, 99, dtype=np.float32)
        ours = wide.dequantize(wide.quantize(values))
        theirs = specified(values, np.float32(wide.scale), np.asarray(wide.zero_point, dtype), 0)  # type: ignore[arg-type]
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-7)
