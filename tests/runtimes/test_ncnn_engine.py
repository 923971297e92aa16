"""What is particular to ncnn: two files, samples for batches, precision, integers, and what it tells of a run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("ncnn")

from runtimes.errors import InvalidInputs, InvalidModel
from runtimes.facts import engine_of
from runtimes.runtime import Options, load, size_bytes
from tests.support.ncnn_files import FLOAT, HALF, INTEGER, floats, linear, network, weight

RNG = np.random.default_rng(0)
W = RNG.standard_normal((48, 16)).astype(np.float32)
B = RNG.standard_normal(16).astype(np.float32)
X = RNG.standard_normal((3, 48)).astype(np.float32)
Y = np.maximum(X.astype(np.float64) @ W + B, 0)


def test_samples_are_run_one_by_one(tmp_path: Path) -> None:
    file = linear(tmp_path / "net.param", W, B)
    assert engine_of(file) == "ncnn"
    runtime = load(file, options=Options(threads=2))
    assert [str(spec) for spec in (*runtime.inputs, *runtime.outputs)] == ["in0 float32[?, 48]", "out0 float32[?, 16]"]
    np.testing.assert_allclose(runtime.run({"in0": X})["out0"], Y, rtol=1e-5, atol=1e-5)
    assert runtime.run({"in0": X[:0]})["out0"].shape == (0, 16)
    assert size_bytes(file) == file.stat().st_size + (tmp_path / "net.bin").stat().st_size


@pytest.mark.parametrize("tag", [FLOAT, HALF])
def test_precision_is_that_of_the_file(tag: int, tmp_path: Path) -> None:
    """ncnn multiplies in 16 bits by default, wherever it can."""
    runtime = load(linear(tmp_path / "net.param", W, B, tag))
    stored = W.astype(np.float16).astype(np.float64) if tag == HALF else W
    y = runtime.run({"in0": X})["out0"]
    error = np.abs(y - np.maximum(X.astype(np.float64) @ stored + B, 0)).max() / Y.max()
    assert error < (2e-3 if tag == HALF else 1e-6)


def test_input_is_left_as_it_was(tmp_path: Path) -> None:
    """ncnn computes in place."""
    runtime = load(network(tmp_path / "net.param", ["Input a 0 1 a 0=5 1=3 2=2", "ReLU r 1 1 a b"]))
    x = RNG.standard_normal((2, 2, 3, 5)).astype(np.float32)
    before = x.copy()
    np.testing.assert_array_equal(runtime.run({"a": x})["b"], np.maximum(before, 0))
    np.testing.assert_array_equal(x, before)


def integer_convolution(path: Path, *, chained: bool) -> tuple[Path, np.ndarray, np.ndarray]:
    """Two convolutions in integers, the first of which yields integers if ``chained``; an input, and the result."""
    one, two = RNG.integers(-127, 128, (8, 3, 3, 3)), RNG.integers(-127, 128, (16, 8))
    bias = RNG.standard_normal(8)
    scales = RNG.uniform(100, 200, 8).astype(np.float32), RNG.uniform(100, 200, 16).astype(np.float32)
    lines = [
        "Input in0 0 1 in0 0=9 1=7 2=3",
        f"Convolution first 1 1 in0 mid 0=8 1=3 4=1 5=1 6=216 8={102 if chained else 2} 9=1",
        "Convolution second 1 1 mid out0 0=16 1=1 6=128 8=2",
    ]
    binary = weight(one, INTEGER) + floats(bias, scales[0], 40) + (floats(3.5) if chained else b"")
    binary += weight(two, INTEGER) + floats(scales[1], 3.5)
    x = RNG.standard_normal((1, 3, 7, 9)).astype(np.float32)
    padded = np.pad(np.clip(np.rint(x[0] * 40), -127, 127), ((0, 0), (1, 1), (1, 1)))
    sums = np.zeros((8, 7, 9))
    for row in range(3):
        for column in range(3):
            sums += np.einsum("oi,ihw->ohw", one[:, :, row, column], padded[:, row : row + 7, column : column + 9])
    middle = np.maximum(sums / (scales[0] * 40)[:, None, None] + bias[:, None, None], 0)
    middle = np.clip(np.rint(middle * 3.5), -127, 127)
    return network(path, lines, binary), x, np.einsum("oi,ihw->ohw", two, middle) / (scales[1] * 3.5)[:, None, None]


@pytest.mark.parametrize("chained", [True, False])
def test_integers_are_multiplied_as_integers(chained: bool, tmp_path: Path) -> None:
    file, x, y = integer_convolution(tmp_path / "net.param", chained=chained)
    runtime = load(file)
    np.testing.assert_allclose(runtime.run({"in0": x})["out0"][0], y, rtol=1e-5, atol=1e-4)
    graph = runtime.executed_graph({"in0": x}, runs=2)
    assert graph is not None
    assert [(node.name, node.op, node.kind) for node in graph.nodes] == [
        ("first", "Convolution", "integer"),
        ("second", "Convolution", "integer"),
    ]
    assert all(node.duration_ms > 0 for node in graph.nodes)


def test_executed_graph_tells_floats_from_moves(tmp_path: Path) -> None:
    lines = ["Input in0 0 1 in0 0=4 1=4 2=2", "ReLU r 1 1 in0 a", "Flatten f 1 1 a b", "Softmax s 1 1 b out0"]
    graph = load(network(tmp_path / "net.param", lines)).executed_graph()
    assert graph is not None
    assert [node.kind for node in graph.nodes] == ["float", "other", "float"]


def test_inputs_of_unequal_batches(tmp_path: Path) -> None:
    lines = ["Input a 0 1 a 0=3", "Input b 0 1 b 0=3", "BinaryOp add 2 1 a b out0"]
    runtime = load(network(tmp_path / "net.param", lines))
    x = RNG.standard_normal((2, 3)).astype(np.float32)
    np.testing.assert_allclose(runtime.run({"a": x, "b": x})["out0"], 2 * x)
    with pytest.raises(InvalidInputs, match="as many samples"):
        runtime.run({"a": x, "b": x[:1]})


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_weights_that_are_missing_or_cut(share: float, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file = linear(tmp_path / "net.param", W, B)
    weights = tmp_path / "net.bin"
    weights.write_bytes(weights.read_bytes()[: int(weights.stat().st_size * share)])
    with pytest.raises(InvalidModel, match=r"net\.bin"):
        load(file)
    weights.unlink()
    with pytest.raises(InvalidModel, match=r"net\.bin beside it"):
        load(file)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["Input in0 0 1 in0", "ReLU r 1 1 in0 out0"], "0=width"),
        (["Input in0 0 1 in0 0=3", "Nonesuch r 1 1 in0 out0"], "Nonesuch"),
    ],
)
def test_files_that_cannot_be_run(
    lines: list[str], message: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(InvalidModel, match=message) as caught:
        load(network(tmp_path / "net.param", lines))
    assert "\n" not in str(caught.value)
    assert capfd.readouterr().err == ""
