"""Nodes held against exact arithmetic: by graphs that ONNX Runtime runs here, and by values that were changed."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from benchmarks.emulated_board.nodes import compare

Arrays = dict[str, NDArray[Any]]
RNG = np.random.default_rng(0)


def scales(**values: float) -> Arrays:
    return {name: np.array(value, np.float32) for name, value in values.items()}


def zeros(**values: int) -> Arrays:
    return {name: np.array(value, np.int8) for name, value in values.items()}


def integers(*shape: int) -> NDArray[np.int8]:
    return RNG.integers(-128, 128, shape, dtype=np.int8)


CONVOLUTION: Arrays = {
    **scales(xs=0.02, ys=0.7) | zeros(xz=3, yz=-5),
    "w": integers(6, 2, 3, 3),
    "ws": np.linspace(0.01, 0.02, 6, dtype=np.float32),
    "wz": np.zeros(6, np.int8),
    "b": RNG.integers(-9999, 9999, 6, dtype=np.int32),
}
CASES: dict[str, tuple[list[str], dict[str, Any], str, Arrays]] = {
    "QLinearConv": (
        ["x", "xs", "xz", "w", "ws", "wz", "ys", "yz", "b"],
        {"pads": [1, 0, 2, 1], "strides": [2, 1], "dilations": [1, 2], "group": 2},
        "",
        CONVOLUTION,
    ),
    "QLinearAdd": (
        ["x", "xs", "xz", "c", "cs", "cz", "ys", "yz"],
        {},
        "com.microsoft",
        {**scales(xs=0.02, cs=0.013, ys=0.021), **zeros(xz=3, cz=-7, yz=4), "c": integers(3, 4, 9, 10)},
    ),
    "QLinearMul": (
        ["x", "xs", "xz", "c", "cs", "cz", "ys", "yz"],
        {},
        "com.microsoft",
        {**scales(xs=0.02, cs=0.013, ys=0.05), **zeros(xz=3, cz=-7, yz=4), "c": integers(3, 4, 9, 10)},
    ),
    "QLinearGlobalAveragePool": (
        ["x", "xs", "xz", "ys", "yz"],
        {},
        "com.microsoft",
        scales(xs=0.02, ys=0.004) | zeros(xz=3, yz=4),
    ),
    "QLinearConcat": (
        ["ys", "yz", "x", "xs", "xz", "c", "cs", "cz"],
        {"axis": 1},
        "com.microsoft",
        {**scales(xs=0.02, cs=0.013, ys=0.021), **zeros(xz=3, cz=-7, yz=4), "c": integers(3, 2, 9, 10)},
    ),
    "QGemm": (
        ["f", "xs", "xz", "w", "ws", "wz", "b", "ys", "yz"],
        {"transB": 1},
        "com.microsoft",
        CONVOLUTION | {"w": integers(6, 360)} | scales(ys=2.0),
    ),
}


@pytest.mark.parametrize("operator", CASES)
def test_nodes_are_held_and_what_is_off_is_counted(operator: str) -> None:
    inputs, attributes, domain, stored = CASES[operator]
    x = integers(3, 4, 9, 10)
    before = [helper.make_node("Flatten", ["x"], ["f"])] if "f" in inputs else []
    node = helper.make_node(operator, inputs, ["y"], domain=domain, **attributes)
    graph = helper.make_graph(
        [*before, node],
        "one",
        [helper.make_tensor_value_info("x", TensorProto.INT8, x.shape)],
        [helper.make_empty_tensor_value_info(name) for name in ("y", *("f" for _ in before))],
        [numpy_helper.from_array(value, name) for name, value in stored.items()],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    session = ort.InferenceSession(helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString())
    names = [each.name for each in graph.output]
    values = dict(zip(names, session.run(names, {"x": x}), strict=True)) | {"x": x}
    held = compare(graph, values)
    assert (held.nodes, held.values, held.not_held) == (1, values["y"].size, set())
    assert held.off <= 1 and held.largest_steps <= 1 and held.farthest_from_tie < 1e-4
    wrong = values["y"].copy()
    wrong.flat[7] += 2 if wrong.flat[7] < 0 else -2
    held = compare(graph, values | {"y": wrong})
    assert held.off >= 1 and held.largest_steps == 2


def test_operators_that_are_not_known_are_named() -> None:
    node = helper.make_node("QLinearSigmoid", ["x", "xs", "xz", "ys", "yz"], ["y"], domain="com.microsoft")
    graph = helper.make_graph([node], "one", [], [])
    held = compare(graph, {"x": integers(2, 3), "y": integers(2, 3)})
    assert held.nodes == 0 and held.not_held == {"QLinearSigmoid"}
