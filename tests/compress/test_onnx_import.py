"""ONNX files as torch networks, against ONNX Runtime, the reference cases of the ONNX project, and the zoo."""

from __future__ import annotations

import copy
import functools
import inspect
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper
from onnx.backend.test.case.node import collect_testcases
from torch import Tensor, nn

import models
from compress.errors import InvalidInput
from compress.fold import Fold
from compress.graph.trace import trace
from compress.prune import Prune
from compress.sources.onnx_import import OnnxNetwork, example_inputs_of, load_onnx, operations
from compress.stage import Context
from tests.support.zoo_networks import every_network, small

torch.set_num_threads(1)
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # the reference cases divide by zero
make_node = helper.make_node
GENERATOR = np.random.default_rng(0)


def real(*shape: int) -> np.ndarray:
    return GENERATOR.standard_normal(shape).astype(np.float32)


def positive(*shape: int) -> np.ndarray:
    return np.abs(real(*shape)) + 0.5


def save(
    path: Path,
    nodes: list[NodeProto],
    inputs: dict[str, list[Any]],
    weights: dict[str, np.ndarray] | None = None,
    outputs: tuple[str, ...] = ("y",),
    opset: int = 17,
    dtype: int = TensorProto.FLOAT,
) -> Path:
    """Write the graph to ``path``; the types of its outputs are left to inference."""
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info(name, dtype, shape) for name, shape in inputs.items()],
        [onnx.ValueInfoProto(name=name) for name in outputs],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in (weights or {}).items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    model.opset_import.extend(helper.make_opsetid(node.domain, 1) for node in nodes if node.domain)
    known = {value.name: value for value in onnx.shape_inference.infer_shapes(model).graph.output}
    for value in model.graph.output:
        value.CopyFrom(known[value.name])
        if not value.type.tensor_type.elem_type:
            value.CopyFrom(helper.make_tensor_value_info(value.name, dtype, None))
    onnx.save(model, path)
    return path


def expected(path: Path, *inputs: Tensor) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    return session.run(None, {name: x.numpy() for name, x in zip(names, inputs, strict=True)})


def outputs_of(network: Callable[..., Any], *inputs: Tensor) -> list[np.ndarray]:
    with torch.no_grad():
        made = network(*inputs)
    return [t.numpy() for t in (made if isinstance(made, tuple) else (made,))]


def assert_same(ours: list[np.ndarray], theirs: list[np.ndarray]) -> None:
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        assert a.shape == b.shape
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=2e-5)


# --- the zoo, through both exporters ---------------------------------------------------------------------------------


# vit_tiny expands its class token to the batch, which an import with another batch does not follow
FEW = ("mobilenet_v1", "mobilenet_v2", "resnet20", "shufflenet_v2_x1_0", "squeezenet_1_1", "vgg11_bn")


@pytest.fixture(scope="module", params=every_network(FEW, without={"vit_tiny"}))
def network(request: pytest.FixtureRequest) -> nn.Module:
    made = small(request.param)
    for module in made.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_var, 0.5, 2.0)  # type: ignore[arg-type]
            nn.init.normal_(module.running_mean, std=0.1)  # type: ignore[arg-type]
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
    return made.eval()


MODES: dict[str, dict[str, Any]] = {
    "new, folded": {"dynamo": True, "external_data": False},
    "old, fixed batch": {"dynamo": False},
    "old, batch norms kept, any batch": {
        "dynamo": False,
        "training": torch.onnx.TrainingMode.PRESERVE,
        "do_constant_folding": False,
        "input_names": ["x"],
        "dynamic_axes": {"x": {0: "n"}},
    },
}


