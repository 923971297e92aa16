"""What is particular to OpenVINO: precisions, weights beside the file, open batches, what really ran."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

ov = pytest.importorskip("openvino")

from runtimes.engines import openvino as backend  # noqa: E402
from runtimes.errors import InvalidInputs, InvalidModel  # noqa: E402
from runtimes.runtime import Options, Runtime, load, size_bytes  # noqa: E402

Models = dict[str, Callable[..., onnx.ModelProto]]
Written = Callable[..., Path]
Facts = dict[tuple[str, ...], str]


@pytest.fixture
def written(tmp_path: Path, models: Models) -> Written:
    """A file of OpenVINO, made of an ONNX model by OpenVINO alone."""

    def write(
        name: str, *arguments: object, half: bool = False, facts: dict[tuple[str, ...], str] | None = None
    ) -> Path:
        network = ov.Core().read_model(models[name](*arguments).SerializeToString())
        for path, value in (facts or {}).items():
            network.set_rt_info(value, list(path))
        file = tmp_path / f"{name}.xml"
        ov.save_model(network, file, compress_to_fp16=half)
        return file

    return write


@pytest.fixture
def linear_file(written: Written) -> Path:
    return written("linear", "N")


def random(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def run(runtime: Runtime, x: np.ndarray) -> np.ndarray:
    return runtime.run({"x": x})["y"]


def test_a_float_file_runs_in_float32(written: Written) -> None:
    """And not in bfloat16, which the plugin chooses by itself where the processor has it."""
    file = written("float")
    x = random((4, 3, 8, 8))
    outputs = run(load(file), x)
    exact = ov.Core().compile_model(str(file), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(x)[0]
    np.testing.assert_allclose(outputs, exact, rtol=1e-5, atol=1e-5)
    graph = load(file).executed_graph()
    assert graph is not None and graph.integer == 0
    assert {"Convolution", "Pooling"} <= set(graph.ops) and graph.float >= 4
    assert all(node.duration_ms >= 0 for node in graph.nodes)


def test_integers_are_told_from_floats(written: Written) -> None:
    for inside in (False, True):
        graph = load(written("int8", inside)).executed_graph(runs=3)
        assert graph is not None
        ran = {node.op: node.kind for node in graph.nodes}
        assert ran["Convolution"] == "integer" and ran["Pooling"] == "integer"
        assert (graph.float > 0) == inside, graph
        assert graph.other >= 1, "the input is rounded"


def test_weights_in_half_precision_are_stored_in_it(written: Written) -> None:
    plain = written("heavy", 1)
    whole = size_bytes(plain, "openvino")
    x = random((1, 1024))
    expected = run(load(plain), x)
    half = written("heavy", 1, half=True)
    assert size_bytes(half, "openvino") < 0.6 * whole
    np.testing.assert_allclose(run(load(half), x), expected, rtol=2e-3)


def test_an_open_batch_is_compiled_for_the_shapes_it_meets(linear_file: Path, reference: Callable[..., Any]) -> None:
    runtime = load(linear_file)
    assert isinstance(runtime, backend.Session)
    for batch in (1, 5, 2, 1, 5, 3):
        x = random((batch, 4), batch)
        np.testing.assert_allclose(run(runtime, x), reference(x), rtol=1e-5, atol=1e-6)
        assert len(runtime._requests) <= backend.KEPT_SHAPES
    transposed = random((4, 6)).T
    np.testing.assert_allclose(run(runtime, transposed), reference(transposed), rtol=1e-5, atol=1e-6)


def test_outputs_are_not_overwritten_by_the_next_run(linear_file: Path) -> None:
    runtime = load(linear_file)
    first = run(runtime, random((1, 4), 1))
    kept = first.copy()
    run(runtime, random((1, 4), 2))
    np.testing.assert_array_equal(first, kept)


def test_a_fixed_batch_takes_no_other(written: Written) -> None:
    runtime = load(written("linear", 2))
    assert runtime.inputs[0].shape == (2, 4)
    with pytest.raises(InvalidInputs, match=r"expected x float32\[2, 4\]"):
        runtime.run({"x": random((1, 4))})


def test_what_integers_stand_for_is_read(written: Written) -> None:
    facts = {("quantization", "x", "scale"): "0.25", ("quantization", "x", "zero_point"): "7"}
    runtime = load(written("linear", "N", facts=facts))
    assert (runtime.inputs[0].scale, runtime.inputs[0].zero_point) == (0.25, 7)
    assert (runtime.outputs[0].scale, runtime.outputs[0].zero_point) == (None, 0)


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_cut_weights_are_refused(share: float, linear_file: Path) -> None:
    weights = linear_file.with_suffix(".bin")
    assert backend.parts(linear_file) == (linear_file, weights)
    assert size_bytes(linear_file, "openvino") == linear_file.stat().st_size + weights.stat().st_size
    content = weights.read_bytes()
    weights.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(InvalidModel, match="cannot load it"):
        load(linear_file)


def test_missing_weights_are_named(linear_file: Path) -> None:
    linear_file.with_suffix(".bin").unlink()
    with pytest.raises(InvalidModel, match=r"linear.bin is missing"):
        load(linear_file)


def test_no_reader_complains_of_what_is_no_xml(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bad.xml").write_bytes(b"not a network")
    with pytest.raises(InvalidModel, match="expected XML"):
        load(tmp_path / "bad.xml")
    assert capfd.readouterr() == ("", "")


def test_onnx_runs_too_when_the_engine_is_named(linear: Path, reference: Callable[..., Any]) -> None:
    x = random((3, 4))
    np.testing.assert_allclose(run(load(linear, "openvino", Options(threads=2)), x), reference(x), rtol=1e-5, atol=1e-6)


def test_closed_is_closed(linear_file: Path) -> None:
    runtime = load(linear_file)
    runtime.close()
    for call in (lambda: runtime.run({"x": random((1, 4))}), lambda: runtime.executed_graph()):
        with pytest.raises(InvalidModel, match="closed"):
            call()
