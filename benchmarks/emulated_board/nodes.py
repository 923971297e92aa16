"""Node by node: the integers that ONNX Runtime makes on the board, held against exact arithmetic.

The graph is the one that ONNX Runtime made of the file there. Each node is given what it read on the board, so that
nothing adds up; its result is computed in float64, where sums of products of integers are exact, from the definition of
its operator (https://onnx.ai/onnx/operators, and ONNX Runtime's docs/ContribOperators.md for those of com.microsoft),
and rounded to the nearest integer, halves to even.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import GraphProto, helper, numpy_helper
from torch.nn import functional

from runtimes.engines.onnxruntime import kind_of
from runtimes.runtime import Array
from tests.support.board import PYTHON, Board

Reals = NDArray[np.float64]
Inputs = list[Any]

_SESSION = """
import sys, onnxruntime as ort
settings = ort.SessionOptions()
settings.intra_op_num_threads, settings.log_severity_level = 1, 4
{level}
session = ort.InferenceSession("{model}", settings, providers=["CPUExecutionProvider"])
"""
_OPTIMIZE = _SESSION.format(model="model.onnx", level='settings.optimized_model_filepath = "optimized.onnx"')
_RUN = (
    "import numpy as np"
    + _SESSION.format(
        model="nodes.onnx", level="settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL"
    )
    + """
