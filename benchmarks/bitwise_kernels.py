"""Convolutions of 1- and 2-bit weights beside ONNX Runtime's in float and in int8, one thread.

python benchmarks/bitwise_kernels.py [--kernels avx2] [--preset quick] [-o out/bitwise_kernels.md]

Each is a file of one 3x3 convolution with a bias, run in turn in one loop: medians of the thread's processor time,
which other work on the machine leaves alone. All is counted: ours read and write floats, and round and pack
activations; int8 reads and writes uint8 and has QLinearConv's best form here (U8S8 per channel, channels last).
Values are random, which changes nothing of what a kernel costs. Five minutes of processor time, half of one with
``--preset quick``.

The last line is what the engine would pay if it cut a network into sessions instead of adding operators to one.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import tempfile
import time
from contextlib import ExitStack, closing
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from export.onnx.bits.bitwise import Activation, BitLayer, bit_conv, declare, pack_rows
from runtimes.benchmark import PRESETS, PresetName, interleave, sentinel
from runtimes.devices.local import conditions
from runtimes.engines.bitwise import KERNELS
from runtimes.runtime import Options, available, engine_named

SHAPES = ((256, 14), (256, 28), (128, 16), (64, 32))
FORMS: dict[str, tuple[int, Activation, int]] = {
    "binary x binary": (1, "sign", 1),
    "ternary x sign": (2, "sign", 1),
    "ternary x 2 bits": (2, "unsigned", 2),
    "ternary x 4 bits": (2, "unsigned", 4),
}
BAR_FLOAT, BAR_INT8, BAR_TERNARY = 6.0, 2.0, 1.0


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
    stored = {
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
    stored = {"w": pack_rows(weight, bits), "s": ones, "a": start, "b": ones}
    saved([node], stored, [1, channels, size, size], path, TensorProto.FLOAT)
    model = onnx.load(path)
    declare(model, [(layer, node)])
    onnx.save(model, path)
    return path


def row(channels: int, size: int, folder: Path, preset: PresetName) -> dict[str, Any]:
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
        operations = [sorted(each.executed_graph(feed).ops) for each, feed in zip(runtimes, feeds, strict=True)]
        assert operations[1] == ["QLinearConv"], f"the int8 file runs as {operations[1]}"
        works = [partial(each.run, feed) for each, feed in zip(runtimes, feeds, strict=True)]
        samples = interleave(works, PRESETS[preset], sentinel(), clock_ns=time.thread_time_ns).rows_ms
    tenths = [statistics.quantiles(each, n=10) for each in samples]
    medians = [statistics.median(each) for each in samples]
    return {
        "shape": f"{channels} channels, {size}x{size}",
        "ms": dict(zip(files, medians, strict=True)),
        "spread": max((t[8] - t[0]) / m for t, m in zip(tenths, medians, strict=True)),
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


def table(rows: list[dict[str, Any]], cut: float) -> str:
    """Markdown, with the bars."""
    lines = [
        f"Printed by `python benchmarks/bitwise_kernels.py`, {datetime.now(UTC):%Y-%m-%d}, {conditions().cpu} "
        f"({platform.machine()}), ONNX Runtime {available('bitwise')[0]}; 3x3, as many outputs, batch 1, 1 thread, "
        "medians of processor time, interleaved; float / ours and int8 / ours in brackets.",
        "",
        f"| shape | float | int8 | {' | '.join(FORMS)} | widest spread |",
        "|---|---|---|" + "---|" * (len(FORMS) + 1),
    ]
    for each in rows:
        ms = each["ms"]
        ours = [f"{ms[n]:.3f} ms ({ms['float'] / ms[n]:.1f}, {ms['int8'] / ms[n]:.1f})" for n in FORMS]
        lines.append(
            f"| {each['shape']} | {ms['float']:.3f} ms | {ms['int8']:.3f} ms | {' | '.join(ours)} | "
            f"{100 * each['spread']:.0f} % |"
        )
    binary, ternary = "binary x binary", list(FORMS)[1:]
    beside = {kind: min(r["ms"][kind] / r["ms"][binary] for r in rows) for kind in ("float", "int8")}
    held = {name: min(r["ms"]["int8"] / r["ms"][name] for r in rows) for name in ternary}
    lines += [
        "",
        f"{binary}: at least {beside['float']:.1f} times as fast as float (bar {BAR_FLOAT}: "
        f"{beside['float'] >= BAR_FLOAT}) and {beside['int8']:.1f} times as int8 (bar {BAR_INT8}: "
        f"{beside['int8'] >= BAR_INT8}).",
        *(
            f"{n}: at least {r:.2f} times as fast as int8 (bar {BAR_TERNARY}: {r >= BAR_TERNARY})."
            for n, r in held.items()
        ),
        f"One more session in a network that is cut at its bit layers: {1000 * cut:.1f} us.",
    ]
    return "\n".join(lines) + "\n"


@click.command()
@click.option("--kernels", default="", help="avx512, avx2, neon or scalar; the fastest by default.")
@click.option("--preset", type=click.Choice(["standard", "quick"]), default="standard", show_default=True)
@click.option("-o", "--output", type=click.Path(path_type=Path), default="out/bitwise_kernels.md", show_default=True)
def main(kernels: str, preset: PresetName, output: Path) -> None:
    """Print the table, and whether the bars hold."""
    os.environ[KERNELS] = kernels
    output.parent.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for channels, size in SHAPES:
            rows.append(row(channels, size, Path(folder), preset))
            output.with_suffix(".json").write_text(json.dumps(rows, indent=1))
            print(json.dumps(rows[-1]), flush=True)
        output.write_text(table(rows, cut_ms(Path(folder), preset)))
    print(output.read_text())


if __name__ == "__main__":
    main()
