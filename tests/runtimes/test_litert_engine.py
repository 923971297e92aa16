"""LiteRT: what runs on which integers, what the delegate took, other batches, scales of inputs and outputs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("ai_edge_litert")

from runtimes.errors import InvalidInputs, InvalidModel
from runtimes.facts import engine_of
from runtimes.runtime import Options, TensorSpec, load
from tests.support.litert_files import integer_file, linear_file


@pytest.fixture
def linear(tmp_path: Path) -> tuple[Path, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    weight, bias = rng.standard_normal((4, 5)), rng.standard_normal(5)
    file = tmp_path / "linear.tflite"
    file.write_bytes(linear_file(weight, bias))
    return file, weight, bias


def test_names_of_the_signature_and_an_open_batch(linear: tuple[Path, np.ndarray, np.ndarray]) -> None:
    file, weight, bias = linear
    assert engine_of(file) == "litert"
    runtime = load(file, options=Options(threads=2))
    assert runtime.inputs == (TensorSpec("x", (None, 4), "float32"),)
    assert runtime.outputs == (TensorSpec("y", (None, 5), "float32"),)
    rng = np.random.default_rng(1)
    for batch in (1, 3, 3, 2, 1):
        x = rng.standard_normal((batch, 4)).astype(np.float32)
        np.testing.assert_allclose(runtime.run({"x": x})["y"], np.maximum(x @ weight + bias, 0), rtol=1e-4, atol=1e-5)
    strided = rng.standard_normal((2, 8)).astype(np.float32)[:, ::2]
    expected = np.maximum(strided @ weight + bias, 0)
    np.testing.assert_allclose(runtime.run({"x": strided})["y"], expected, rtol=1e-4, atol=1e-5)


def test_outputs_are_the_callers_own(linear: tuple[Path, np.ndarray, np.ndarray]) -> None:
    runtime = load(linear[0])
    x = np.ones((1, 4), np.float32)
    first = runtime.run({"x": x})["y"]
    kept = first.copy()
    runtime.run({"x": -5 * x})
    np.testing.assert_array_equal(first, kept)


def test_the_file_may_go_while_it_is_loaded(linear: tuple[Path, np.ndarray, np.ndarray]) -> None:
    runtime = load(linear[0])
    linear[0].write_bytes(b"")
    assert runtime.run({"x": np.ones((1, 4), np.float32)})["y"].shape == (1, 5)


def test_the_delegate_took_the_float_layer(linear: tuple[Path, np.ndarray, np.ndarray]) -> None:
    runtime = load(linear[0])
    graph = runtime.executed_graph()
    assert graph is not None
    assert (graph.integer, graph.float, graph.ops) == (0, 1, {"XNNPACK:FULLY_CONNECTED": 1})
    assert graph.float_nodes == ("result",)
    assert graph.providers == {"XNNPACK": 1} and graph.fallen_back == () and graph.fallback_share is None
    runtime.close()
    with pytest.raises(InvalidModel, match="closed"):
        runtime.executed_graph()


def test_integers_run_as_integers(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    weight = rng.integers(-127, 128, (4, 5))
    file = tmp_path / "integers.tflite"
    file.write_bytes(integer_file(weight, (0.02, 0.01, 0.05)))
    runtime = load(file)
    (taken,), (given,) = runtime.inputs, runtime.outputs
    assert (taken.name, taken.shape, taken.dtype, taken.zero_point) == ("x", (1, 4), "int8", 0)
    assert taken.scale == pytest.approx(0.02)
    assert (given.dtype, given.zero_point, given.scale) == ("int8", -128, pytest.approx(0.05))  # type: ignore[comparison-overlap]
    graph = runtime.executed_graph()
    assert graph is not None and (graph.integer, graph.float) == (1, 0)
    x = rng.integers(-128, 128, (1, 4)).astype(np.int8)
    expected = np.clip(np.rint((x.astype(int) @ weight) * 0.02 * 0.01 / 0.05) - 128, -128, 127)
    assert np.abs(runtime.run({"x": x})["y"].astype(int) - expected).max() <= 1
    with pytest.raises(InvalidInputs, match="expected int8"):
        runtime.run({"x": x.astype(np.float32)})
    with pytest.raises(InvalidInputs, match="expected"):
        runtime.run({"x": np.concatenate([x, x])})


def test_nothing_is_said_on_the_console(
    linear: tuple[Path, np.ndarray, np.ndarray], capfd: pytest.CaptureFixture[str]
) -> None:
    load(linear[0]).run({"x": np.ones((1, 4), np.float32)})
    assert capfd.readouterr() == ("", "")