names = [each.name for each in session.get_outputs()]
feed = {session.get_inputs()[0].name: np.load("inputs.npy")}
np.savez("values.npz", **{str(n): value for n, value in enumerate(session.run(names, feed))})
"""
)


@dataclass
class Held:
    """What came of holding nodes against exact arithmetic.

    Args:
        nodes: that were held.
        values: that they made.
        off: of these that are another integer than the exact one.
        largest_steps: by how much at most, in steps of the integers.
        farthest_from_tie: how far, in steps, the exact value of one that is off is from the middle of two integers.
        not_held: operators in integers that are not computed here.
    """

    nodes: int = 0
    values: int = 0
    off: int = 0
    largest_steps: int = 0
    farthest_from_tie: float = 0.0
    not_held: set[str] = field(default_factory=set)

    def hold(self, exact: Reals, there: Array) -> None:
        """Count what one node made ``there`` beside what it would exactly be, before it is rounded."""
        limits = np.iinfo(there.dtype)
        error = np.abs(np.clip(np.rint(exact), limits.min, limits.max) - there.astype(np.float64))
        off = exact[error > 0]
        self.nodes += 1
        self.values += error.size
        self.off += off.size
        self.largest_steps = max(self.largest_steps, int(error.max()))
        if off.size:
            self.farthest_from_tie = max(self.farthest_from_tie, float(np.abs(off - np.floor(off) - 0.5).max()))


def held(made: Board, file: Path, inputs: Array) -> Held:
    """Run a file on the board node by node; returns how the nodes in integers compare with exact arithmetic.

    Args:
        inputs: of the file's one input, samples first.
    """
    _put(made, "model.onnx", file.read_bytes())
    _python(made, _OPTIMIZE)
    model = onnx.load_from_string(_get(made, "optimized.onnx"))
    known = {output.name for output in model.graph.output}
    made_names = [name for node in model.graph.node for name in node.output if name and name not in known]
    model.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in made_names)
    _put(made, "nodes.onnx", model.SerializeToString())
    content = io.BytesIO()
    np.save(content, inputs)
    _put(made, "inputs.npy", content.getvalue())
    _python(made, _RUN)
    arrays = np.load(io.BytesIO(_get(made, "values.npz")))
    values = {output.name: arrays[str(number)] for number, output in enumerate(model.graph.output)}
    return compare(model.graph, {model.graph.input[0].name: inputs, **values})


def compare(graph: GraphProto, values: Mapping[str, Array]) -> Held:
    """Hold each node of a graph against exact arithmetic, given the values of all its tensors but the stored ones."""
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    found = Held()
    for node in graph.node:
        there = values[node.output[0]]
        if there.dtype not in (np.int8, np.uint8):
            continue
        read = [stored.get(name, values.get(name)) if name else None for name in node.input]
        if node.op_type in _EXACT:
            attributes = {each.name: helper.get_attribute_value(each) for each in node.attribute}
            found.hold(_EXACT[node.op_type](read, attributes), there)
        elif kind_of(node.op_type, str(there.dtype)) == "integer":
            found.not_held.add(node.op_type)
    return found


def _reals(integers: Array, scale: Array, zero: Array) -> Reals:
    return np.asarray((integers.astype(np.float64) - float(zero)) * float(scale))


def _rescaled(values: Reals, scale: Array, zero: Array) -> Reals:
    return values / float(scale) + float(zero)


def _quantize(read: Inputs, _: Mapping[str, Any]) -> Reals:
    values, scale, zero = read
    return _rescaled(values.astype(np.float64), scale, zero)


def _convolution(read: Inputs, attributes: Mapping[str, Any]) -> Reals:
    x, x_scale, x_zero, weight, weight_scale, weight_zero, y_scale, y_zero, *bias = read
    last = bool(attributes.get("channels_last", 0))
    integers = torch.from_numpy(x.astype(np.float64) - float(x_zero))
    integers = integers.permute(0, 3, 1, 2) if last else integers
    zeros = np.reshape(weight_zero.astype(np.float64), (-1, *(1,) * (weight.ndim - 1)))
    top, left, bottom, right = attributes.get("pads", (0, 0, 0, 0))
    sums = functional.conv2d(
        functional.pad(integers, (left, right, top, bottom)),
        torch.from_numpy(weight.astype(np.float64) - zeros),
        torch.from_numpy(bias[0].astype(np.float64)) if bias and bias[0] is not None else None,
        tuple(attributes.get("strides", (1, 1))),
        0,
        tuple(attributes.get("dilations", (1, 1))),
        int(attributes.get("group", 1)),
    ).numpy()
    scale = np.reshape(float(x_scale) * weight_scale.astype(np.float64) / float(y_scale), (-1, 1, 1))
    exact = sums * scale + float(y_zero)
    return np.asarray(exact.transpose(0, 2, 3, 1) if last else exact)


def _product(read: Inputs, attributes: Mapping[str, Any]) -> Reals:
    a, a_scale, a_zero, b, b_scale, b_zero, c, y_scale, y_zero = read
    left, right = a.astype(np.float64) - float(a_zero), b.astype(np.float64)
    right = right.T if attributes.get("transB", 0) else right
    right = right - b_zero.astype(np.float64)
    sums = left @ right + (0.0 if c is None else c.astype(np.float64))
    return np.asarray(sums * (float(a_scale) * b_scale.astype(np.float64) / float(y_scale)) + float(y_zero))


def _sum(read: Inputs, _: Mapping[str, Any]) -> Reals:
    return _rescaled(_reals(*read[:3]) + _reals(*read[3:6]), *read[6:])


def _times(read: Inputs, _: Mapping[str, Any]) -> Reals:
    return _rescaled(_reals(*read[:3]) * _reals(*read[3:6]), *read[6:])


def _average(read: Inputs, attributes: Mapping[str, Any]) -> Reals:
    x, x_scale, x_zero, y_scale, y_zero = read
    axes = (1, 2) if attributes.get("channels_last", 0) else (2, 3)
    mean = np.asarray(x.astype(np.float64).mean(axis=axes, keepdims=True))
    return _rescaled((mean - float(x_zero)) * float(x_scale), y_scale, y_zero)


def _concatenation(read: Inputs, attributes: Mapping[str, Any]) -> Reals:
    scale, zero, *parts = read
    reals = [_reals(*parts[at : at + 3]) for at in range(0, len(parts), 3)]
    return _rescaled(np.concatenate(reals, int(attributes["axis"])), scale, zero)


_EXACT: Mapping[str, Callable[[Inputs, Mapping[str, Any]], Reals]] = {
    "QuantizeLinear": _quantize,
    "QLinearConv": _convolution,
    "QGemm": _product,
    "QLinearAdd": _sum,
    "QLinearMul": _times,
    "QLinearGlobalAveragePool": _average,
    "QLinearConcat": _concatenation,
}


def _put(made: Board, name: str, content: bytes) -> None:
    _require(made.run("sh", "-c", f"cat > {name}", text=content))


def _get(made: Board, name: str) -> bytes:
    return _require(made.run("cat", name))


def _python(made: Board, code: str) -> None:
    _require(made.run(PYTHON, "-c", code))


def _require(done: Any) -> bytes:
    if done.returncode:
        raise RuntimeError(f"the board: {done.stderr.decode(errors='replace')[-300:]}")
    return bytes(done.stdout)
