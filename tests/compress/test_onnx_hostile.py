"""ONNX files that lie, never end or ask for everything: each is refused in one line, before it takes memory or time."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from onnx import FunctionProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from compress.cli import cli
from compress.errors import InvalidInput
from compress.files.limits import Measured, TooLarge, require_memory
from compress.sources.onnx_import import load_onnx
from export.onnx.contents import load_model
from runtimes.files.untrusted import limits_lifted

torch.set_num_threads(1)
make_node = helper.make_node
RELU = make_node("Relu", ["x"], ["y"])
KERNEL = {"w": np.ones((4, 4, 3, 3), np.float32)}


def model_of(
    nodes: Sequence[NodeProto],
    weights: dict[str, Any] | None = None,
    *,
    shape: Sequence[int | str] = (1, 4, 9, 9),
    opset: int = 17,
    functions: Sequence[FunctionProto] = (),
) -> ModelProto:
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, list(shape))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in (weights or {}).items()],
    )
    opsets = [helper.make_opsetid("", opset), *([helper.make_opsetid("own", 1)] if functions else [])]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8, functions=functions)


def write(path: Path, model: ModelProto) -> Path:
    path.write_bytes(model.SerializeToString())
    return path


def refusal(path: Path, kind: type[InvalidInput] = InvalidInput) -> str:
    """What the file is refused with, which is one line that begins with the file."""
    with pytest.raises(kind) as caught:
        load_onnx(path)
    words = str(caught.value)
    assert words.startswith((str(path), f"ONNX file {path}"))
    assert "\n" not in words
    return words


# --- attributes and values -------------------------------------------------------------------------------------------

CONV = ("Conv", ["x", "w"])
TURNED = ("ConvTranspose", ["x", "w"])
POOL = ("MaxPool", ["x"])
ATTRIBUTES: dict[str, tuple[tuple[str, list[str]], dict[str, Any], str]] = {
    "group of 0": (CONV, {"group": 0}, r"node 0 \(Conv\): group is 0; expected 1 or more"),
    "negative group": (CONV, {"group": -1}, "group is -1; expected 1 or more"),
    "group of a transposed convolution": (TURNED, {"group": 0}, "group is 0; expected 1 or more"),
    "strides of 0": (CONV, {"strides": [0, 0]}, "strides is 0, 0; expected 1 or more"),
    "strides of a pooling": (POOL, {"kernel_shape": [2, 2], "strides": [0, 1]}, "strides is 0, 1"),
    "dilations of 0": (CONV, {"dilations": [0, 0]}, "dilations is 0, 0"),
    "negative kernel": (POOL, {"kernel_shape": [-2, 2]}, "kernel_shape is -2, 2"),
    "pads beyond integers": (CONV, {"pads": [2**63 - 1] * 4}, "pads is 9223372036854775807, .*expected less than"),
    "pads beyond memory": (CONV, {"pads": [10**5] * 4}, "--large-files"),
    "negative pads": (POOL, {"kernel_shape": [2, 2], "pads": [-5] * 4}, r"\(MaxPool\)"),
    "too few strides": (CONV, {"strides": [1]}, "strides"),
    "strides of floats": (CONV, {"strides": 1.5}, "Mismatched attribute type"),
    "an unknown attribute": (CONV, {"striders": [1, 1]}, "Unrecognized attribute: striders"),
    "another kernel than the weights": (CONV, {"kernel_shape": [5, 5]}, "kernel_shape|kernel_size"),
    "block of 0": (("DepthToSpace", ["x"]), {"blocksize": 0}, "blocksize is 0"),
    "block of the inverse": (("SpaceToDepth", ["x"]), {"blocksize": 0}, "blocksize is 0"),
    "size of 0": (("LRN", ["x"]), {"size": 0}, "size is 0"),
    "axis out of range": (("Softmax", ["x"]), {"axis": 9}, r"\(Softmax\).*Dimension out of range.*got 9"),
    "axis of a join": (("Concat", ["x", "x"]), {"axis": 9}, r"\(Concat\).*Dimension out of range.*got 9"),
    "order with duplicates": (("Transpose", ["x"]), {"perm": [0, 0, 1, 9]}, r"\(Transpose\)"),
    "unknown type": (("Cast", ["x"]), {"to": 99}, r"\(Cast\): elements of type 99 \(none that is known\)"),
    "no inputs": (("Relu", []), {}, r"node 0 \(Relu\) is not valid: .*input size 0"),
}


@pytest.mark.parametrize("case", ATTRIBUTES)
def test_attributes_out_of_range(case: str, tmp_path: Path) -> None:
    (operator, inputs), attributes, words = ATTRIBUTES[case]
    path = write(tmp_path / "net.onnx", model_of([make_node(operator, inputs, ["y"], **attributes)], KERNEL))
    with pytest.raises(InvalidInput, match=words):
        load_onnx(path)
    refusal(path)


NUMBERS: dict[str, tuple[list[NodeProto], dict[str, Any], str]] = {
    "index of a table": (
        [make_node("Gather", ["x", "i"], ["y"], axis=1)],
        {"i": np.array([9])},
        r"\(Gather\).*out of",
    ),
    "index that is known": (
        [make_node("Gather", ["w", "i"], ["z"]), make_node("Conv", ["x", "z"], ["y"])],
        {"i": np.array([9]), **KERNEL},
        r"node z \(Gather\) cannot be imported: .*out of",
    ),
    "negative sizes": (
        [make_node("ConstantOfShape", ["s"], ["z"]), make_node("Add", ["x", "z"], ["y"])],
        {"s": np.array([-5])},
        r"node z \(ConstantOfShape\) cannot be imported: .*negative",
    ),
    "a range without steps": (
        [make_node("Range", ["a", "b", "c"], ["z"]), make_node("Add", ["x", "z"], ["y"])],
        {"a": np.float32(0), "b": np.float32(9), "c": np.float32(0)},
        r"node z \(Range\) cannot be imported: .*nonzero",
    ),
    "scales that are no numbers": (
        [make_node("Resize", ["x", "", "s"], ["y"])],
        {"s": np.array([1, 1, np.nan, np.inf], np.float32)},
        r"\(Resize\).*NaN",
    ),
    "a reshape to other sizes": ([make_node("Reshape", ["x", "s"], ["y"])], {"s": np.array([5, 7])}, r"\(Reshape\)"),
    "a split that nothing fits": (
        [make_node("Split", ["x", "s"], ["y", "z"], axis=1)], {"s": np.array([1, 9])}, r"\(Split\)",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", NUMBERS)
def test_values_out_of_range(case: str, tmp_path: Path) -> None:
    nodes, weights, words = NUMBERS[case]
    path = write(tmp_path / "net.onnx", model_of(nodes, weights))
    with pytest.raises(InvalidInput, match=words):
        load_onnx(path)
    refusal(path)


# --- sizes -----------------------------------------------------------------------------------------------------------

LARGE: dict[str, tuple[list[NodeProto], dict[str, Any], tuple[int, ...]]] = {
    "constant": (
        [make_node("ConstantOfShape", ["s"], ["z"]), make_node("Add", ["x", "z"], ["y"])],
        {"s": np.array([10**12])}, (1, 4),
    ),
    "constant that is summed": (
        [make_node("ConstantOfShape", ["s"], ["z"]), make_node("ReduceSum", ["z"], ["r"]),
         make_node("Add", ["x", "r"], ["y"])],
        {"s": np.array([2 * 10**9])}, (1, 4),
    ),
    "range": (
        [make_node("Range", ["a", "b", "c"], ["z"]), make_node("Add", ["x", "z"], ["y"])],
        {"a": np.float32(0), "b": np.float32(1e12), "c": np.float32(1)}, (1, 4),
    ),
    "outer sum of weights": (
        [make_node("Add", ["a", "b"], ["z"]), make_node("ReduceSum", ["z"], ["r"]),
         make_node("Add", ["x", "r"], ["y"])],
        {"a": np.zeros((40_000, 1), np.float32), "b": np.zeros((1, 40_000), np.float32)}, (1, 4),
    ),
    "many constants": (
        [*(make_node("ConstantOfShape", ["s"], [f"z{i}"]) for i in range(20)),
         make_node("Sum", ["x", *(f"z{i}" for i in range(20))], ["y"])],
        {"s": np.array([10**7])}, (1, 1),
    ),
    "tile": ([make_node("Tile", ["x", "s"], ["y"])], {"s": np.array([10**6, 10**6])}, (1, 4)),
    "expand": ([make_node("Expand", ["x", "s"], ["y"])], {"s": np.array([10**6, 10**6])}, (1, 1)),
    "resize": (
        [make_node("Resize", ["x", "", "s"], ["y"])], {"s": np.array([1, 1, 1e5, 1e5], np.float32)}, (1, 4, 9, 9),
    ),
    "pad": ([make_node("Pad", ["x", "p"], ["y"])], {"p": np.array([10**6] * 4)}, (1, 4)),
    "constant of the size of the input": (
        [make_node("Shape", ["x"], ["s"]), make_node("Mul", ["s", "f"], ["t"]),
         make_node("ConstantOfShape", ["t"], ["z"]), make_node("ReduceSum", ["z"], ["r"]),
         make_node("Add", ["x", "r"], ["y"])],
        {"f": np.array(10**6)}, (2, 4),
    ),
    "outer product of the input": (
        [make_node("Transpose", ["x"], ["t"]), make_node("MatMul", ["t", "x"], ["y"])], {}, (1, 100_000),
    ),
    "vector": ([RELU], {}, (1, 10**9)),
    "sizes whose product is no integer": ([RELU], {}, (10**9, 10**9, 10**9)),
    "image": ([make_node("Conv", ["x", "w"], ["y"])], KERNEL, (1, 4, 30_000, 30_000)),
}  # fmt: skip


@pytest.mark.parametrize("case", LARGE)
def test_what_would_take_all_memory_names_the_option(case: str, tmp_path: Path) -> None:
    nodes, weights, shape = LARGE[case]
    words = refusal(write(tmp_path / "net.onnx", model_of(nodes, weights, shape=shape)), TooLarge)
    assert "--large-files" in words
    assert "GiB" in words or "TiB" in words or "PiB" in words or "MiB" in words


def test_arithmetic_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("compress.files.limits._MULTIPLY_ADDS", 10**9)
    nodes = [make_node("Expand", ["x", "s"], ["e"])] + [
        make_node("ReduceSum", ["e"], [f"r{i}"], keepdims=0) for i in range(1000)
    ]
    nodes.append(make_node("Sum", [f"r{i}" for i in range(1000)], ["y"]))
    path = write(tmp_path / "net.onnx", model_of(nodes, {"s": np.array([10**6, 2])}, shape=(1, 1)))
    assert "multiply-adds; add --large-files" in refusal(path, TooLarge)


def test_the_option_lifts_the_limits() -> None:
    with pytest.raises(TooLarge, match="a would take 2 GiB; the most is 1 GiB, add --large-files if you trust"):
        require_memory(2**31, "a")
    with pytest.raises(TooLarge, match="a would take 1 GiB beside 512 MiB that are in use"):
        require_memory(2**30, "a", held=2**29)
    with limits_lifted():
        require_memory(2**60, "a")


def test_memory_is_counted_while_it_is_held() -> None:
    with Measured() as measured:
        a = torch.zeros(1000)
        b = a.view(10, 100) + 1
        assert measured.held == 8000
        del b
        assert measured.held == 4000
        c = a.view(100, 10)
        del a
        assert measured.held == 4000
        del c
        assert measured.held == 0


# --- tensors ---------------------------------------------------------------------------------------------------------


def added() -> ModelProto:
    return model_of([make_node("Add", ["x", "w"], ["y"])], {"w": np.ones(4, np.float32)}, shape=(1, 4))


def _sized(*sizes: int) -> Callable[[TensorProto], None]:
    return lambda tensor: tensor.dims.__setitem__(slice(None), sizes)


def _of_type(kind: int) -> Callable[[TensorProto], None]:
    return lambda tensor: setattr(tensor, "data_type", kind)


def _raw(content: bytes) -> Callable[[TensorProto], None]:
    return lambda tensor: setattr(tensor, "raw_data", content)


def _values(tensor: TensorProto) -> None:
    tensor.ClearField("raw_data")
    tensor.float_data.extend([1.0, 2.0])


TENSORS: dict[str, tuple[Callable[[TensorProto], None], str]] = {
    "huge size": (_sized(2**40), "sizes 1099511627776 stores 16 bytes; expected 4,398,046,511,104"),
    "huge sizes": (_sized(2**40, 2**40), "stores 16 bytes; expected"),
    "negative size": (_sized(-4), "has the sizes -4; expected none below 0"),
    "negative sizes": (_sized(-1, -4), "has the sizes -1, -4"),
    "one too many": (_sized(5), "of sizes 5 stores 16 bytes; expected 20"),
    "a part of a number": (_raw(b"abc"), "stores 3 bytes; expected 16"),
    "too few values": (_values, "stores 2 values; expected 4"),
    "unknown type": (_of_type(77), r"is of type 77 \(none that is known\)"),
    "no type": (_of_type(0), "is of type UNDEFINED"),
    "text": (_of_type(TensorProto.STRING), "of sizes 4 stores 16 bytes|of type STRING"),
    "wider type": (_of_type(TensorProto.DOUBLE), "stores 16 bytes; expected 32"),
}


@pytest.mark.parametrize("inside", ["initializer", "Constant"])
@pytest.mark.parametrize("case", TENSORS)
def test_tensors_that_lie(case: str, inside: str, tmp_path: Path) -> None:
    change, words = TENSORS[case]
    model = added()
    tensor = model.graph.initializer[0]
    if inside == "Constant":
        model.graph.node.insert(0, make_node("Constant", [], ["w"], value=tensor))
        del model.graph.initializer[:]
        tensor = model.graph.node[0].attribute[0].t
    change(tensor)
    path = write(tmp_path / "net.onnx", model)
    with pytest.raises(InvalidInput, match=words):
        load_onnx(path)
    refusal(path)


OUTSIDE: dict[str, tuple[dict[str, str], str]] = {
    "above": ({"location": "../../etc/passwd"}, "lie in '../../etc/passwd'; expected a file in the folder"),
    "absolute": ({"location": "/etc/passwd"}, "lie in '/etc/passwd'; expected a file in the folder"),
    "over a link": ({"location": "out/secret.bin"}, "expected a file in the folder"),
    "absent": ({"location": "gone.bin"}, "lie in 'gone.bin', which is not there; put it beside the ONNX file"),
    "folder": ({"location": "."}, "which is no plain file"),
    "pipe": ({"location": "pipe"}, "which is no plain file"),
    "nowhere": ({}, "lie in ''; expected a file"),
    "offset beyond": ({"location": "w.bin", "offset": "9000"}, "16 bytes from 9,000 of 'w.bin', which has 64"),
    "length beyond": ({"location": "w.bin", "length": "99999999999"}, "which has 64; expected 16 bytes within it"),
    "length short": ({"location": "w.bin", "length": "7"}, "are 7 bytes from 0 .* expected 16"),
    "offset negative": ({"location": "w.bin", "offset": "-5"}, "have the offset '-5'; expected a number"),
    "offset of words": ({"location": "w.bin", "offset": "five"}, "have the offset 'five'; expected a number"),
}


@pytest.mark.parametrize("case", OUTSIDE)
def test_weights_that_lie_elsewhere(case: str, tmp_path: Path) -> None:
    told, words = OUTSIDE[case]
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "w.bin").write_bytes(bytes(64))
    (tmp_path / "secret.bin").write_bytes(bytes(64))
    (folder / "out").symlink_to(tmp_path)
    os.mkfifo(folder / "pipe")
    model = added()
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in told.items():
        tensor.external_data.add(key=key, value=value)
    path = write(folder / "net.onnx", model)
    with pytest.raises(InvalidInput, match=words):
        load_onnx(path)
    with pytest.raises(InvalidInput, match=words):
        load_model(path)


def test_weights_that_repeat_a_file_are_counted(tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(bytes(2**24))
    names = [f"w{i}" for i in range(80)]
    model = model_of([make_node("Sum", ["x", *names], ["y"])], shape=(1, 1))
    for name in names:
        tensor = model.graph.initializer.add(name=name, data_type=1, dims=[2**22], data_location=1)
        tensor.external_data.add(key="location", value="w.bin")
    assert "--large-files" in refusal(write(tmp_path / "net.onnx", model), TooLarge)


# --- graphs ----------------------------------------------------------------------------------------------------------


def test_names_that_are_no_text(tmp_path: Path) -> None:
    model = model_of([make_node("Conv", ["x", "w"], ["y"], name="NNNN", group=1, doc_string="DDDD")], KERNEL)
    model.graph.node[0].attribute[0].name = "AAAA"
    model.graph.name = "GGGG"
    content = model.SerializeToString()
    for part, field in (
        (b"Conv", "op_type"),
        (b"NNNN", "name"),
        (b"AAAA", "name"),
        (b"GGGG", "name"),
        (b"DDDD", "doc"),
    ):
        path = tmp_path / "net.onnx"
        path.write_bytes(content.replace(part, b"\xff\xfe\xff\xff"))
        words = refusal(path)
        assert f"the {field}" in words
        assert r"is not UTF-8: b'\xff\xfe\xff\xff'" in words


GRAPHS: dict[str, tuple[list[NodeProto], str]] = {
    "unsorted": (
        [make_node("Relu", ["a"], ["y"], name="first"), make_node("Relu", ["x"], ["a"])],
        r"node 0 'first' \(Relu\) takes 'a', which node 1 yields later; .*sort them",
    ),
    "circle": (
        [make_node("Add", ["x", "b"], ["a"]), make_node("Relu", ["a"], ["b"]), make_node("Relu", ["a"], ["y"])],
        r"takes 'b', which is made of it: the graph runs in a circle",
    ),
    "of itself": ([make_node("Add", ["x", "y"], ["y"])], "takes 'y', which is made of it"),
    "from nowhere": ([make_node("Add", ["x", "z"], ["y"])], "takes 'z', which nothing yields"),
    "no output": ([make_node("Relu", ["x"], ["z"])], "the output 'y' of the graph is made by no node"),
    "made twice": (
        [make_node("Relu", ["x"], ["y"]), make_node("Neg", ["x"], ["y"])],
        r"node 1 \(Neg\) yields 'y', which is there already",
    ),
    "made over an input": ([make_node("Relu", ["x"], ["x"]), RELU], "yields 'x', which is there already"),
}


@pytest.mark.parametrize("case", GRAPHS)
def test_graphs_that_do_not_run(case: str, tmp_path: Path) -> None:
    nodes, words = GRAPHS[case]
    path = write(tmp_path / "net.onnx", model_of(nodes))
    with pytest.raises(InvalidInput, match=words):
        load_onnx(path)
    with pytest.raises(InvalidInput, match=words):
        load_model(path)


@pytest.mark.parametrize("field", ["input", "output", "initializer"])
def test_a_name_that_is_there_twice(field: str, tmp_path: Path) -> None:
    model = added()
    entries = getattr(model.graph, field)
    entries.append(entries[0])
    assert f"the {field} {entries[0].name!r} is there twice" in refusal(write(tmp_path / "net.onnx", model))


def test_a_negative_size_of_an_input(tmp_path: Path) -> None:
    assert "'x' has a size of -7" in refusal(write(tmp_path / "net.onnx", model_of([RELU], shape=(1, -7))))


@pytest.mark.parametrize("version", [0, -3, 99, 2**40])
def test_versions_that_do_not_exist(version: int, tmp_path: Path) -> None:
    assert f"is of opset {version}; expected 1 to" in refusal(
        write(tmp_path / "n.onnx", model_of([RELU], opset=version))
    )


def function(name: str, *calls: str) -> FunctionProto:
    """A function that calls others, one after the other."""
    names = ["a", *(f"v{i}" for i in range(len(calls) - 1)), "b"]
    nodes = [make_node(call, [i], [o], domain="" if call == "Relu" else "own")
             for call, i, o in zip(calls, names[:-1], names[1:], strict=True)]  # fmt: skip
    return helper.make_function(
        "own", name, ["a"], ["b"], nodes, [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    )


FUNCTIONS: dict[str, tuple[list[FunctionProto], str]] = {
    "itself": ([function("f0", "f0")], "the function 'f0' calls itself"),
    "itself over others": ([function("f0", "f1"), function("f1", "f2"), function("f2", "f0")], "calls itself"),
    "doubling": (
        [*(function(f"f{i}", f"f{i + 1}", f"f{i + 1}") for i in range(24)), function("f24", "Relu")],
        r"it has 5.03e\+07 nodes with its functions written out; the most is 100,000",
    ),
    "deep": (
        [*(function(f"f{i}", f"f{i + 1}") for i in range(3000)), function("f3000", "Relu")],
        "its functions call each other 101 deep; the most is 100",
    ),
    "twice": ([function("f0", "Relu"), function("f0", "Relu")], "the function 'f0' is defined twice"),
}


@pytest.mark.parametrize("case", FUNCTIONS)
def test_functions_that_do_not_end(case: str, tmp_path: Path) -> None:
    functions, words = FUNCTIONS[case]
    model = model_of([make_node("f0", ["x"], ["y"], domain="own")], functions=functions)
    path = write(tmp_path / "net.onnx", model)
    with pytest.raises(InvalidInput, match=words):
        load_onnx(path)
    with pytest.raises(InvalidInput, match=words):
        load_model(path)


def test_functions_that_end_are_written_out(tmp_path: Path) -> None:
    functions = [function("f0", "f1", "f1"), function("f1", "Relu")]
    path = write(tmp_path / "net.onnx", model_of([make_node("f0", ["x"], ["y"], domain="own")], functions=functions))
    assert torch.equal(
        load_onnx(path)(torch.tensor([[-1.0, 2.0]]).reshape(1, 2, 1, 1)).flatten(), torch.tensor([0.0, 2.0])
    )


def nested(depth: int) -> bytes:
    """Graphs within graphs, as the bytes of a file: the writer of protobuf refuses to nest them so."""

    def number(value: int) -> bytes:
        return bytes([value & 127 | 128]) + number(value >> 7) if value > 127 else bytes([value])

    def entry(place: int, content: bytes) -> bytes:
        return number(place << 3 | 2) + number(len(content)) + content

    graph = b""
    for _ in range(depth):
        graph = entry(1, entry(4, b"If") + entry(5, entry(1, b"then_branch") + entry(6, graph)))
    return number(8) + number(8) + entry(7, graph) + entry(8, number(16) + number(17))


@pytest.mark.parametrize(
    "content", [nested(500), b"", b"hello\n" * 50, bytes(range(256)) * 9], ids=["deep", "empty", "text", "bytes"]
)
def test_bytes_that_are_no_network(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(content)
    refusal(tmp_path / "net.onnx")


def test_a_name_of_many_parts_is_no_deeper_than_python_is(tmp_path: Path) -> None:
    name = ".".join("a" * 5000)
    network = load_onnx(write(tmp_path / "net.onnx", model_of([make_node("Conv", ["x", f"{name}.weight"], ["y"])],
                                                              {f"{name}.weight": KERNEL["w"]})))  # fmt: skip
    assert max(key.count(".") for key in network.state_dict()) <= 41


def test_messages_are_short_and_printed_safely(tmp_path: Path) -> None:
    name = "\x1b[2J\n" + "n" * 5000
    model = model_of([make_node("Softmax", ["x"], ["y"], axis=9, name=name)])
    done = CliRunner().invoke(cli, ["analyze", str(write(tmp_path / "net.onnx", model))])
    assert isinstance(done.exception, InvalidInput)
    assert done.exception.exit_code == 2
    assert len(str(done.exception)) < 500
