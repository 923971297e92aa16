"""What is particular to ONNX Runtime: the executed graph, truncated files, external tensors."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from runtimes.errors import InvalidInputs, InvalidModel, RuntimesError
from runtimes.runtime import Options, load, random_inputs, size_bytes

Saved = Callable[[onnx.ModelProto, str], Path]
Models = dict[str, Callable[..., onnx.ModelProto]]


def optimized_ops(file: Path) -> Counter[str]:
    """The operators of the optimized graph, as ONNX Runtime writes it to disk."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(file.with_suffix(".optimized.onnx"))
    options.log_severity_level = 4
    onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node)


@pytest.mark.parametrize("name", ["float", "int8"])
def test_executed_operators_are_those_of_the_optimized_graph(name: str, saved: Saved, models: Models) -> None:
    file = saved(models[name](), "net.onnx")
    graph = load(file).executed_graph()
    assert graph is not None
    assert graph.ops == optimized_ops(file)
    assert graph.integer + graph.float + graph.other == len(graph.nodes)
    assert graph.providers == {"CPUExecutionProvider": len(graph.nodes)} and graph.fallback_share == 0.0


def test_float_file_has_no_integer_node(saved: Saved, models: Models) -> None:
    graph = load(saved(models["float"](), "net.onnx")).executed_graph()
    assert graph is not None
    assert graph.integer == 0
    assert Counter(node.op for node in graph.nodes if node.kind == "float") == {
        "Conv": 1,
        "MaxPool": 1,
        "GlobalAveragePool": 1,
        next(op for op in graph.ops if "Gemm" in op): 1,
    }


def test_int8_file_runs_in_integers(saved: Saved, models: Models) -> None:
    graph = load(saved(models["int8"](), "net.onnx")).executed_graph()
    assert graph is not None
    assert graph.float_nodes == ()
    assert graph.ops["QLinearConv"] == graph.ops["QLinearGlobalAveragePool"] == 1
    pooling = [node for node in graph.nodes if node.op.endswith("MaxPool")]
    assert [node.kind for node in pooling] == ["integer"]
    assert graph.integer == 3
    assert {node.op for node in graph.nodes if node.kind == "other"} >= {"QuantizeLinear", "DequantizeLinear"}


def test_operator_without_an_integer_kernel_is_named(saved: Saved, models: Models) -> None:
    file = saved(models["int8"](), "whole.onnx")
    model = models["int8"](float_inside=True)
    graph = load(saved(model, "broken.onnx")).executed_graph()
    whole = load(file).executed_graph()
    assert graph is not None and whole is not None
    assert graph.float_nodes == ("left_in_float",)
    assert graph.integer == whole.integer


def test_executed_graph_leaves_nothing_behind(linear: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    load(linear).executed_graph()
    assert [each.name for each in tmp_path.iterdir()] == ["linear.onnx"]


def test_executed_graph_checks_its_inputs(linear: Path) -> None:
    with pytest.raises(InvalidInputs, match="expected"):
        load(linear).executed_graph({"x": np.zeros((1, 3), np.float32)})


def test_every_truncation_is_refused(linear: Path) -> None:
    content = linear.read_bytes()
    for length in range(0, len(content), 7):
        linear.write_bytes(content[:length])
        with pytest.raises(InvalidModel, match=r"linear\.onnx"):
            load(linear)


def test_failure_while_running_is_explained(saved: Saved) -> None:
    graph = helper.make_graph(
        [helper.make_node("Reshape", ["x", "shape"], ["y"])],
        "net",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, [6]),
            helper.make_tensor_value_info("shape", TensorProto.INT64, [2]),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["a", "b"])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    runtime = load(saved(model, "reshape.onnx"))
    x = np.zeros(6, np.float32)
    assert runtime.run({"x": x, "shape": np.array([2, 3])})["y"].shape == (2, 3)
    with pytest.raises(InvalidModel, match=r"reshape\.onnx: ONNX Runtime failed") as caught:
        runtime.run({"x": x, "shape": np.array([4, 4])})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("location", ["pipe", "./" * 100 + "pipe"], ids=["short", "long"])
@pytest.mark.parametrize("kind", ["a named pipe", "a device"])
def test_external_tensors_are_in_files(models: Models, tmp_path: Path, location: str, kind: str) -> None:
    file = tmp_path / "net.onnx"
    onnx.save(models["float"](), file, save_as_external_data=True, location="pipe", size_threshold=0)
    (tmp_path / "pipe").unlink()
    model = onnx.load(file, load_external_data=False)
    for tensor in model.graph.initializer:
        tensor.external_data[0].value = location
    onnx.save(model, file)
    if "pipe" in kind:
        os.mkfifo(tmp_path / "pipe")
    else:
        (tmp_path / "pipe").symlink_to("/dev/zero")
    with pytest.raises(InvalidModel, match=rf"net\.onnx: its weights are in .*pipe: expected a file, got {kind}"):
        load(file)


