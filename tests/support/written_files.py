"""ONNX files with QuantizeLinear and DequantizeLinear, written by hand as other tools would."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


@dataclass(frozen=True)
class Written:
    """Q -> DQ -> Conv -> ReLU -> Q -> DQ -> (+ x) of one convolution, with what a tool may have chosen."""

    activation: str = "int8"
    zero: int = 0
    weight: str = "int8"
    weight_zero: int = 0
    peak: int = 127
    scale: float = 0.05
    activation_scales: int = 1
    bias: str = "float"
    bias_scale: float = 1.0
    quantize_weight: bool = False
    relu: bool = True
    round_result: bool = True
    add: str = ""
    opset: int = 18

    def save(self, path: Path) -> Path:
        channels = 4
        generator = np.random.default_rng(0)
        integers = generator.integers(-self.peak // 2, self.peak // 2, (channels, channels, 1, 1))
        integers[0, 0], integers[0, 1] = self.peak, -self.peak
        weight_scale = np.full(channels, 0.01, np.float32)
        stored = {
            "xs": np.full((channels,) if self.activation_scales > 1 else (), self.scale, np.float32),
            "xz": np.full((channels,) if self.activation_scales > 1 else (), self.zero, self.activation),
            "ws": weight_scale,
            "wz": np.full(channels, self.weight_zero, self.weight),
        }
        nodes = [
            helper.make_node("QuantizeLinear", ["x", "xs", "xz"], ["xq"], axis=1),
            helper.make_node("DequantizeLinear", ["xq", "xs", "xz"], ["xd"], axis=1),
        ]
        if self.quantize_weight:
            stored["conv.weight"] = (integers * 0.01).astype(np.float32)
            nodes.append(helper.make_node("QuantizeLinear", ["conv.weight", "ws", "wz"], ["wq"], axis=0))
        else:
            stored["conv.weight"] = (integers + self.weight_zero).astype(self.weight)
        source = "wq" if self.quantize_weight else "conv.weight"
        nodes.append(helper.make_node("DequantizeLinear", [source, "ws", "wz"], ["wd"], axis=0))
        bias = "conv.bias"
        if self.bias == "int32":
            stored |= {"conv.bias": np.array([900, -70, 5, 0], np.int32), "bz": np.zeros(channels, np.int32)}
            stored["bs"] = (weight_scale * np.float32(self.scale * self.bias_scale)).astype(np.float32)
            nodes.append(helper.make_node("DequantizeLinear", ["conv.bias", "bs", "bz"], ["bd"], axis=0))
            bias = "bd"
        else:
            stored["conv.bias"] = np.array([0.5, -0.1, 0, 0], np.float32)
        nodes.append(helper.make_node("Conv", ["xd", "wd", bias], ["c"], name="conv"))
        value = "c"
        if self.relu:
            nodes.append(helper.make_node("Relu", ["c"], ["r"], name="act"))
            value = "r"
        if self.round_result:
            stored |= {"ys": np.float32(0.1), "yz": np.asarray(self.zero, self.activation)}  # type: ignore[dict-item]
            nodes.append(helper.make_node("QuantizeLinear", [value, "ys", "yz"], ["yq"]))
            nodes.append(helper.make_node("DequantizeLinear", ["yq", "ys", "yz"], ["yd"]))
            value = "yd"
        if self.add:
            nodes.append(helper.make_node("Add", [value, self.add], ["sum"], name="join"))
            value = "sum"
        nodes[-1].output[0] = "y"
        shape = (1, channels, 5, 5)
        graph = helper.make_graph(
            nodes,
            "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
            [numpy_helper.from_array(array, name) for name, array in stored.items()],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=10)
        onnx.save(model, str(path))
        return path


def saved(nodes: list[onnx.NodeProto], stored: dict[str, np.ndarray], path: Path, *, fixed: bool = False) -> Path:
    """A graph x -> y of (1, 4, 6, 6), told or not, with these nodes and constants."""
    shape = (1, 4, 6, 6) if fixed else ("N", "C", "H", "W")
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("x", "y")]
    constants = [numpy_helper.from_array(array, name) for name, array in stored.items()]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), str(path))
    return path


def rounded(value: str, result: str) -> list[onnx.NodeProto]:
    return [
        helper.make_node("QuantizeLinear", [value, "s", "z"], [f"{result}q"]),
        helper.make_node("DequantizeLinear", [f"{result}q", "s", "z"], [result]),
    ]
