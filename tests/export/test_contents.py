"""What is read back from ONNX files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from compress.errors import InvalidInput
from export.onnx import contents


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Two nodes, a nested graph and tensors of two types in raw and in typed fields."""
    helper = onnx.helper
    branch = helper.make_graph(
        [helper.make_node("Constant", [], ["b"], value=onnx.numpy_helper.from_array(np.zeros((4, 2), np.float32)))],
        "branch",
        [],
        [helper.make_tensor_value_info("b", onnx.TensorProto.FLOAT, [4, 2])],
    )
    graph = helper.make_graph(
        [
            helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch),
            helper.make_node("Add", ["y", "w"], ["z"]),
        ],
        "g",
        [helper.make_tensor_value_info("c", onnx.TensorProto.BOOL, [])],
        [helper.make_tensor_value_info("z", onnx.TensorProto.FLOAT, [4, 2])],
        [
            onnx.numpy_helper.from_array(np.ones((4, 2), np.float32), "w"),
            helper.make_tensor("unused", onnx.TensorProto.INT8, [5], [1, 2, 3, 4, 5]),
        ],
    )
    path = tmp_path / "net.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)]), str(path))
    return path


def test_counts(file: Path) -> None:
    found = contents.read(file)
    assert found.opset == 19
    assert found.operators == {"Add": 1, "Constant": 2, "If": 1}
    assert found.nodes == 4
    assert found.bytes_by_dtype == {"float": 3 * 32, "int8": 5}
    assert found.size_bytes == file.stat().st_size == found.graph_bytes + 3 * 32 + 5


@pytest.mark.parametrize("kept", [0, 10, 60, 0.5, 0.9])
def test_truncated_files_are_refused_in_one_line(file: Path, kept: float) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: kept if isinstance(kept, int) else int(len(content) * kept)])
    with pytest.raises(InvalidInput) as caught:
        contents.read(file)
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="no such file"):
        contents.read(tmp_path / "none.onnx")
    (tmp_path / "text.onnx").write_text("this is a text and no network\n" * 20)
    with pytest.raises(InvalidInput, match=r"not a readable ONNX file|not an ONNX model"):
        contents.read(tmp_path / "text.onnx")
    with pytest.raises(InvalidInput, match="expected a file, got a folder"):
        contents.read(tmp_path)


def test_an_invalid_model_is_refused(file: Path) -> None:
    model = onnx.load(str(file))
    model.graph.node[1].input[1] = "nowhere"
    file.write_bytes(model.SerializeToString())
    with pytest.raises(InvalidInput, match="takes 'nowhere', which nothing yields"):
        contents.read(file)