def test_size_includes_external_tensors(models: Models, tmp_path: Path) -> None:
    file = tmp_path / "net.onnx"
    onnx.save(models["float"](), file, save_as_external_data=True, location="elsewhere.bin", size_threshold=0)
    assert size_bytes(file) == file.stat().st_size + (tmp_path / "elsewhere.bin").stat().st_size
    assert load(file).inputs[0].name == "x"
    (tmp_path / "elsewhere.bin").unlink()
    with pytest.raises(InvalidModel, match="cannot load"):
        load(file)


def test_threads_change_no_output(linear: Path) -> None:
    x = {"x": np.random.default_rng(0).standard_normal((2, 4)).astype(np.float32)}
    one, two = (load(linear, options=Options(threads=threads)).run(x)["y"] for threads in (1, 2))
    np.testing.assert_allclose(one, two, rtol=1e-6)


@pytest.mark.parametrize("constant", [False, True], ids=["initializer", "constant"])
def test_loops_without_end_are_refused_before(constant: bool, tmp_path: Path) -> None:
    floats = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("v", "w", "y")]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    count, holds = (
        helper.make_tensor_value_info("i", TensorProto.INT64, []),
        [helper.make_tensor_value_info(name, TensorProto.BOOL, []) for name in ("c", "d")],
    )
    steps = [helper.make_node("Identity", ["c"], ["d"]), helper.make_node("Relu", ["v"], ["w"])]
    body = helper.make_graph(steps, "body", [count, holds[0], floats[0]], [holds[1], floats[1]])
    turns = numpy_helper.from_array(np.array(10**12), "turns")
    nodes = [helper.make_node("Constant", [], ["turns"], value=turns)] if constant else []
    nodes.append(helper.make_node("Loop", ["turns", "", "x"], ["y"], body=body))
    graph = helper.make_graph(nodes, "graph", [x], [floats[2]], [] if constant else [turns])
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "net.onnx"
    )
    with pytest.raises(InvalidModel, match=r"\(Loop\) takes 1,000,000,000,000 turns; .* add --large-files"):
        load(tmp_path / "net.onnx")


@pytest.mark.parametrize("case", ["group of 0", "functions without end", "image", "constant"])
def test_what_the_engine_would_crash_on_is_refused_before(case: str, tmp_path: Path) -> None:
    weights = [numpy_helper.from_array(np.ones((4, 4, 3, 3), np.float32), "w")]
    shape, functions = [1, 4, 9, 9], []
    node = helper.make_node("ConvTranspose", ["x", "w"], ["y"], group=0 if case == "group of 0" else 1)
    if case == "functions without end":
        calls = [
            [
                helper.make_node(f"f{i + 1}", ["a"], ["c"], domain="own"),
                helper.make_node(f"f{i + 1}", ["c"], ["b"], domain="own"),
            ]
            for i in range(30)
        ]
        opsets = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
        calls.append([helper.make_node("Relu", ["a"], ["b"])])
        functions = [helper.make_function("own", f"f{i}", ["a"], ["b"], nodes, opsets) for i, nodes in enumerate(calls)]
        node, weights = helper.make_node("f0", ["x"], ["y"], domain="own"), []
    elif case == "image":
        shape = [1, 4, 30_000, 30_000]
    nodes = [node]
    if case == "constant":
        weights = [numpy_helper.from_array(np.array([2 * 10**9]), "s")]
        nodes = [
            helper.make_node("ConstantOfShape", ["s"], ["z"]),
            helper.make_node("ReduceSum", ["z"], ["r"]),
            helper.make_node("Add", ["x", "r"], ["y"]),
        ]
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        weights,
    )
    opsets = [helper.make_opsetid("", 17), *([helper.make_opsetid("own", 1)] if functions else [])]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8, functions=functions), tmp_path / "net.onnx")
    words = {
        "group of 0": r"node 0 \(ConvTranspose\): group is 0; expected 1 or more",
        "functions without end": "nodes with its functions written out; the most is 100,000",
        "image": "the value 'x' of sizes 1, 4, 30000, 30000 would take 14,400,000,000 bytes; .*, add --large-files",
        "constant": "the value 'z' of sizes 2000000000 would take 8,000,000,000 bytes; the most is 1,073,741,824",
    }
    with pytest.raises(RuntimesError, match=words[case]):
        random_inputs(load(tmp_path / "net.onnx").inputs)