@pytest.mark.parametrize("mode", MODES)
def test_round_trip_of_the_zoo(network: nn.Module, mode: str, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    x = torch.randn(2, 3, 32, 32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(network, (x,), str(path), verbose=False, **MODES[mode])
    imported = load_onnx(path)
    more = torch.randn(3, 3, 32, 32)  # also where the file fixes the batch at 2
    with torch.no_grad():
        torch.testing.assert_close(imported(more), network(more), rtol=1e-4, atol=1e-5)
    assert _layers(imported, nn.Conv2d) == _layers(network, nn.Conv2d)
    assert _layers(imported, nn.Linear) == _layers(network, nn.Linear)
    if "kept" not in mode:
        return
    assert list(imported.state_dict()) == list(load_onnx(path, verify=False).state_dict())
    assert set(imported.state_dict()) == set(network.state_dict())
    imported.load_state_dict(network.state_dict())
    assert _layers(imported, nn.BatchNorm2d) == _layers(network, nn.BatchNorm2d)
    graph = trace(imported, example_inputs_of(path), dynamic_batch=True)
    assert not isinstance(graph.inputs[0].meta["val"].shape[0], int)
    with torch.no_grad():
        torch.testing.assert_close(graph.program.module()(more), imported(more), rtol=1e-4, atol=1e-5)
    convolutions = {graph.layer(node) for node in graph.calls() if "conv" in str(node.target)}
    assert all(isinstance(imported.get_submodule(name), nn.Conv2d) for name in convolutions)


def _layers(module: nn.Module, kind: type[nn.Module]) -> int:
    return sum(isinstance(m, kind) for m in module.modules())


def test_folding_and_pruning_work_on_an_imported_network(tmp_path: Path) -> None:
    network = models.build("resnet20", width=4).eval()
    x = torch.randn(2, 3, 32, 32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network, (x,), str(tmp_path / "net.onnx"), dynamo=False, training=torch.onnx.TrainingMode.PRESERVE,
            do_constant_folding=False,
        )  # fmt: skip
    imported = load_onnx(tmp_path / "net.onnx")
    result = Fold().apply(imported, Context((x,)))
    assert _layers(imported, nn.BatchNorm2d) == 21
    assert _layers(result.model, nn.BatchNorm2d) == 0
    with torch.no_grad():
        torch.testing.assert_close(result.model(x), network(x), rtol=1e-4, atol=1e-5)
    pruned = Prune(ratio=0.5).apply(result.model, Context((x,))).model
    assert pruned(x).shape == (2, 10)
    assert sum(p.numel() for p in pruned.parameters()) < 0.6 * sum(p.numel() for p in network.parameters())


# --- operators against ONNX Runtime ----------------------------------------------------------------------------------

X4 = {"x": ["n", 4, 9, 10]}
W34 = {"w": real(6, 4, 3, 3), "b": real(6)}
TABLE: dict[str, tuple[list[NodeProto], dict[str, list[Any]], dict[str, np.ndarray], int]] = {
    "conv same upper, stride 2": (
        [make_node("Conv", ["x", "w", "b"], ["y"], auto_pad="SAME_UPPER", strides=[2, 2])], X4, W34, 17,
    ),
    "conv same lower, even kernel": (
        [make_node("Conv", ["x", "w"], ["y"], auto_pad="SAME_LOWER", strides=[1, 2])],
        X4, {"w": real(6, 4, 2, 4)}, 17,
    ),
    "conv uneven pads, dilated": (
        [make_node("Conv", ["x", "w", "b"], ["y"], pads=[0, 1, 2, 3], dilations=[2, 1])], X4, W34, 11,
    ),
    "conv grouped, valid": (
        [make_node("Conv", ["x", "w"], ["y"], auto_pad="VALID", group=2)], X4, {"w": real(6, 2, 3, 3)}, 9,
    ),
    "conv 1d": ([make_node("Conv", ["x", "w"], ["y"])], {"x": ["n", 4, 9]}, {"w": real(6, 4, 3)}, 13),
    "conv 3d": ([make_node("Conv", ["x", "w"], ["y"])], {"x": ["n", 2, 4, 5, 6]}, {"w": real(3, 2, 2, 3, 3)}, 13),
    "conv with weights that are computed": (
        [make_node("Relu", ["x"], ["w"]), make_node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1])],
        {"x": [2, 2, 3, 3]}, {}, 13,
    ),
    "transposed conv": (
        [make_node("ConvTranspose", ["x", "w", "b"], ["y"], strides=[2, 2], pads=[1, 1, 1, 1],
                          output_padding=[1, 1])], X4, {"w": real(4, 6, 3, 3), "b": real(6)}, 13,
    ),
    "transposed conv, uneven pads": (
        [make_node("ConvTranspose", ["x", "w"], ["y"], strides=[2, 1], pads=[0, 1, 2, 0], group=2)],
        X4, {"w": real(4, 3, 3, 3)}, 13,
    ),
    "transposed conv, output shape": (
        [make_node("ConvTranspose", ["x", "w"], ["y"], strides=[2, 2], output_shape=[18, 20])],
        X4, {"w": real(4, 3, 3, 3)}, 13,
    ),
    "transposed conv, same": (
        [make_node("ConvTranspose", ["x", "w"], ["y"], strides=[2, 2], auto_pad="SAME_UPPER")],
        X4, {"w": real(4, 3, 3, 3)}, 13,
    ),
    "batch norm": (
        [make_node("BatchNormalization", ["x", "s", "b", "m", "v"], ["y"], epsilon=1e-3)],
        X4, {"s": real(4), "b": real(4), "m": real(4), "v": positive(4)}, 9,
    ),
    "batch norm of vectors": (
        [make_node("BatchNormalization", ["x", "s", "b", "m", "v"], ["y"])],
        {"x": ["n", 4]}, {"s": real(4), "b": real(4), "m": real(4), "v": positive(4)}, 15,
    ),
    "instance norm": (
        [make_node("InstanceNormalization", ["x", "s", "b"], ["y"])], X4, {"s": real(4), "b": real(4)}, 13,
    ),
    "group norm": (
        [make_node("GroupNormalization", ["x", "s", "b"], ["y"], num_groups=2)],
        X4, {"s": real(4), "b": real(4)}, 21,
    ),
    "layer norm": (
        [make_node("LayerNormalization", ["x", "s", "b"], ["y"], axis=-1)],
        {"x": ["n", 5, 6]}, {"s": real(6), "b": real(6)}, 17,
    ),
    "layer norm of two dimensions, no bias": (
        [make_node("LayerNormalization", ["x", "s"], ["y"], axis=1, epsilon=1e-2)],
        {"x": ["n", 5, 6]}, {"s": real(5, 6)}, 17,
    ),
    "gemm": (
        [make_node("Gemm", ["x", "w", "b"], ["y"], alpha=0.5, beta=2.0, transB=1)],
        {"x": ["n", 7]}, {"w": real(3, 7), "b": real(3)}, 13,
    ),
    "gemm, not transposed, scalar bias": (
        [make_node("Gemm", ["x", "w", "b"], ["y"])], {"x": ["n", 7]}, {"w": real(7, 3), "b": real(1)}, 9,
    ),
    "gemm of transposed input": (
        [make_node("Gemm", ["x", "w", "b"], ["y"], transA=1)], {"x": [7, 2]}, {"w": real(7, 3), "b": real(2, 3)}, 13,
    ),
    "matmul and add": (
        [make_node("MatMul", ["x", "w"], ["h"]), make_node("Add", ["b", "h"], ["y"])],
        {"x": ["n", 5, 7]}, {"w": real(7, 3), "b": real(3)}, 13,
    ),
    "matmul with weights on the left": (
        [make_node("MatMul", ["w", "x"], ["y"])], {"x": [2, 7, 3]}, {"w": real(4, 7)}, 13,
    ),
    "weights transposed in the graph": (
        [make_node("Transpose", ["w"], ["t"], perm=[1, 0]), make_node("MatMul", ["x", "t"], ["y"])],
        {"x": ["n", 7]}, {"w": real(3, 7)}, 13,
    ),
    "prelu per channel": ([make_node("PRelu", ["x", "s"], ["y"])], X4, {"s": real(4, 1, 1)}, 16),
    "prelu, one slope": ([make_node("PRelu", ["x", "s"], ["y"])], X4, {"s": real(1)}, 16),
    "prelu per column": ([make_node("PRelu", ["x", "s"], ["y"])], X4, {"s": real(10)}, 16),
    "clip by inputs": ([make_node("Clip", ["x", "l", "h"], ["y"])], X4,
                       {"l": np.float32(-0.3), "h": np.float32(0.7)}, 13),  # type: ignore[dict-item]
    "clip by attributes": ([make_node("Clip", ["x"], ["y"], min=0.0, max=6.0)], X4, {}, 10),
    "clip from below": ([make_node("Clip", ["x", "l"], ["y"])], X4, {"l": np.float32(0.1)}, 13),  # type: ignore[dict-item]
    "softmax over all from an axis": ([make_node("Softmax", ["x"], ["y"], axis=1)], X4, {}, 11),
    "softmax": ([make_node("Softmax", ["x"], ["y"], axis=1)], X4, {}, 13),
    "dropout of old": ([make_node("Dropout", ["x"], ["y", "mask"], ratio=0.3)], X4, {}, 10),
    "max pool, ceil": (
        [make_node("MaxPool", ["x"], ["y"], kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1)], X4, {}, 12,
    ),
    "max pool, uneven pads": (
        [make_node("MaxPool", ["x"], ["y"], kernel_shape=[3, 3], strides=[2, 2], pads=[0, 0, 1, 1])], X4, {}, 12,
    ),
    "max pool, same": (
        [make_node("MaxPool", ["x"], ["y"], kernel_shape=[2, 3], strides=[2, 2], auto_pad="SAME_UPPER")],
        X4, {}, 12,
    ),
    "average pool, pads not counted": (
        [make_node("AveragePool", ["x"], ["y"], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])],
        X4, {}, 11,
    ),
    "average pool, pads counted": (
        [make_node("AveragePool", ["x"], ["y"], kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1)],
        X4, {}, 11,
    ),
    "average pool, uneven pads": (
        [make_node("AveragePool", ["x"], ["y"], kernel_shape=[3, 3], strides=[2, 2], pads=[0, 1, 1, 0])],
        X4, {}, 11,
    ),
    "average pool, same, ceil": (
        [make_node("AveragePool", ["x"], ["y"], kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1)], X4, {}, 11,
    ),
    "global pools": (
        [make_node("GlobalAveragePool", ["x"], ["a"]), make_node("GlobalMaxPool", ["x"], ["m"]),
         make_node("Concat", ["a", "m"], ["y"], axis=1)], X4, {}, 13,
    ),
    "split in unequal parts": (
        [make_node("Split", ["x", "s"], ["a", "b"], axis=1), make_node("Relu", ["a"], ["r"]),
         make_node("Concat", ["b", "r"], ["y"], axis=1)], X4, {"s": np.array([1, 3])}, 13,
    ),
    "split of old, equal": (
        [make_node("Split", ["x"], ["a", "b"], axis=1, split=[2, 2]), make_node("Sub", ["b", "a"], ["y"])],
        X4, {}, 11,
    ),
    "slice": (
        [make_node("Slice", ["x", "s", "e", "a", "t"], ["y"])],
        X4, {"s": np.array([-5, 8]), "e": np.array([2**63 - 1, 0]), "a": np.array([2, 3]), "t": np.array([2, -3])}, 13,
    ),
    "slice backwards to the start": (
        [make_node("Slice", ["x", "s", "e", "a", "t"], ["y"])],
        X4, {"s": np.array([-1]), "e": np.array([-(2**63)]), "a": np.array([1]), "t": np.array([-1])}, 13,
    ),
    "slice of old": ([make_node("Slice", ["x"], ["y"], starts=[1], ends=[-1], axes=[3])], X4, {}, 9),
    "gather a list, with negatives": (
        [make_node("Gather", ["x", "i"], ["y"], axis=1)], X4, {"i": np.array([3, -4])}, 13,
    ),
    "gather one": ([make_node("Gather", ["x", "i"], ["y"], axis=2)], X4, {"i": np.array(-2)}, 13),
    "pad reflect": ([make_node("Pad", ["x", "p"], ["y"], mode="reflect")], X4,
                    {"p": np.array([0, 0, 1, 2, 0, 0, 3, 0])}, 13),
    "pad edge": ([make_node("Pad", ["x", "p"], ["y"], mode="edge")], X4,
                 {"p": np.array([0, 0, 1, 2, 0, 0, 3, 0])}, 13),
    "pad channels with a value": (
        [make_node("Pad", ["x", "p", "v"], ["y"])], X4,
        {"p": np.array([0, 1, 0, 0, 0, 2, 0, 0]), "v": np.float32(1.5)}, 13,  # type: ignore[dict-item]
    ),
    "pad of old": ([make_node("Pad", ["x"], ["y"], pads=[0, 0, 1, 1, 0, 0, 1, 1], value=2.0)], X4, {}, 9),
    "means of old and new": (
        [make_node("ReduceMean", ["x"], ["m"], axes=[2, 3], keepdims=1), make_node("Sub", ["x", "m"], ["d"]),
         make_node("ReduceSum", ["d", "a"], ["y"], keepdims=0)], X4, {"a": np.array([1])}, 13,
    ),
    "reduce max over all": ([make_node("ReduceMax", ["x"], ["y"], keepdims=0)], X4, {}, 13),
    "resize nearest twice": (
        [make_node("Resize", ["x", "", "s"], ["y"], mode="nearest")], X4,
        {"s": np.array([1, 1, 2, 2], np.float32)}, 13,
    ),
    "resize nearest, uneven factor": (
        [make_node("Resize", ["x", "", "s"], ["y"], mode="nearest", nearest_mode="round_prefer_ceil")], X4,
        {"s": np.array([1, 1, 1.7, 0.6], np.float32)}, 13,
    ),
    "resize bilinear to sizes": (
        [make_node("Resize", ["x", "", "", "s"], ["y"], mode="linear",
                          coordinate_transformation_mode="pytorch_half_pixel")],
        {"x": [2, 4, 9, 10]}, {"s": np.array([2, 4, 13, 7])}, 13,
    ),
    "resize bilinear, corners aligned": (
        [make_node("Resize", ["x", "", "", "s"], ["y"], mode="linear",
                          coordinate_transformation_mode="align_corners")],
        {"x": [2, 4, 9, 10]}, {"s": np.array([2, 4, 18, 21])}, 13,
    ),
    "resize bilinear, asymmetric": (
        [make_node("Resize", ["x", "", "s"], ["y"], mode="linear", coordinate_transformation_mode="asymmetric")],
        X4, {"s": np.array([1, 1, 2, 1.5], np.float32)}, 13,
    ),
    "resize bicubic": (
        [make_node("Resize", ["x", "", "s"], ["y"], mode="cubic")], X4, {"s": np.array([1, 1, 2, 2], np.float32)}, 13,
    ),
    "resize of opset 10": ([make_node("Resize", ["x", "s"], ["y"], mode="nearest")], X4,
                           {"s": np.array([1, 1, 2, 3], np.float32)}, 10),
    "upsample": ([make_node("Upsample", ["x", "s"], ["y"], mode="linear")], X4,
                 {"s": np.array([1, 1, 2, 2], np.float32)}, 9),
    "depth to space, both modes": (
        [make_node("DepthToSpace", ["x"], ["a"], blocksize=2),
         make_node("DepthToSpace", ["x"], ["b"], blocksize=2, mode="CRD"),
         make_node("Add", ["a", "b"], ["y"])], X4, {}, 13,
    ),
    "squeeze and unsqueeze of old": (
        [make_node("Unsqueeze", ["x"], ["h"], axes=[0, 5]), make_node("Squeeze", ["h"], ["y"], axes=[0])],
        X4, {}, 11,
    ),
    "flatten from axis 2 and 0": (
        [make_node("Flatten", ["x"], ["h"], axis=2), make_node("Flatten", ["h"], ["y"], axis=0)], X4, {}, 13,
    ),
    "arithmetic with scalars and arrays": (
        [make_node("Mul", ["x", "two"], ["a"]), make_node("Add", ["c", "a"], ["b"]),
         make_node("Sub", ["two", "b"], ["d"]), make_node("Div", ["d", "two"], ["e"]),
         make_node("Pow", ["e", "two"], ["f"]), make_node("Sqrt", ["f"], ["y"])],
        X4, {"two": np.float32(2), "c": real(1, 4, 1, 1)}, 13,  # type: ignore[dict-item]
    ),
    "where, equal, cast": (
        [make_node("Cast", ["x"], ["i"], to=TensorProto.INT32), make_node("Equal", ["i", "z"], ["c"]),
         make_node("Where", ["c", "x", "o"], ["y"])], X4, {"z": np.array(0, np.int32), "o": real(1)}, 13,
    ),
    "division of integers cuts": (
        [make_node("Mul", ["x", "t"], ["h"]), make_node("Cast", ["h"], ["i"], to=TensorProto.INT32),
         make_node("Div", ["i", "z"], ["y"])],
        X4, {"z": np.array(3, np.int32), "t": np.float32(10)}, 13,  # type: ignore[dict-item]
    ),
    "reshape as exporters write it": (
        [make_node("Shape", ["x"], ["s"]), make_node("Gather", ["s", "zero"], ["n"], axis=0),
         make_node("Unsqueeze", ["n", "axes"], ["nu"]), make_node("Concat", ["nu", "rest"], ["t"], axis=0),
         make_node("Reshape", ["x", "t"], ["y"])],
        X4, {"zero": np.array(0), "axes": np.array([0]), "rest": np.array([-1, 45])}, 13,
    ),
    "upsample to the size of another, as exporters write it": (
        [make_node("MaxPool", ["x"], ["p"], kernel_shape=[2, 2], strides=[2, 2]),
         make_node("Shape", ["x"], ["s"]), make_node("Slice", ["s", "two", "four", "axes"], ["hw"]),
         make_node("Shape", ["p"], ["ps"]), make_node("Slice", ["ps", "zero", "two", "axes"], ["nc"]),
         make_node("Concat", ["nc", "hw"], ["t"], axis=0),
         make_node("Resize", ["p", "", "", "t"], ["u"], mode="linear"), make_node("Add", ["u", "x"], ["y"])],
        X4, {"zero": np.array([0]), "two": np.array([2]), "four": np.array([4]), "axes": np.array([0])}, 13,
    ),
    "expand as exporters write it": (
        [make_node("Shape", ["x"], ["s"]), make_node("ConstantOfShape", ["four"], ["ones"],
                          value=numpy_helper.from_array(np.array([1]))),
         make_node("Mul", ["ones", "minus"], ["m"]), make_node("Equal", ["s", "m"], ["e"]),
         make_node("Where", ["e", "ones", "s"], ["t"]), make_node("Expand", ["w", "t"], ["b"]),
         make_node("Add", ["x", "b"], ["y"])],
        X4, {"four": np.array([4]), "minus": np.array(-1), "w": real(4, 1, 1)}, 13,
    ),
    "half of the channels by arithmetic": (
        [make_node("Shape", ["x"], ["s"]), make_node("Gather", ["s", "one"], ["c"], axis=0),
         make_node("Add", ["c", "one"], ["c1"]), make_node("Div", ["c1", "two"], ["h"]),
         make_node("Slice", ["x", "zero", "h", "one"], ["y"])],
        X4, {"zero": np.array([0]), "one": np.array([1]), "two": np.array([2])}, 13,
    ),
    "sizes scaled as floats": (
        [make_node("Shape", ["x"], ["s"]), make_node("Slice", ["s", "two", "four"], ["hw"]),
         make_node("Cast", ["hw"], ["f"], to=TensorProto.FLOAT), make_node("Mul", ["f", "half"], ["g"]),
         make_node("Floor", ["g"], ["fl"]), make_node("Cast", ["fl"], ["i"], to=TensorProto.INT64),
         make_node("Slice", ["s", "zero", "two"], ["nc"]), make_node("Concat", ["nc", "i"], ["t"], axis=0),
         make_node("Resize", ["x", "", "", "t"], ["y"], mode="nearest", nearest_mode="floor",
                          coordinate_transformation_mode="asymmetric")],
        X4, {"zero": np.array([0]), "two": np.array([2]), "four": np.array([4]), "half": np.array(1.5, np.float32)}, 13,
    ),
    "no opinion on the rank": (
        [make_node("Reshape", ["x", "t"], ["h"], allowzero=1), make_node("Tile", ["h", "r"], ["y"])],
        {"x": [2, 4, 3, 3]}, {"t": np.array([2, 6, 6]), "r": np.array([1, 2, 1])}, 14,
    ),
    **{
        op: ([make_node(op, ["x"], ["y"], **attributes)], X4, {}, opset)
        for op, attributes, opset in (
            ("Relu", {}, 9), ("LeakyRelu", {"alpha": 0.2}, 9), ("Elu", {}, 9), ("Selu", {}, 9), ("Sigmoid", {}, 9),
            ("HardSigmoid", {}, 9), ("HardSigmoid", {"alpha": 1 / 6}, 9), ("HardSwish", {}, 14), ("Tanh", {}, 9),
            ("Erf", {}, 9), ("Exp", {}, 9), ("Neg", {}, 9), ("Abs", {}, 9), ("LogSoftmax", {"axis": -1}, 13),
            ("Softplus", {}, 9), ("Gelu", {"approximate": "tanh"}, 20), ("Identity", {}, 13), ("Mish", {}, 18),
            ("Transpose", {"perm": [0, 2, 3, 1]}, 9), ("LRN", {"size": 3}, 13), ("ArgMax", {"axis": 1}, 13),
            ("SpaceToDepth", {"blocksize": 1}, 13), ("ReduceL2", {"axes": [1]}, 13),
        )
    },
}  # fmt: skip


