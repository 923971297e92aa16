"""The runner of devices without Python: built, and a network with two inputs and two outputs for it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from runtimes.devices.native.runner import SOURCE


def built(compiler: str, folder: Path) -> Path:
    """The runner, built by a compiler without a warning."""
    program = folder / "runner"
    words = [compiler, "-std=c++17", "-O1", "-Wall", "-Wextra", "-Werror", "-static-libstdc++", "-static-libgcc"]
    subprocess.run([*words, "-o", str(program), str(SOURCE), "-ldl"], check=True, timeout=120)
    return program


def two_inputs() -> onnx.ModelProto:
    """A convolution of ``image`` (N, 3, 8, 8), and the integers of a second input twice, as int64."""
    weight = np.random.default_rng(1).normal(size=(4, 3, 3, 3)).astype(np.float32)
    two = numpy_helper.from_array(np.array(2, np.int64), "two")
    nodes = [
        helper.make_node("Conv", ["image", "weight"], ["features"], pads=[1, 1, 1, 1]),
        helper.make_node("Cast", ['a "name"'], ["wide"], to=TensorProto.INT64),
        helper.make_node("Mul", ["wide", "two"], ["doubled"]),
    ]
    inputs = [
        helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, 8, 8]),
        helper.make_tensor_value_info('a "name"', TensorProto.UINT8, ["n", 4]),
    ]
    outputs = [
        helper.make_tensor_value_info("features", TensorProto.FLOAT, ["n", 4, 8, 8]),
        helper.make_tensor_value_info("doubled", TensorProto.INT64, ["n", 4]),
    ]
    graph = helper.make_graph(nodes, "two", inputs, outputs, [numpy_helper.from_array(weight, "weight"), two])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
