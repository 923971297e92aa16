"""ONNX files that are sound and unusual: half precision, branches on what is known, ranks, tables, long chains."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from click.testing import CliRunner
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from torch import Tensor, nn

from compress.cli import cli
from compress.data import Data, SampleSplit
from compress.errors import InvalidInput
from compress.graph.trace import trace
from compress.pipeline import open_network
from compress.quantize import Quantize
from compress.sources.onnx_import import example_inputs_of, inputs, load_onnx
from compress.sources.onnx_import import load as loading
from compress.sources.onnx_import.reading.read import parse
from compress.stage import Context
from export.onnx.exporter import export_onnx
from tests.support.onnx_files import FLOAT, real, write

torch.set_num_threads(1)
make_node = helper.make_node

HALF, BRAIN = TensorProto.FLOAT16, TensorProto.BFLOAT16


def in_engine(path: Path, *inputs: Tensor) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {spec.name: x.numpy() for spec, x in zip(session.get_inputs(), inputs, strict=True)})


# --- half precision --------------------------------------------------------------------------------------------------


def of_type(name: str, array: np.ndarray, kind: int) -> TensorProto:
    tensor = TensorProto(name=name, data_type=kind, dims=array.shape)
    values = torch.from_numpy(array).to({FLOAT: torch.float32, HALF: torch.half, BRAIN: torch.bfloat16}[kind])  # type: ignore[index]
    tensor.raw_data = (
        values.view(torch.uint8).numpy().tobytes()
        if array.ndim
        else values.reshape(1).view(torch.uint8).numpy().tobytes()
    )
    return tensor


def half_network(path: Path, inside: int, taken: int, given: int, weights_in: int) -> Path:
    """Convolution, ReLU, mean and Gemm in the precision ``inside``, whose inputs, outputs or weights may be others."""
    nodes, x = [], "x"
    if taken != inside:
        nodes.append(make_node("Cast", ["x"], ["cast"], to=inside))
        x = "cast"
    made = {"w": real(6, 3, 3, 3) / 4, "b": real(6), "m": real(6, 5), "c": real(5)}
    stored = {name if weights_in == inside else f"{name}_": array for name, array in made.items()}
    if weights_in != inside:
        nodes += [make_node("Cast", [f"{name}_"], [name], to=inside) for name in made]
    last = "y" if given == inside else "z"
    nodes += [
        make_node("Conv", [x, "w", "b"], ["h"], pads=[1, 1, 1, 1]),
        make_node("Constant", [], ["s"], value=of_type("s", np.asarray(0.5, np.float32), inside)),
        make_node("Mul", ["h", "s"], ["i"]),
        make_node("Relu", ["i"], ["j"]),
        make_node("ReduceMean", ["j"], ["k"], axes=[2, 3], keepdims=0),
        make_node("Gemm", ["k", "m", "c"], [last]),
    ]
    if given != inside:
        nodes.append(make_node("Cast", ["z"], ["y"], to=given))
    tensors = {name: of_type(name, array, weights_in) for name, array in stored.items()}
    return write(path, nodes, {"x": (taken, ["n", 3, 6, 6])}, tensors, {"y": given})


@pytest.mark.parametrize("weights_in", ["inside", "single"])
@pytest.mark.parametrize("given", ["inside", "single"])
@pytest.mark.parametrize("taken", ["inside", "single"])
@pytest.mark.parametrize("inside", [HALF, BRAIN], ids=["float16", "bfloat16"])
def test_half_precision_is_imported_as_float32(
    inside: int, taken: str, given: str, weights_in: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kinds = [inside if each == "inside" else FLOAT for each in (taken, given, weights_in)]
    path = half_network(tmp_path / "net.onnx", inside, *kinds)
    with caplog.at_level(logging.WARNING):
        network = load_onnx(path)
    precision = "float16" if inside == HALF else "bfloat16"
    assert [record.getMessage() for record in caplog.records] == [
        f"{path}: computes in {precision}; it is imported as float32"
    ]
    assert {tensor.dtype for tensor in network.state_dict().values() if tensor.is_floating_point()} == {torch.float32}
    assert [type(m) for m in network.modules() if isinstance(m, (nn.Conv2d, nn.Linear))] == [nn.Conv2d, nn.Linear]
    (x,) = example_inputs_of(path, 2)
    assert x.dtype == torch.float32
    rounded = x.half().float() if inside == HALF else x.bfloat16().float()
    assert torch.equal(x, rounded) == (taken == "inside")
    y = network(x)
    assert y.dtype == torch.float32
    if inside == HALF:
        (theirs,) = in_engine(path, x.half() if taken == "inside" else x)
        np.testing.assert_allclose(y.detach().numpy(), theirs.astype(np.float32), atol=4e-3)
    exported = tmp_path / "out.onnx"
    export_onnx(network, (x,), exported)
    (theirs,) = in_engine(exported, x)
    np.testing.assert_allclose(y.detach().numpy(), theirs, rtol=1e-4, atol=1e-5)


def test_both_precisions_in_one_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    nodes = [
        make_node("Cast", ["x"], ["h"], to=HALF),
        make_node("Relu", ["h"], ["r"]),
        make_node("Cast", ["r"], ["b"], to=BRAIN),
        make_node("Cast", ["b"], ["s"], to=FLOAT),
        make_node("CastLike", ["x", "h"], ["l"]),
        make_node("Cast", ["l"], ["t"], to=FLOAT),
        make_node("Add", ["s", "t"], ["y"]),
    ]
    network = load_onnx(write(tmp_path / "net.onnx", nodes, {"x": (FLOAT, ["n", 3])}))
    assert "computes in float16 and bfloat16" in caplog.text
    x = torch.tensor([[1.0, -2.0, 3.0]])
    assert torch.equal(network(x), torch.tensor([[2.0, -2.0, 6.0]]))


# --- what is known before the network runs ---------------------------------------------------------------------------


def branch(node: NodeProto | Sequence[NodeProto], output: str = "o") -> GraphProto:
    nodes = [node] if isinstance(node, NodeProto) else list(node)
    return helper.make_graph(nodes, "branch", [], [helper.make_tensor_value_info(output, FLOAT, None)])


def either(condition: str, then: GraphProto, other: GraphProto, output: str = "y") -> NodeProto:
    return make_node("If", [condition], [output], then_branch=then, else_branch=other)


UNKNOWN = make_node("Bernoulli", ["x"], ["o"])
GOOD = branch(make_node("Relu", ["x"], ["o"]))
BAD = branch(UNKNOWN)
INDEX = {"i": np.array(1), "three": np.array(3)}
BRANCHES: dict[str, tuple[list[NodeProto], dict[str, Any], list[int | str]]] = {
    "true": ([either("c", GOOD, BAD)], {"c": np.array(True)}, [2, 3]),
    "false": ([either("c", BAD, GOOD)], {"c": np.array([False])}, [2, 3]),
    "of a node": (
        [make_node("Constant", [], ["c"], value=numpy_helper.from_array(np.array(True))), either("c", GOOD, BAD)],
        {}, [2, 3],
    ),
    "of an open batch's channels": (
        [make_node("Shape", ["x"], ["s"]), make_node("Gather", ["s", "i"], ["g"]),
         make_node("Equal", ["g", "three"], ["c"]), either("c", GOOD, BAD)],
        INDEX, ["n", 3],
    ),
    "of arithmetic on weights": (
        [make_node("ReduceSum", ["w"], ["s"], keepdims=0), make_node("Greater", ["s", "t"], ["c"]),
         make_node("Not", ["c"], ["d"]), either("d", BAD, GOOD)],
        {"w": np.ones(4, np.float32), "t": np.float32(3)}, [2, 3],
    ),
    "of the size of what a branch yields": (
        [either("c", branch(make_node("Unsqueeze", ["x", "axes"], ["o"])), BAD, "z"),
         make_node("Shape", ["z"], ["s"]), make_node("Size", ["s"], ["r"]), make_node("Equal", ["r", "three"], ["d"]),
         make_node("Squeeze", ["z", "axes"], ["q"]),
         either("d", branch(make_node("Relu", ["q"], ["o"])), BAD)],
        {"c": np.array(True), "axes": np.array([0]), **INDEX}, [2, 3],
    ),
    "within a branch": (
        [either("c", branch(either("d", BAD, GOOD, "o")), BAD)], {"c": np.array(True), "d": np.array(False)}, [2, 3],
    ),
    "with names that are taken": (
        [make_node("Neg", ["x"], ["h_2"]), make_node("Neg", ["h_2"], ["p"]),
         either("c", branch([make_node("Relu", ["p"], ["h"]), make_node("Identity", ["h"], ["o"])]), BAD, "a"),
         either("c", branch([make_node("Relu", ["a"], ["h"]), make_node("Identity", ["h"], ["o"])]), BAD)],
        {"c": np.array(True)}, [2, 3],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BRANCHES)
def test_a_branch_on_what_is_known(case: str, tmp_path: Path) -> None:
    nodes, weights, shape = BRANCHES[case]
    network = load_onnx(write(tmp_path / "net.onnx", nodes, {"x": (FLOAT, shape)}, weights))
    x = torch.randn(2, 3)
    assert torch.equal(network(x), torch.relu(x))


DECIDED = [make_node("ReduceSum", ["x"], ["s"], keepdims=0), make_node("Greater", ["s", "t"], ["c"])]


def test_a_branch_on_a_value_of_the_input_is_chosen_when_it_runs(tmp_path: Path) -> None:
    """Both sides are computed; a branch within one is settled as well."""
    nodes = [*DECIDED, either("c", branch(either("d", BAD, GOOD, "o")), branch(make_node("Neg", ["x"], ["o"])))]
    weights = {"t": np.float32(3), "d": np.array(False)}
    path = write(tmp_path / "net.onnx", nodes, {"x": (FLOAT, [2, 3])}, weights)
    network = load_onnx(path)
    for x in (torch.ones(2, 3), -torch.ones(2, 3)):
        np.testing.assert_array_equal(network(x).numpy(), in_engine(path, x)[0])
    graph = trace(network, (torch.ones(2, 3),))
    assert list(graph.calls(torch.ops.aten.where.self))


def test_sides_of_other_shapes_are_refused(tmp_path: Path) -> None:
    sides = branch(make_node("Transpose", ["x"], ["o"])), GOOD
    path = write(tmp_path / "net.onnx", [*DECIDED, either("c", *sides)], {"x": (FLOAT, [2, 3])}, {"t": np.float32(3)})
    with pytest.raises(
        InvalidInput, match=r"a branch on a value of the inputs whose sides yield \(3, 2\) and \(2, 3\)"
    ):
        load_onnx(path)


def test_a_branch_on_an_open_size_takes_the_size_that_is_given(tmp_path: Path) -> None:
    nodes = [make_node("Shape", ["x"], ["s"]), make_node("Gather", ["s", "i"], ["g"]),
             make_node("Equal", ["g", "three"], ["c"]), either("c", GOOD, BAD)]  # fmt: skip
    path = write(tmp_path / "net.onnx", nodes, {"x": (FLOAT, ["n", "m"])}, INDEX)
    with pytest.raises(InvalidInput, match=r"operators that cannot be imported: If \(y\); .* open sizes: give --input"):
        load_onnx(path)
    x = torch.randn(1, 3)
    assert torch.equal(load_onnx(path, input_shape=(1, 3))(x), torch.relu(x))


def test_sizes_of_one_name_are_equal(tmp_path: Path) -> None:
    """A state whose samples lie along its second dimension, as a voice detector has it."""
    inputs_: dict[str, tuple[int, Sequence[int | str] | None]] = {
        "x": (FLOAT, ["batch", "width"]),
        "state": (FLOAT, [2, "batch", "width"]),
    }
    path = write(tmp_path / "net.onnx", [make_node("Add", ["x", "state"], ["y"])], inputs_)
    shapes = [tuple(x.shape) for x in example_inputs_of(path, input_shape=(3, 7))]
    assert shapes == [(3, 7), (2, 3, 7)]
    load_onnx(path)


def test_small_values_of_a_sigmoid_are_held_against_its_range(tmp_path: Path) -> None:
    """Engines approximate a sigmoid to 1e-7 or so of 1, which is much of values that are all close to 0."""
    nodes = [make_node("Sub", ["x", "far"], ["s"]), make_node("Sigmoid", ["s"], ["y"])]
    load_onnx(write(tmp_path / "net.onnx", nodes, {"x": (FLOAT, [2, 400])}, {"far": np.float32(14.5)}))


def test_integers_of_which_nothing_is_known_are_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[int] = []
    whole = loading.compare.__globals__["random_inputs"]  # type: ignore[attr-defined]

    def noted(*given: Any) -> tuple[Tensor, ...]:
        made: tuple[Tensor, ...] = whole(*given)
        drawn.append(int(made[0].max()))
        return made

    monkeypatch.setitem(loading.compare.__globals__, "random_inputs", noted)  # type: ignore[attr-defined]
    ids: dict[str, tuple[int, Sequence[int | str] | None]] = {"ids": (TensorProto.INT64, [2, 400])}
    load_onnx(write(tmp_path / "net.onnx", [make_node("Cast", ["ids"], ["y"], to=FLOAT)], ids))
    picks = [make_node("Mod", ["ids", "two"], ["m"]), make_node("Add", ["m", "m"], ["a"]),
             make_node("Sub", ["ids", "m"], ["e"]), make_node("Add", ["e", "a"], ["f"]),
             make_node("Gather", ["t", "f"], ["y"])]  # fmt: skip
    load_onnx(write(tmp_path / "few.onnx", picks, ids, {"two": np.array(2), "t": real(3, 2)}))
    assert drawn[0] == 255
    assert drawn[-1] == 1


def test_a_loop_is_refused_by_name(tmp_path: Path) -> None:
    body = helper.make_graph(
        [make_node("Relu", ["v"], ["w"]), make_node("Identity", ["c"], ["d"])],
        "body",
        [helper.make_tensor_value_info("i", TensorProto.INT64, []),
         helper.make_tensor_value_info("c", TensorProto.BOOL, []), helper.make_tensor_value_info("v", FLOAT, None)],
        [helper.make_tensor_value_info("d", TensorProto.BOOL, []), helper.make_tensor_value_info("w", FLOAT, None)],
    )  # fmt: skip
    path = write(
        tmp_path / "net.onnx", [make_node("Loop", ["n", "", "x"], ["y"], body=body)], {"x": (FLOAT, [2, 3])},
        {"n": np.array(3)},
    )  # fmt: skip
    with pytest.raises(InvalidInput, match=r"operators that cannot be imported: Loop \(y\)"):
        load_onnx(path)


def test_shapes_fold_into_a_reshape(tmp_path: Path) -> None:
    nodes = [
        make_node("Shape", ["x"], ["s"]),
        make_node("Gather", ["s", "zero"], ["n"]),
        make_node("Unsqueeze", ["n", "axes"], ["u"]),
        make_node("Concat", ["u", "rest"], ["t"], axis=0),
        make_node("Reshape", ["x", "t"], ["y"]),
    ]
    weights = {"zero": np.array(0), "axes": np.array([0]), "rest": np.array([-1])}
    for name, shape in (("open", ["n", 3, 4]), ("fixed", [2, 3, 4])):
        path = write(tmp_path / f"{name}.onnx", nodes, {"x": (FLOAT, shape)}, weights)  # type: ignore[dict-item]
        graph = trace(load_onnx(path), (torch.randn(2, 3, 4),))
        assert {node.name.rstrip("_0123456789") for node in graph.calls()} <= {"flatten", "reshape", "view"}


# --- ranks -----------------------------------------------------------------------------------------------------------

VECTOR = {"g": real(4), "b": real(4), "m": real(4), "v": np.abs(real(4)) + 0.5}
RANKS: dict[str, tuple[list[NodeProto], list[int | str] | None, dict[str, Any], tuple[int, ...]]] = {
    "a vector to a column": ([make_node("Reshape", ["x", "s"], ["y"])], ["n"], {"s": np.array([-1, 1])}, (7,)),
    "a fixed vector to a column": ([make_node("Reshape", ["x", "s"], ["y"])], [7], {"s": np.array([-1, 1])}, (7,)),
    "a vector to a row": ([make_node("Reshape", ["x", "s"], ["y"])], [6], {"s": np.array([1, -1])}, (6,)),
    "a vector to a table": ([make_node("Reshape", ["x", "s"], ["y"])], [6], {"s": np.array([2, 3])}, (6,)),
    "a vector to itself and one": ([make_node("Reshape", ["x", "s"], ["y"])], ["n"], {"s": np.array([0, -1])}, (6,)),
    "a table to a vector": ([make_node("Reshape", ["x", "s"], ["y"])], [2, 3], {"s": np.array([-1])}, (2, 3)),
    "a vector flattened": ([make_node("Flatten", ["x"], ["y"], axis=0)], [6], {}, (6,)),
    "a vector times a matrix, and a bias": (
        [make_node("MatMul", ["x", "w"], ["h"]), make_node("Add", ["h", "b"], ["y"])],
        [4], {"w": real(4, 3), "b": real(3)}, (4,),
    ),
    "a product with a column added": (
        [make_node("Gemm", ["x", "w", "b"], ["y"])], [3, 4], {"w": real(4, 3), "b": real(3, 1)}, (3, 4),
    ),
    "a hard swish that adds a dimension": (
        [make_node("Add", ["x", "three"], ["a"]), make_node("Clip", ["a", "low", "high"], ["c"]),
         make_node("Div", ["c", "six"], ["d"]), make_node("Mul", ["x", "d"], ["y"])],
        [2, 3], {"three": np.full((1, 1, 1), 3, np.float32), "low": np.float32(0), "high": np.float32(6),
                 "six": np.float32(6)}, (2, 3),
    ),
    **{
        f"batch norm of {len(shape)} dimensions that the file does not tell": (
            [make_node("BatchNormalization", ["x", "g", "b", "m", "v"], ["y"])], None, VECTOR, shape,
        )
        for shape in ((2, 4), (2, 4, 3), (2, 4, 3, 3), (2, 4, 3, 3, 2))
    },
    "instance norm of sequences that the file does not tell": (
        [make_node("InstanceNormalization", ["x", "g", "b"], ["y"])], None, {k: VECTOR[k] for k in "gb"}, (2, 4, 5),
    ),
    "slopes of sequences that the file does not tell": (
        [make_node("PRelu", ["x", "s"], ["y"])], None, {"s": real(4, 1)}, (2, 4, 5),
    ),
    "a number to a vector": ([make_node("Reshape", ["x", "s"], ["y"])], [], {"s": np.array([-1])}, ()),
    "a number flattened": ([make_node("Flatten", ["x"], ["y"], axis=0)], [], {}, ()),
    "length of a number": (
        [make_node("ReduceSum", ["x"], ["s"], keepdims=0), make_node("Neg", ["s"], ["n"]),
         make_node("ReduceL1", ["n"], ["y"], keepdims=0)], [2, 3], {}, (2, 3),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", RANKS)
def test_no_rank_is_taken_for_granted(case: str, tmp_path: Path) -> None:
    nodes, shape, weights, given = RANKS[case]
    path = write(tmp_path / "net.onnx", nodes, {"x": (FLOAT, shape)}, weights)
    network = load_onnx(path, input_shape=given)
    x = torch.randn(given)
    expected = ReferenceEvaluator(str(path)).run(None, {"x": x.numpy()})[0]  # type: ignore[index]
    assert network(x).shape == expected.shape
    np.testing.assert_allclose(network(x).detach().numpy(), expected, rtol=1e-4, atol=1e-5)


# --- poolings whose padding differs ----------------------------------------------------------------------------------

POOLINGS: dict[str, dict[str, Any]] = {
    "end": {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [0, 0, 1, 1]},
    "end, rounded up": {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [0, 0, 1, 1], "ceil_mode": 1},
    "beginning": {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 0, 0]},
    "same, step of one": {"kernel_shape": [2, 2], "strides": [1, 1], "auto_pad": "SAME_UPPER"},
    "same from below": {"kernel_shape": [2, 3], "strides": [1, 2], "auto_pad": "SAME_LOWER"},
    "same": {"kernel_shape": [3, 2], "strides": [2, 2], "auto_pad": "SAME_UPPER"},
    "wide": {"kernel_shape": [3, 3], "strides": [1, 1], "pads": [2, 0, 2, 2]},
    "rounded up": {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1},
    "spread": {"kernel_shape": [3, 3], "dilations": [2, 2], "pads": [0, 0, 1, 1]},
    "spread, wide": {"kernel_shape": [3, 3], "dilations": [2, 2], "pads": [2, 2, 2, 2]},
    "spread, wide, uneven": {"kernel_shape": [3, 2], "dilations": [2, 3], "strides": [2, 1], "pads": [2, 0, 1, 1]},
    "spread, rounded up": {
        "kernel_shape": [3, 3], "dilations": [2, 1], "strides": [2, 2], "pads": [2, 0, 2, 2], "ceil_mode": 1,
    },
}  # fmt: skip


@pytest.mark.parametrize("size", [7, 8])
@pytest.mark.parametrize("case", POOLINGS)
def test_a_pooling_observes_finite_values(case: str, size: int, tmp_path: Path) -> None:
    nodes = [
        make_node("Conv", ["x", "w"], ["h"], pads=[1, 1, 1, 1]),
        make_node("MaxPool", ["h"], ["p"], **POOLINGS[case]),
        make_node("Conv", ["p", "v"], ["y"]),
    ]
    weights = {"w": real(4, 3, 3, 3), "v": real(4, 4, 1, 1)}
    path = write(tmp_path / "net.onnx", nodes, {"x": (FLOAT, ["n", 3, size, size])}, weights)
    network = load_onnx(path)
    x = torch.randn(8, 3, size, size)
    np.testing.assert_allclose(network(x).detach().numpy(), in_engine(path, x)[0], rtol=1e-3, atol=1e-4)
    seen: list[Tensor] = []
    network.execute((x,), lambda name, value: seen.append(value) if isinstance(value, Tensor) else None)
    assert all(bool(torch.isfinite(value).all()) for value in seen)
    pads = [
        node for node in trace(network, (x,)).calls() if "pad" in str(node.target) and "pool" not in str(node.target)
    ]
    assert not any(-np.inf in node.args for node in pads)
    context = Context((x[:1],), Data("made", {"calibration": SampleSplit(x, None)}))
    result = Quantize().apply(network, context)
    assert all(np.isfinite([*encoding.low, *encoding.high]).all() for encoding in result.encodings.values())


@pytest.mark.parametrize("counted", [0, 1])
@pytest.mark.parametrize("size", [7, 8, 9])
@pytest.mark.parametrize("pads", [[0, 0, 2, 2], [2, 1, 0, 0], [2, 2, 2, 2], [1, 0, 1, 2]], ids=str)
def test_a_mean_counts_what_the_file_does(pads: list[int], size: int, counted: int, tmp_path: Path) -> None:
    window = {"kernel_shape": [3, 3], "strides": [2, 2], "pads": pads, "ceil_mode": 1, "count_include_pad": counted}
    path = write(
        tmp_path / "net.onnx",
        [make_node("AveragePool", ["x"], ["y"], **window)],  # type: ignore[arg-type]
        {"x": (FLOAT, ["n", 3, size, size])},
    )
    x = torch.randn(2, 3, size, size)
    np.testing.assert_allclose(load_onnx(path)(x).numpy(), in_engine(path, x)[0], rtol=1e-4, atol=1e-5)


# --- integers --------------------------------------------------------------------------------------------------------

IDS = {"ids": (TensorProto.INT64, ["n", 40])}
TABLES: dict[str, tuple[list[NodeProto], dict[str, Any], int]] = {
    "a table": ([make_node("Gather", ["t", "ids"], ["y"])], {"t": real(50, 3)}, 50),
    "the second dimension of it": ([make_node("Gather", ["t", "ids"], ["y"], axis=1)], {"t": real(3, 20)}, 20),
    "two tables": (
        [make_node("Gather", ["t", "ids"], ["a"]), make_node("Gather", ["u", "ids"], ["b"]),
         make_node("Add", ["a", "b"], ["y"])], {"t": real(50, 3), "u": real(30, 3)}, 30,
    ),
    "over casts and shapes": (
        [make_node("Cast", ["ids"], ["c"], to=TensorProto.INT32), make_node("Unsqueeze", ["c", "axes"], ["d"]),
         make_node("Identity", ["d"], ["e"]), make_node("Gather", ["t", "e"], ["y"])],
        {"t": real(50, 3), "axes": np.array([0])}, 50,
    ),
    "behind an offset": (
        [make_node("Add", ["ids", "two"], ["p"]), make_node("Gather", ["t", "p"], ["y"])],
        {"t": real(50, 3), "two": np.array(2)}, 48,
    ),
    "none": ([make_node("Cast", ["ids"], ["y"], to=FLOAT)], {}, 2),
}  # fmt: skip


@pytest.mark.parametrize("case", TABLES)
def test_integers_are_what_their_tables_hold(case: str, tmp_path: Path) -> None:
    nodes, weights, end = TABLES[case]
    path = write(tmp_path / "net.onnx", nodes, IDS, weights)  # type: ignore[arg-type]
    (ids,) = example_inputs_of(path, 32)
    assert int(ids.min()) == 0
    assert int(ids.max()) == end - 1
    load_onnx(path)


def test_a_difference_beyond_the_first_rows_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rows that 0 and 1 choose agree; the others do not."""
    path = write(tmp_path / "net.onnx", [make_node("Gather", ["t", "ids"], ["y"])], IDS, {"t": real(50, 3)})  # type: ignore[arg-type]
    whole = loading.compare  # type: ignore[attr-defined]

    def spoilt(
        path: Path, model: ModelProto, halves: tuple[str, ...], network: nn.Module, shape: Any, *rest: int
    ) -> None:
        with torch.no_grad():
            next(t for t in network.state_dict().values() if t.shape == (50, 3))[40:] += 1
        whole(path, model, halves, network, shape, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(loading, "compare", spoilt)
    with pytest.raises(InvalidInput, match="differs from ONNX Runtime"):
        load_onnx(path)


def test_integers_without_a_table_are_what_the_data_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(
        tmp_path / "net.onnx", [make_node("Cast", ["ids"], ["y"], to=FLOAT)], {"ids": (TensorProto.INT64, ["n", 40])}
    )
    (few,) = inputs.random_inputs(path, parse(path), [(32, 40)], 0)
    (many,) = inputs.random_inputs(path, parse(path), [(32, 40)], 0, largest=99)
    assert (int(few.max()), int(many.max())) == (1, 99)
    load_onnx(path, largest=99)
    split = SampleSplit(torch.arange(80).reshape(2, 40), torch.tensor([0, 1]))
    monkeypatch.setattr(loading, "compare", lambda *given: told.append(given[-1]))
    told: list[int] = []
    open_network(str(path), data=Data("words", {"calibration": split}))
    open_network(str(path), data=Data("reals", {"calibration": SampleSplit(torch.rand(2, 40), None)}))
    assert told == [79, 1]


def test_shapes_of_integers_are_given_integers(tmp_path: Path) -> None:
    path = write(tmp_path / "net.onnx", [make_node("Gather", ["t", "ids"], ["y"])], IDS, {"t": real(50, 3)})  # type: ignore[arg-type]
    (ids,) = open_network(str(path), input_shapes=((4, 40),)).example_inputs
    assert ids.dtype == torch.int64
    assert int(ids.max()) > 1


# --- long chains -----------------------------------------------------------------------------------------------------


def test_a_table_of_many_layers_is_cut(tmp_path: Path) -> None:
    names = ["x", *(f"v{i}" for i in range(599)), "y"]
    nodes = [make_node("Relu", [a], [b]) for a, b in pairwise(names)]
    path = write(tmp_path / "net.onnx", nodes, {"x": (FLOAT, [1, 2])})
    done = CliRunner().invoke(cli, ["analyze", str(path)])
    assert done.exit_code == 0
    assert "... and 100 more (-v tells all)" in done.output