@pytest.mark.parametrize("case", TABLE)
def test_operator_as_in_onnx_runtime_and_traced(case: str, tmp_path: Path) -> None:
    nodes, inputs, weights, opset = TABLE[case]
    path = save(tmp_path / "net.onnx", nodes, inputs, weights, opset=opset)
    network = load_onnx(path)
    examples = example_inputs_of(path, batch=2, seed=1)
    assert_same(outputs_of(network, *examples), expected(path, *examples))
    graph = trace(network, examples, dynamic_batch=True)
    if inputs["x"][0] == "n":
        assert not isinstance(graph.inputs[0].meta["val"].shape[0], int)
        examples = example_inputs_of(path, batch=3)
    assert_same(outputs_of(graph.program.module(), *examples), expected(path, *examples))


# --- the reference cases of the ONNX project -------------------------------------------------------------------------

LEFT_OUT = (  # types that no network here has, and
    "bfloat16", "uint16", "uint32", "uint64", "string", "sequence", "_opt", "float8",
    "empty_set",  # a reduction of nothing
    "scales_linear_align_corners", "scales_cubic_align_corners",  # engines round the size first, unlike the reference
    "training", "not_",  # of opset 1
)  # fmt: skip
LIMITS = re.compile(
    "averagepool.*dilations|exclude_outside|cubic_asymmetric|tf_crop|antialias|not_larger|not_smaller|"
    "half_pixel_symmetric|convtranspose_output_shape"
)
ONE_OUTPUT = ("Dropout", "LayerNormalization", "MaxPool")
"""Operators whose further outputs (masks, statistics, indices) serve training."""
OPERATORS = sorted({*operations.FUNCTIONS, *operations.ON_SHAPES} - {"Cast", "CastLike", "Not", "Select", "Upsample"})


