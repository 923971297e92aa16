"""The rules of each engine, on files written by hand as other tools would."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from compress.errors import GateFailed, InvalidInput
from compress.quantize import TARGETS
from export.rules import Violation, check, grouped, require, rules_of
from export.rules.tensors import LARGEST_PAIR
from tests.support.written_files import Written, rounded, saved

GOOD = {
    "ort-x86": Written("uint8", bias="int32"),
    "ort-avx2": Written("uint8", bias="int32", peak=63),
    "ort-arm": Written("int8", zero=-128, bias="int32"),
    "tensorrt": Written(),
    "litert": Written("int8", zero=-128, bias="int32"),
    "openvino": Written("uint8"),
    "openvino-avx2": Written("uint8", peak=63),
    "ncnn": Written(),
}


def test_every_target_whose_files_are_made_of_onnx_has_rules() -> None:
    assert {name for name in TARGETS if rules_of(name)} == set(GOOD) == set(TARGETS) - {"executorch", "coreml"}


@pytest.mark.parametrize("target", GOOD)
def test_a_file_that_keeps_to_the_rules(target: str, tmp_path: Path) -> None:
    assert check(GOOD[target].save(tmp_path / "net.onnx"), target) == ()


BROKEN: list[tuple[str, Written, set[tuple[str, str, str, str]]]] = [
    (
        "tensorrt",
        Written("uint8"),
        {
            ("x", "type of activation", "uint8", "refused"),
            ("r", "type of activation", "uint8", "refused"),
        },
    ),
    (
        "tensorrt",
        Written(zero=3),
        {("x", "zero point of activation", "3", "refused"), ("r", "zero point of activation", "3", "refused")},
    ),
    ("tensorrt", Written(weight_zero=2, peak=100), {("conv.weight", "zero point of weight", "2", "refused")}),
    ("tensorrt", Written(bias="int32"), {("conv.bias", "bias", "int32", "refused")}),
    ("tensorrt", Written(activation_scales=4), {("x", "scales of activation", "4 scales", "slow")}),
    ("tensorrt", Written(scale=0.0), {("x", "scale", "0.0", "refused")}),
    ("tensorrt", Written(scale=float("nan")), {("x", "scale", "nan", "refused")}),
    ("tensorrt", Written(add="x"), {("x", "residual sum", "one input in float", "slow")}),
    ("ort-x86", Written("int8", zero=-128, bias="int32"), {
        ("x", "type of activation", "int8", "slow"), ("r", "type of activation", "int8", "slow"),
    }),
    ("ort-x86", Written("uint8", zero=9, bias="int32"), {("r", "zero point behind a ReLU", "9", "slow")}),
    ("ort-x86", Written("uint8", weight_zero=1, peak=9), {("conv.weight", "zero point of weight", "1", "slow")}),
    (
        "ort-x86",
        Written("uint8", bias="int32", bias_scale=2.0),
        {("conv.bias", "scale of bias", "0.001", "wrong")},
    ),
    (
        "ort-x86",
        Written("uint8", round_result=False),
        {("c", "runs in float", "result without QuantizeLinear", "slow")},
    ),
    ("ort-x86", Written("uint8", add="x"), {("y", "runs in float", "input 1 without DequantizeLinear", "slow")}),
    ("ort-avx2", Written("uint8"), {("conv.weight", "two weights", "magnitudes that add up to 254", "wrong")}),
    (
        "ort-avx2",
        Written("uint8", quantize_weight=True),
        {("conv.weight", "two weights", "magnitudes that add up to 254", "wrong")},
    ),
    ("ort-avx2", Written("uint8", peak=64), set()),
    ("litert", Written("int8", zero=-128, peak=128 - 1, weight_zero=-1), {
        ("conv.weight", "zero point of weight", "-1", "refused"),
        ("conv.weight", "range of weight", "-128", "wrong"),
    }),
    ("ncnn", Written(zero=1), {
        ("x", "zero point of activation", "1", "refused"), ("r", "zero point of activation", "1", "refused"),
    }),
]  # fmt: skip


@pytest.mark.parametrize(
    ("target", "written", "expected"), BROKEN, ids=lambda value: value if isinstance(value, str) else ""
)
def test_every_tensor_that_breaks_a_rule_is_named(
    target: str, written: Written, expected: set[tuple[str, str, str, str]], tmp_path: Path
) -> None:
    found = check(written.save(tmp_path / "net.onnx"), target)
    assert {(v.tensor, v.rule, v.actual, v.effect) for v in found} == expected
    assert len(found) == len(expected), "each once"


@pytest.mark.parametrize("bias_scale", [1.0, 2.0])
def test_onnx_runtime_adds_the_bias_only_at_the_scale_of_the_product(bias_scale: float, tmp_path: Path) -> None:
    """At any other it leaves the convolution in float; before version 1.26 it added the integers all the same."""
    path = Written("uint8", bias="int32", bias_scale=bias_scale, peak=20, opset=21).save(tmp_path / "net.onnx")
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    nodes = {node.op_type for node in onnx.load(str(tmp_path / "optimized.onnx")).graph.node}
    assert ("QLinearConv" in nodes) == (bias_scale == 1.0) == (check(path, "ort-x86") == ())
    x = np.random.default_rng(1).uniform(0, 12, (1, 4, 5, 5)).astype(np.float32)
    specified = ReferenceEvaluator(str(path)).run(None, {"x": x})[0]  # type: ignore[index]
    assert float(np.abs(session.run(None, {"x": x})[0] - specified).max()) <= 0.1001, "a step of rounding"


def test_the_bound_of_two_weights_is_that_of_16_bits() -> None:
    assert 255 * LARGEST_PAIR <= np.iinfo(np.int16).max < 255 * (LARGEST_PAIR + 1)


def test_operators_of_integers_are_not_for_tensorrt(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"], name="quantize"),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"], name="restore"),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 4))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (1, 4))],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 12)], ir_version=8), str(tmp_path / "n.onnx")
    )
    found = {(v.node.split(",")[0], v.rule, v.actual) for v in check(tmp_path / "n.onnx", "tensorrt")}
    assert {
        ("opset", "opset", "12"),
        ("quantize", "operation", ":DynamicQuantizeLinear"),
        ("restore", "scale", "a computed value"),
        ("restore", "zero point of activation", "a computed value"),
        ("restore", "type of activation", "uint8"),
    } == found


PAIR = {"s": np.float32(0.1), "z": np.int8(0)}
FOUR = onnx.helper.tensor_dtype_to_np_dtype(TensorProto.INT4)
WEIGHT = np.ones((8, 4, 1, 2), np.int8)
SCALES = {"ws": np.full(8, 0.1, np.float32), "wz": np.zeros(8, np.int8)}


@pytest.mark.parametrize(
    ("nodes", "stored", "expected"),
    [
        (
            [*rounded("x", "a"), helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["wd"], axis=0),
             helper.make_node("Conv", ["a", "wd"], ["y"], name="conv")],
            {"w": WEIGHT, "ws": SCALES["ws"], "wz": np.int8(0)},
            {("zero points", "1", "refused")},
        ),
        (
            [*rounded("x", "a"), helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["wd"], axis=1),
             helper.make_node("Conv", ["a", "wd"], ["y"], name="conv")],
            {"w": WEIGHT, **SCALES},
            {("scales", "8", "refused"), ("axis of scales", "1", "refused")},
        ),
        (
            [*rounded("x", "a"), helper.make_node("Conv", ["a", "w"], ["y"], name="conv")],
            {"w": WEIGHT.astype(np.float32)},
            {("runs in float", "weight without DequantizeLinear", "slow")},
        ),
        (
            [helper.make_node("DequantizeLinear", ["w", "ws"], ["wd"], axis=0, block_size=4),
             helper.make_node("MatMul", ["x", "wd"], ["y"], name="product")],
            {"w": np.ones((6, 3), np.int8).astype(FOUR), "ws": np.full((2, 3), 0.1, np.float32)},
            {("last dimension of int4", "3", "refused")},
        ),
        (
            [helper.make_node("DequantizeLinear", ["w", "ws"], ["wd"], axis=0, block_size=4),
             helper.make_node("MatMul", ["x", "wd"], ["y"], name="product")],
            {"w": np.ones((7, 4), np.int8).astype(FOUR), "ws": np.full((2, 4), 0.1, np.float32)},
            {("blocks", "scales (2, 4) for (7, 4)", "refused")},
        ),
        (
            [*rounded("x", "a"), helper.make_node("DequantizeLinear", ["w", "ws"], ["wd"], axis=1),
             helper.make_node("MatMul", ["a", "wd"], ["y"], name="product")],
            {"w": np.ones((6, 2), np.int8).astype(FOUR), "ws": np.full(2, 0.1, np.float32)},
            {("int4 weight", "multiplied by int8", "refused")},
        ),
        (
            [*rounded("x", "a"), helper.make_node("Concat", ["a", "x"], ["y"], axis=1, name="cat")],
            {},
            {("concatenation", "one input in float", "slow")},
        ),
        (
            [*rounded("x", "a"), helper.make_node("DequantizeLinear", ["n", "s", "z"], ["nd"]),
             helper.make_node("Add", ["a", "nd"], ["y"], name="plus")],
            {"n": np.int8(3)},
            {("number", "int8", "refused")},
        ),
        (
            [helper.make_node("GlobalAveragePool", ["x"], ["p"], name="pool"), *rounded("p", "y")],
            {},
            {("runs in float", "input without DequantizeLinear", "slow")},
        ),
        (
            [*rounded("x", "a"), helper.make_node("MaxPool", ["a"], ["m"], kernel_shape=[1, 1]),
             *rounded("x", "b"), helper.make_node("Add", ["m", "b"], ["y"], name="join")],
            {},
            set(),
        ),
    ],
    ids=["zero points", "axis", "float weight", "odd int4", "blocks", "int4 by int8", "concat", "number", "average",
         "past pool"],
)  # fmt: skip
def test_what_tensorrt_alone_wants(
    nodes: list[onnx.NodeProto], stored: dict[str, np.ndarray], expected: set[tuple[str, str, str]], tmp_path: Path
) -> None:
    found = check(saved(nodes, {**PAIR, **stored}, tmp_path / "net.onnx"), "tensorrt")  # type: ignore[dict-item]
    assert {(v.rule, v.actual, v.effect) for v in found} == expected


def test_what_is_refused_is_raised_and_what_is_slow_is_told(tmp_path: Path) -> None:
    good, bad = Written(add="x").save(tmp_path / "good.onnx"), Written(bias="int32").save(tmp_path / "bad.onnx")
    assert require(good, "tensorrt", tmp_path / "net.engine")[0].startswith(
        "slow: residual sum of 1 tensors (join, Add"
    )
    with pytest.raises(GateFailed, match=r"net.engine: 1 tensors break rules of tensorrt: refused: conv.bias"):
        require(bad, "tensorrt", tmp_path / "net.engine")


def test_a_float_file_breaks_no_rule(tmp_path: Path) -> None:
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 4))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (1, 4))],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]), str(tmp_path / "n.onnx"))
    assert not any(check(tmp_path / "n.onnx", target) for target in TARGETS)


def test_violations_in_few_lines() -> None:
    one = Violation("a", "conv, Conv", "runs in float", "no DQ", "DQ", "slow")
    many = [replace(one, tensor=str(i), node=f"conv{i}, Conv") for i in range(5)]
    assert grouped(many) == (
        "slow: runs in float of 5 tensors (conv0, Conv; conv1, Conv; conv2, Conv; ...): found no DQ, expected DQ",
    )
    assert str(one) == "slow: a (conv, Conv): runs in float: found no DQ, expected DQ"


def test_bad_input(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="target 'tpu'"):
        check(tmp_path / "n.onnx", "tpu")
    with pytest.raises(InvalidInput, match="no such file"):
        check(tmp_path / "n.onnx", "tensorrt")
