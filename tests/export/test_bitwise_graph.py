"""Nodes and functions of bit layers: what ONNX Runtime computes of them, against a naive convolution."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, helper, inliner

from compress.errors import InvalidInput
from export.onnx.bits.bitwise import BitLayer, bit_conv, bit_gemm, declare, function, pack_rows, unpack_rows
from tests.support.bit_files import known_model, model_of, naive, tensors_of

KNOWN = Path(__file__).resolve().parents[2] / "runtimes/bitwise/known.onnx"


def run(model: ModelProto, x: NDArray[np.float32]) -> NDArray[np.float32]:
    return ort.InferenceSession(model.SerializeToString()).run(None, {"x": x})[0]


@pytest.mark.parametrize("bits", [1, 2])
@pytest.mark.parametrize("shape", [(3, 16), (2, 5, 3, 3), (4, 7), (1, 1)])
def test_rows_are_packed_lowest_bits_first(bits: int, shape: tuple[int, ...]) -> None:
    weights = np.random.default_rng(0).integers(-2, 2, shape)
    weights = np.where(weights < 0, -1, 1) if bits == 1 else weights
    packed = pack_rows(weights, bits)
    rows = weights.reshape(len(weights), -1)
    assert packed.dtype == np.uint8 and packed.shape == (len(rows), -(-rows.shape[1] * bits // 8))
    for row, stored in zip(rows, packed, strict=True):
        number = sum((int(w > 0) if bits == 1 else int(w) % 4) << (bits * i) for i, w in enumerate(row))
        assert int.from_bytes(stored.tobytes(), "little") == number
    np.testing.assert_array_equal(unpack_rows(packed, bits, rows.shape[1]), rows)


@pytest.mark.parametrize(("bits", "value"), [(1, 0), (1, 2), (2, 2), (2, -3)])
def test_integers_without_a_code_are_refused(bits: int, value: int) -> None:
    with pytest.raises(InvalidInput, match=f"got {value}"):
        pack_rows(np.array([[value]]), bits)


def test_wrong_rows_are_refused() -> None:
    with pytest.raises(InvalidInput, match="3 bytes per row"):
        unpack_rows(np.zeros((2, 2), np.uint8), 1, 17)
    with pytest.raises(InvalidInput, match="1 or 2 bits"):
        pack_rows(np.ones((1, 1), np.int8), 3)


LAYERS = {
    "binary": (BitLayer((6, 17, 3, 3), 1, "sign", strides=(2, 1), pads=(1, 0, 2, 1), dilations=(1, 2)), False, True),
    "ternary by signs": (BitLayer((8, 4, 3, 3), 2, "sign", pads=(1, 1, 1, 1), group=4), False, False),
    "ternary, two scales": (BitLayer((6, 5, 1, 3), 2, "unsigned", 3, pads=(0, 1, 0, 1)), True, True),
    "depthwise": (BitLayer((8, 1, 5, 5), 1, "unsigned", 8, pads=(2, 2, 2, 2), group=8), False, True),
    "whole bytes": (BitLayer((4, 8, 1, 1), 1, "sign"), False, False),
    "linear": (BitLayer((6, 21), 1, "sign"), False, True),
    "linear, two scales": (BitLayer((6, 21), 2, "unsigned", 2), True, False),
}


@pytest.mark.parametrize("opset", [18, 21])
@pytest.mark.parametrize("name", LAYERS)
def test_function_computes_the_layer(name: str, opset: int) -> None:
    layer, two, bias = LAYERS[name]
    tensors = tensors_of(layer, two, bias)
    rng, inputs = np.random.default_rng(1), layer.weight_shape[1] * layer.group
    shape = (2, inputs, 7, 9) if layer.operation == "BitConv" else (2, 3, inputs)
    x = rng.standard_normal(shape).astype(np.float32)
    model = model_of([(layer, tensors)], ["N", *shape[1:]], opset)
    np.testing.assert_allclose(run(model, x), naive(layer, tensors, x), rtol=1e-5, atol=1e-4)
    plain = inliner.inline_local_functions(model)
    np.testing.assert_allclose(run(plain, x), naive(layer, tensors, x), rtol=1e-5, atol=1e-4)


def test_input_at_the_threshold_is_plus_one() -> None:
    layer = BitLayer((1, 2, 1, 1), 1, "sign")
    tensors = {"W": np.ones((1, 2, 1, 1), int), "S": np.ones(1, np.float32), "A": np.array([0.3, -0.3], np.float32)}
    x = np.array([0.3, -0.3], np.float32).reshape(1, 2, 1, 1)
    below = np.nextafter(x, np.float32(-9))
    found = [run(model_of([(layer, tensors)], ["N", 2, 1, 1]), each).item() for each in (x, below)]
    assert found == [2, -2]


def test_session_holds_no_unpacking(tmp_path: Path) -> None:
    layer, two, bias = LAYERS["ternary, two scales"]
    settings = ort.SessionOptions()
    settings.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    settings.log_severity_level = 4
    content = model_of([(layer, tensors_of(layer, two, bias))], ["N", 5, 4, 4]).SerializeToString()
    ort.InferenceSession(content, settings)
    operations = {node.op_type for node in onnx.load(settings.optimized_model_filepath).graph.node}
    assert operations <= {"Mul", "Round", "Clip", "Conv", "ReorderInput", "ReorderOutput"}


def test_functions_are_shared_by_layers_of_a_kind() -> None:
    layer = BitLayer((8, 8, 3, 3), 1, "sign", pads=(1, 1, 1, 1))
    wide = BitLayer((16, 8, 3, 3), 1, "sign", strides=(2, 2))
    odd = BitLayer((3, 5, 3, 3), 1, "sign")
    nodes = [(each, bit_conv(each, ["x", "w", "s", "a"], "y")) for each in (layer, wide, odd)]
    model = helper.make_model(helper.make_graph([], "g", [], []), opset_imports=[helper.make_opsetid("", 18)])
    assert declare(model, nodes) == 2
    assert declare(model, nodes) == 0
    assert [each.overload for each in model.functions] == ["w1_sign_3x3", "w1_sign_3x3_n45"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (((4, 3, 3), 1, "sign"), "weights"),
        (((4, 3, 3, 3), 3, "sign"), "1 or 2 bits"),
        (((4, 3), 1, "sign", 2), "activation"),
        (((4, 3), 1, "unsigned", 9), "activation"),
        (((4, 3), 1, "tanh"), "activation"),
        (((4, 3, 1, 1), 1, "sign", 1, (0, 1)), "strides"),
        (((4, 3, 1, 1), 1, "sign", 1, (1, 1), (0, 0, 0, 0), (1, 1), 3), "group"),
    ],
)
def test_impossible_layers_are_refused(arguments: tuple, message: str) -> None:  # type: ignore[type-arg]
    with pytest.raises(InvalidInput, match=message):
        BitLayer(*arguments)


def test_wrong_uses_are_refused() -> None:
    conv, linear = BitLayer((4, 3, 1, 1), 1, "sign"), BitLayer((4, 3), 1, "sign")
    with pytest.raises(InvalidInput, match="bit_gemm"):
        bit_conv(linear, ["x", "w", "s", "a"], "y")
    with pytest.raises(InvalidInput, match="bit_conv"):
        bit_gemm(conv, ["x", "w", "s", "a"], "y")
    with pytest.raises(InvalidInput, match="inputs"):
        bit_gemm(linear, ["x", "w", "s"], "y")
    with pytest.raises(InvalidInput, match="ternary"):
        bit_gemm(linear, ["x", "w", "s", "a"], "y", two_scales=True)
    with pytest.raises(InvalidInput, match="opset 17"):
        function(linear, opset=17)


def test_known_network_of_the_engine_is_what_this_writes() -> None:
    kept, made = onnx.load(KNOWN), known_model()
    assert [f.overload for f in kept.functions] == [f.overload for f in made.functions]
    x = np.random.default_rng(0).standard_normal((1, 5, 6, 7)).astype(np.float32)
    np.testing.assert_array_equal(run(kept, x), run(made, x))