@functools.cache
def _cases() -> dict[str, list[Any]]:
    """The cases of one node, by operator."""
    cases: dict[str, list[Any]] = {}
    for case in collect_testcases(None):
        nodes = case.model.graph.node  # type: ignore[union-attr]
        if len(nodes) == 1 and not any(word in case.name for word in LEFT_OUT):
            cases.setdefault(nodes[0].op_type, []).append(case)
    return cases


@pytest.mark.parametrize("operator", OPERATORS)
def test_reference_cases(operator: str, tmp_path: Path) -> None:
    ran = 0
    for case in _cases()[operator]:
        for constant in (False, True):
            model, fed = _with_constants(case, constant)
            onnx.save(model, tmp_path / "net.onnx")
            if LIMITS.search(case.name):
                with pytest.raises(InvalidInput, match="is not supported"):
                    outputs_of(load_onnx(tmp_path / "net.onnx", verify=False), *fed)
                continue
            network = load_onnx(tmp_path / "net.onnx", verify=False)
            wanted = [_single(y) for y in case.data_sets[0][1][: len(model.graph.output)]]
            assert_same(outputs_of(network, *fed), wanted)
            ran += 1
    assert ran


def _with_constants(case: Any, constant: bool) -> tuple[ModelProto, list[Tensor]]:
    """The case, if asked for with all inputs but the first as weights of the file, as in networks; and what is fed."""
    model = ModelProto()
    model.CopyFrom(case.model)
    model.ir_version = max(model.ir_version, 4)  # weights need not be inputs
    inputs = [np.asarray(x) for x in case.data_sets[0][0]]
    names = [value.name for value in model.graph.input]
    if constant:
        model.graph.initializer.extend(
            numpy_helper.from_array(x, name) for x, name in zip(inputs[1:], names[1:], strict=True)
        )
        del model.graph.input[1:], inputs[1:]
    if model.graph.node[0].op_type in ONE_OUTPUT:
        del model.graph.output[1:]
    return model, [torch.from_numpy(_single(x).copy()) for x in inputs]


