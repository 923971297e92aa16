"""Small files that the tests of the runtimes run: float and int8, with a dynamic and with a fixed batch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

CLASSES = 5


def linear_weights() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    return rng.standard_normal((4, CLASSES)).astype(np.float32), rng.standard_normal(CLASSES).astype(np.float32)


def linear_model(batch: int | str) -> onnx.ModelProto:
    """y = relu(x w + b), (N, 4) -> (N, 5)."""
    w, b = linear_weights()
    return _model(
        [
            helper.make_node("MatMul", ["x", "w"], ["xw"]),
            helper.make_node("Add", ["xw", "b"], ["a"]),
            helper.make_node("Relu", ["a"], ["y"]),
        ],
        {"w": w, "b": b},
        [batch, 4],
        [batch, CLASSES],
    )


def float_model() -> onnx.ModelProto:
    """A convolution, a ReLU, two poolings and a linear layer, (N, 3, 8, 8) -> (N, 5)."""
    rng = np.random.default_rng(2)
    return _model(
        [
            helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
            helper.make_node("Relu", ["c"], ["r"]),
            helper.make_node("MaxPool", ["r"], ["m"], kernel_shape=[2, 2], strides=[2, 2]),
            helper.make_node("GlobalAveragePool", ["m"], ["g"]),
            helper.make_node("Flatten", ["g"], ["f"]),
            helper.make_node("Gemm", ["f", "v"], ["y"], transB=1),
        ],
        {
            "w": rng.standard_normal((16, 3, 3, 3)).astype(np.float32),
            "v": rng.standard_normal((CLASSES, 16)).astype(np.float32),
        },
        ["N", 3, 8, 8],
        ["N", CLASSES],
    )


def int8_model(float_inside: bool = False) -> onnx.ModelProto:
    """Convolution and two poolings between Q and DQ; ``float_inside`` adds an operator that has no int8 kernel."""
    rng = np.random.default_rng(3)
    weights = {
        "w_q": rng.integers(-127, 128, (16, 3, 3, 3), np.int8),
        "w_s": np.full(16, 0.01, np.float32),
        "w_z": np.zeros(16, np.int8),
        "x_s": np.array(0.02, np.float32),
        "x_z": np.array(128, np.uint8),
        "a_s": np.array(0.05, np.float32),
        "a_z": np.array(0, np.uint8),
    }
    nodes = [
        *_round_trip("x", "x_s", "x_z"),
        helper.make_node("DequantizeLinear", ["w_q", "w_s", "w_z"], ["w"], axis=0),
    ]
    nodes += [helper.make_node("Conv", ["x_dq", "w"], ["c"], pads=[1, 1, 1, 1]), helper.make_node("Relu", ["c"], ["r"])]
    nodes += _round_trip("r", "a_s", "a_z")
    nodes += [helper.make_node("MaxPool", ["r_dq"], ["m"], kernel_shape=[2, 2], strides=[2, 2])]
    nodes += _round_trip("m", "a_s", "a_z")
    last = "m_dq"
    if float_inside:
        nodes += [helper.make_node("Softsign", ["m_dq"], ["s"], name="left_in_float"), *_round_trip("s", "a_s", "a_z")]
        last = "s_dq"
    nodes += [helper.make_node("GlobalAveragePool", [last], ["g"]), *_round_trip("g", "a_s", "a_z")]
    nodes += [helper.make_node("Flatten", ["g_dq"], ["y"])]
    return _model(nodes, weights, ["N", 3, 8, 8], ["N", 16])


def heavy_model(megabytes: int) -> onnx.ModelProto:
    """A product with a matrix of so many megabytes, (N, 1024) -> (N, M)."""
    columns = megabytes * 256
    weights = {"w": np.ones((1024, columns), np.float32)}
    return _model([helper.make_node("MatMul", ["x", "w"], ["y"])], weights, ["N", 1024], ["N", columns])


def _round_trip(name: str, scale: str, zero_point: str) -> list[onnx.NodeProto]:
    return [
        helper.make_node("QuantizeLinear", [name, scale, zero_point], [f"{name}_q"]),
        helper.make_node("DequantizeLinear", [f"{name}_q", scale, zero_point], [f"{name}_dq"]),
    ]


def _model(
    nodes: list[onnx.NodeProto],
    weights: dict[str, np.ndarray],
    taken: list[int | str],
    given: list[int | str],
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, taken)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, given)],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    return model


Saved = Callable[[onnx.ModelProto, str], Path]


@pytest.fixture
def saved(tmp_path: Path) -> Saved:
    """Save a model under a name in the test's folder."""

    def save(model: onnx.ModelProto, name: str) -> Path:
        path = tmp_path / name
        onnx.save(model, path)
        return path

    return save


@pytest.fixture
def linear(saved: Saved) -> Path:
    """y = relu(x w + b) with a dynamic batch."""
    return saved(linear_model("N"), "linear.onnx")


@pytest.fixture
def models() -> dict[str, Callable[..., onnx.ModelProto]]:
    """The makers of models, by name."""
    return {
        "linear": linear_model,
        "float": float_model,
        "int8": int8_model,
        "heavy": heavy_model,
    }


@pytest.fixture(scope="session")
def linear_layer() -> tuple[np.ndarray, np.ndarray]:
    """Weights (4, 5) and biases (5,) of the linear model."""
    return linear_weights()


@pytest.fixture
def reference() -> Callable[[np.ndarray], np.ndarray]:
    """The linear model, computed by numpy."""
    w, b = linear_weights()
    return lambda x: np.maximum(x.astype(np.float64) @ w + b, 0)
