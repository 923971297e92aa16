"""Files of one 3x3 convolution each, in float, in int8 and of few bits, and what they take."""

from __future__ import annotations

import statistics
import time
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from benchmarks.common.latency import spread_of
from export.onnx.bits.bitwise import Activation, BitLayer, bit_conv, declare, pack_rows
from runtimes.measure.loop import interleave, sentinel
from runtimes.measure.presets import PRESETS, PresetName
from runtimes.runtime import Options, engine_named

FORMS: dict[str, tuple[int, Activation, int]] = {
    "binary x binary": (1, "sign", 1),
    "ternary x sign": (2, "sign", 1),
    "ternary x 2 bits": (2, "unsigned", 2),
    "ternary x 4 bits": (2, "unsigned", 4),
}


def saved(
    nodes: list[onnx.NodeProto], stored: dict[str, NDArray[Any]], shape: list[int], path: Path, kind: int
) -> Path:
    """The nodes from x to y, of one shape, as a file."""
    ends = [helper.make_tensor_value_info(name, kind, shape) for name in "xy"]
    tensors = [numpy_helper.from_array(value, name) for name, value in stored.items()]
    graph = helper.make_graph(nodes, "convolution", ends[:1], ends[1:], tensors)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path


def float_file(channels: int, size: int, path: Path) -> Path:
    """ONNX Runtime's convolution in float."""
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((channels, channels, 3, 3)).astype(np.float32)
    stored = {"w": weight, "b": np.ones(channels, np.float32)}
    node = helper.make_node("Conv", ["x", "w", "b"], ["y"], pads=[1] * 4)
    return saved([node], stored, [1, channels, size, size], path, TensorProto.FLOAT)


def int8_file(channels: int, size: int, path: Path) -> Path:
    """The same between uint8 and uint8 as (N, H, W, C), its kernels' layout: ONNX Runtime leaves one QLinearConv."""
    rng = np.random.default_rng(0)
    stored: dict[str, NDArray[Any]] = {
        "w_q": rng.integers(-127, 128, (channels, channels, 3, 3), np.int8),
        "w_s": np.full(channels, 0.01, np.float32),
        "w_z": np.zeros(channels, np.int8),
        "b_q": np.ones(channels, np.int32),
        "b_s": np.full(channels, 0.0005, np.float32),
        "b_z": np.zeros(channels, np.int32),
        "x_s": np.array(0.05, np.float32),
        "y_s": np.array(0.5, np.float32),
        "zero": np.array(0, np.uint8),
    }
    nodes = [
        helper.make_node("Transpose", ["x"], ["x_t"], perm=[0, 3, 1, 2]),
        helper.make_node("DequantizeLinear", ["x_t", "x_s", "zero"], ["x_r"]),
        helper.make_node("DequantizeLinear", ["w_q", "w_s", "w_z"], ["w"], axis=0),
        helper.make_node("DequantizeLinear", ["b_q", "b_s", "b_z"], ["b"], axis=0),
        helper.make_node("Conv", ["x_r", "w", "b"], ["c"], pads=[1] * 4),
        helper.make_node("QuantizeLinear", ["c", "y_s", "zero"], ["y_t"]),
        helper.make_node("Transpose", ["y_t"], ["y"], perm=[0, 2, 3, 1]),
    ]
    return saved(nodes, stored, [1, size, size, channels], path, TensorProto.UINT8)


def bit_file(channels: int, size: int, path: Path, form: tuple[int, Activation, int]) -> Path:
    """Ours, between floats."""
    bits, activation, activation_bits = form
    weight = np.random.default_rng(0).integers(-1, 2, (channels, channels, 3, 3))
    weight = np.where(weight > 0, 1, -1) if bits == 1 else weight
    layer = BitLayer(weight.shape, bits, activation, activation_bits, pads=(1, 1, 1, 1))
    node = bit_conv(layer, ["x", "w", "s", "a", "b"], "y", name="bits")
    ones = np.ones(channels, np.float32)
    start = np.zeros(1, np.float32) if activation == "sign" else np.ones(1, np.float32)
    stored: dict[str, NDArray[Any]] = {"w": pack_rows(weight, bits), "s": ones, "a": start, "b": ones}
    saved([node], stored, [1, channels, size, size], path, TensorProto.FLOAT)
    model = onnx.load(path)
    declare(model, [(layer, node)])
    onnx.save(model, path)
    return path


def medians(channels: int, size: int, folder: Path, preset: PresetName) -> dict[str, Any]:
    """The medians of one shape in ms, their widest spread (p90 - p10) / p50, and what ran them."""
    files = {
        "float": ("onnxruntime", float_file(channels, size, folder / "float.onnx")),
        "int8": ("onnxruntime", int8_file(channels, size, folder / "int8.onnx")),
    }
    for name, form in FORMS.items():
        files[name] = ("bitwise", bit_file(channels, size, folder / f"{name}.onnx", form))
    rng = np.random.default_rng(1)
    x = rng.standard_normal((1, channels, size, size)).astype(np.float32)
    image = {"float32": x, "uint8": rng.integers(0, 256, (1, size, size, channels), np.uint8)}
    with ExitStack() as stack:
        runtimes = [
            stack.enter_context(closing(engine_named(e).load(f, Options(threads=1)))) for e, f in files.values()
        ]
        feeds = [{each.inputs[0].name: image[each.inputs[0].dtype]} for each in runtimes]
        graphs = [each.executed_graph(feed) for each, feed in zip(runtimes, feeds, strict=True)]
        operations = [sorted(graph.ops) for graph in graphs if graph is not None]
        assert operations[1] == ["QLinearConv"], f"the int8 file runs as {operations[1]}"
        works = [partial(each.run, feed) for each, feed in zip(runtimes, feeds, strict=True)]
        samples = interleave(works, PRESETS[preset], sentinel(), clock_ns=time.thread_time_ns).rows_ms
    times = [spread_of(each) for each in samples]
    return {
        "ms": {name: each.p50_ms for name, each in zip(files, times, strict=True)},
        "spread": max(each.spread for each in times),
        "operations": dict(zip(files, operations, strict=True)),
    }


def cut_ms(folder: Path, preset: PresetName) -> float:
    """What one more session costs in a network that is cut into several: the median of one that has nothing to do."""
    node = helper.make_node("Relu", ["x"], ["y"])
    file = saved([node], {}, [1], folder / "cut.onnx", TensorProto.FLOAT)
    with closing(engine_named("onnxruntime").load(file, Options())) as runtime:
        work = partial(runtime.run, {"x": np.zeros(1, np.float32)})
        return statistics.median(
            interleave([work], PRESETS[preset], sentinel(), clock_ns=time.thread_time_ns).rows_ms[0]
        )