def _single(array: Any) -> np.ndarray:
    """Half precision is imported as float32."""
    return np.asarray(array, np.float32) if array.dtype == np.float16 else np.asarray(array)


# --- the network as an object ----------------------------------------------------------------------------------------


def chain(path: Path, **changes: Any) -> Path:
    """Conv, BatchNormalization, Relu, GlobalAveragePool, Flatten, Gemm."""
    nodes = [
        make_node("Conv", ["x", "stem.conv.weight"], ["c"], name="/stem/conv/Conv", pads=[1, 1, 1, 1]),
        make_node("BatchNormalization", ["c", "g", "b", "m", "v"], ["n"], name="/stem/stem.bn/BatchNormalization"),
        make_node("Relu", ["n"], ["r"]),
        make_node("GlobalAveragePool", ["r"], ["p"]),
        make_node("Flatten", ["p"], ["f"]),
        make_node("Gemm", ["f", "fc:0", "bias"], ["y"]),
    ]
    weights = {
        "stem.conv.weight": real(5, 3, 3, 3),
        "g": real(5),
        "b": real(5),
        "m": real(5),
        "v": positive(5),
        "fc:0": real(5, 4),
        "bias": real(4),
    }
    return save(path, nodes, {"x": ["n", 3, "h", "w"]}, weights, **changes)


def test_modules_and_names(tmp_path: Path) -> None:
    network = load_onnx(chain(tmp_path / "net.onnx"))
    kinds = {name: type(module).__name__ for name, module in network.named_modules() if not list(module.children())}
    assert kinds == {"stem.conv": "Conv2d", "stem.bn": "BatchNorm2d", "gemm_1": "Linear"}
    assert list(network.state_dict()) == list(load_onnx(tmp_path / "net.onnx").state_dict())
    assert not network.training
    assert all(parameter.requires_grad for parameter in network.parameters())


def test_a_loaded_network_leaves_the_random_state(tmp_path: Path) -> None:
    chain(tmp_path / "net.onnx")
    torch.manual_seed(3)
    wanted = torch.rand(1)
    torch.manual_seed(3)
    load_onnx(tmp_path / "net.onnx")
    assert torch.equal(torch.rand(1), wanted)


def test_weights_that_nodes_share_stay_shared(tmp_path: Path) -> None:
    nodes = [make_node("Conv", ["x", "w.weight"], ["h"]), make_node("Conv", ["h", "w.weight"], ["y"])]
    network = load_onnx(save(tmp_path / "net.onnx", nodes, {"x": [1, 2, 4, 4]}, {"w.weight": real(2, 2, 1, 1)}))
    assert network.w.weight is network.w_2.weight  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "name", ["training", "forward", "half", "..", "a/b", "1", "", "class", "известный", "a.weight"]
)
def test_any_name_is_made_a_valid_one(name: str, tmp_path: Path) -> None:
    nodes = [
        make_node("Conv", ["x", f"{name}.weight"], ["h"]),
        make_node("Conv", ["h", "other"], ["i"], name=f"/{name}/Conv"),
        make_node("Add", ["i", f"{name}c"], ["y"]),
    ]
    weights = {f"{name}.weight": real(2, 2, 1, 1), "other": real(2, 2, 1, 1), f"{name}c": real(2, 1, 1)}
    network = load_onnx(save(tmp_path / "net.onnx", nodes, {"x": [1, 2, 4, 4]}, weights))
    assert len(network.state_dict()) == 3
    assert all(re.fullmatch(r"\w+", part, re.ASCII) for key in network.state_dict() for part in key.split("."))


def test_inputs_by_position_or_name_and_several_outputs(tmp_path: Path) -> None:
    nodes = [make_node("Add", ["input.1", "class"], ["s"]), make_node("Mul", ["s", "class"], ["p"])]
    path = save(tmp_path / "net.onnx", nodes, {"input.1": ["n", 3], "class": ["n", 3]}, outputs=("s", "p"))
    network = load_onnx(path)
    assert list(inspect.signature(network.forward).parameters) == ["input_1", "class_"]
    a, b = torch.randn(2, 3), torch.randn(2, 3)
    for outputs in (network(a, b), network(a, class_=b), network(input_1=a, class_=b)):
        assert_same([t.numpy() for t in outputs], [(a + b).numpy(), ((a + b) * b).numpy()])
    graph = trace(network, (a, b), dynamic_batch=True)
    assert len(graph.outputs) == 2
    assert not isinstance(graph.inputs[1].meta["val"].shape[0], int)


def test_a_copy_is_its_own(tmp_path: Path) -> None:
    network = load_onnx(chain(tmp_path / "net.onnx"))
    twin = copy.deepcopy(network)
    x = torch.randn(1, 3, 8, 8)
    before = network(x)
    with torch.no_grad():
        twin.get_submodule("stem.conv").weight.zero_()  # type: ignore[operator]
    assert torch.equal(network(x), before)
    assert not torch.equal(twin(x), before)
    assert isinstance(twin, OnnxNetwork)


def test_training_changes_the_weights_and_the_statistics(tmp_path: Path) -> None:
    network = load_onnx(chain(tmp_path / "net.onnx")).train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    optimizer = torch.optim.SGD(network.parameters(), 0.1)
    network(torch.randn(4, 3, 8, 8)).square().sum().backward()
    optimizer.step()
    same = [name for name, tensor in network.state_dict().items() if torch.equal(tensor, before[name])]
    assert same == []


# --- example inputs --------------------------------------------------------------------------------------------------


def test_example_inputs(tmp_path: Path) -> None:
    path = chain(tmp_path / "net.onnx")
    with pytest.raises(InvalidInput, match=r"x has open sizes, \(\?, 3, \?, \?\); give --input-shape"):
        example_inputs_of(path)
    (x,) = example_inputs_of(path, input_shape=(2, 3, 8, 9))
    assert x.shape == (2, 3, 8, 9)
    assert torch.equal(x, example_inputs_of(path, input_shape=(2, 3, 8, 9))[0])
    with pytest.raises(InvalidInput, match=r"has the shape \(\?, 3, \?, \?\), not \(2, 4, 8, 9\)"):
        example_inputs_of(path, input_shape=(2, 4, 8, 9))
    nodes = [make_node("Gather", ["table", "x"], ["y"])]
    path = save(tmp_path / "ids.onnx", nodes, {"x": ["n", 5]}, {"table": real(7, 3)}, dtype=TensorProto.INT64)
    (ids,) = example_inputs_of(path, batch=4)
    assert (ids.dtype, tuple(ids.shape)) == (torch.int64, (4, 5))
    assert load_onnx(path)(ids).shape == (4, 5, 3)


def test_an_input_shape_fills_open_sizes_and_leaves_fixed_ones(tmp_path: Path) -> None:
    weights = {"w": real(27, 2)}
    nodes = [make_node("Flatten", ["x"], ["f"]), make_node("MatMul", ["f", "w"], ["y"])]
    path = save(tmp_path / "net.onnx", nodes, {"x": ["n", 3, "h", "w"]}, weights)
    refused(path, "give --input-shape")  # none of the common sizes is 3
    x = torch.randn(4, 3, 3, 3)
    expected = x.flatten(1) @ torch.from_numpy(weights["w"])
    torch.testing.assert_close(load_onnx(path, input_shape=(4, 3, 3, 3))(x), expected)
    path = save(tmp_path / "fixed.onnx", nodes, {"x": [1, 3, "h", "w"]}, weights)
    torch.testing.assert_close(load_onnx(path, input_shape=(4, 3, 3, 3))(x), expected)


def test_an_input_that_is_a_weight_is_not_asked_for(tmp_path: Path) -> None:
    nodes = [make_node("MatMul", ["x", "w"], ["y"])]
    path = save(tmp_path / "net.onnx", nodes, {"x": [2, 3], "w": [3, 4]}, {"w": real(3, 4)})
    assert [tuple(x.shape) for x in example_inputs_of(path)] == [(2, 3)]
    assert _layers(load_onnx(path), nn.Linear) == 1


def test_a_batch_that_the_file_computes_with_stays_fixed(tmp_path: Path) -> None:
    nodes = [make_node("Add", ["x", "w"], ["h"]), make_node("ReduceSum", ["h"], ["y"], keepdims=1)]
    network = load_onnx(save(tmp_path / "net.onnx", nodes, {"x": [2, 3]}, {"w": real(2, 3)}))
    assert network(torch.randn(2, 3)).shape == (1, 1)
    with pytest.raises(InvalidInput, match="fixes the batch at 2, got 4"):
        network(torch.randn(4, 3))


# --- what is refused -------------------------------------------------------------------------------------------------


def refused(path: Path, words: str) -> None:
    with pytest.raises(InvalidInput, match=words) as caught:
        load_onnx(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_unsupported_operators_are_all_named(tmp_path: Path) -> None:
    nodes = [
        make_node("NonZero", ["x"], ["i"], name="find"),
        make_node("Det", ["x"], ["d"], name="det"),
        make_node("Det", ["x"], ["e"]),
        make_node("Relu", ["d"], ["y"]),
    ]
    path = save(tmp_path / "net.onnx", nodes, {"x": [2, 2]})
    refused(path, r"operators that cannot be imported: Det \(det, e\); NonZero \(find\)$")


def test_a_custom_domain_is_named(tmp_path: Path) -> None:
    path = save(tmp_path / "net.onnx", [make_node("Relu", ["x"], ["y"], domain="acme", name="r")], {"x": [2, 2]})
    refused(path, r"cannot be imported: acme.Relu \(r\)")


def test_a_quantized_file_is_recognized(tmp_path: Path) -> None:
    nodes = [
        make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        make_node("DequantizeLinear", ["q", "s", "z"], ["y"]),
    ]
    weights = {"s": np.array(0.1, np.float32), "z": np.array(0, np.uint8)}
    refused(save(tmp_path / "net.onnx", nodes, {"x": [2, 2]}, weights), "is quantized already")  # type: ignore[arg-type]


@pytest.mark.parametrize("damage", ["cut", "empty", "garbage", "text", "missing", "folder"])
def test_a_damaged_file(damage: str, tmp_path: Path) -> None:
    path = chain(tmp_path / "net.onnx")
    content = path.read_bytes()
    path.unlink()
    if damage == "folder":
        path.mkdir()
    elif damage != "missing":
        made = {"cut": content[: len(content) // 2], "empty": b"", "garbage": bytes(range(256)) * 9, "text": b"hello\n"}
        path.write_bytes(made[damage])
    refused(path, "no such file|not a (readable|valid) ONNX file|not an ONNX file|file is empty|got a folder")


def test_every_cut_is_refused_or_loads_the_same_network(tmp_path: Path) -> None:
    path = chain(tmp_path / "net.onnx")
    content = path.read_bytes()
    for length in range(0, len(content), len(content) // 23):
        path.write_bytes(content[:length])
        refused(path, "net.onnx")


def test_weights_beside_the_file(tmp_path: Path) -> None:
    model = onnx.load(chain(tmp_path / "net.onnx"))
    split = tmp_path / "split.onnx"
    onnx.save(model, split, save_as_external_data=True, location="split.data", size_threshold=0)
    x = torch.randn(1, 3, 8, 8)
    assert torch.equal(load_onnx(split)(x), load_onnx(tmp_path / "net.onnx")(x))
    (tmp_path / "split.data").unlink()
    refused(split, "lie in 'split.data', which is not there; put it beside the ONNX file")


def test_old_opsets_training_mode_and_computed_shapes_are_refused(tmp_path: Path) -> None:
    refused(save(tmp_path / "a.onnx", [make_node("Relu", ["x"], ["y"])], {"x": [2, 2]}, opset=6), "of opset 6")
    weights = {"s": real(2), "b": real(2), "m": real(2), "v": positive(2)}
    node = make_node("BatchNormalization", ["x", "s", "b", "m", "v"], ["y", "mm", "vv"], training_mode=1, name="bn")
    refused(save(tmp_path / "b.onnx", [node], {"x": [2, 2]}, weights), r"node bn \(BatchNormalization\): training mode")
    node = make_node("MaxPool", ["x"], ["p", "y"], kernel_shape=[2], name="pool")
    refused(save(tmp_path / "c.onnx", [node], {"x": [2, 2, 4]}), "the value y, a second output of its node, is not")


def test_a_difference_to_onnx_runtime_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "net.onnx", [make_node("Sigmoid", ["x"], ["y"])], {"x": ["n", 4]})
    monkeypatch.setitem(operations.FUNCTIONS, "Sigmoid", lambda call: torch.sigmoid(call.tensor()) * 1.001)
    refused(path, r"differs from ONNX Runtime in the output y by 0.001 of its largest value")
    load_onnx(path, verify=False)


def test_shapes_and_axes_may_lie_in_a_file_beside(tmp_path: Path) -> None:
    graph = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 18]> g (float[N, 3, 4, 4] x) => (float[N, 3] y) '
        "<float[3] w = {1, 2, 3}, int64[2] axes = {2, 3}> { m = ReduceMean <keepdims = 0> (x, axes) y = Mul (m, w) }"
    )
    path = tmp_path / "m.onnx"
    onnx.save_model(graph, str(path), save_as_external_data=True, location="m.data", size_threshold=0)
    x = torch.rand(2, 3, 4, 4)
    torch.testing.assert_close(load_onnx(path)(x), x.mean((2, 3)) * torch.tensor([1.0, 2.0, 3.0]))
