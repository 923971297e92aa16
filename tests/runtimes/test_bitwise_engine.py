"""The engine of bit layers: every instruction set that runs here, bit for bit against loops over windows."""

from __future__ import annotations

import platform
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, numpy_helper

from export.onnx.bits.bitwise import BitLayer, pack_rows
from runtimes.bitwise import build
from runtimes.bitwise.__main__ import main as compile_now
from runtimes.bitwise.known import FILE, NAMES
from runtimes.bitwise.wire import bit_layers, without_functions
from runtimes.engines.bitwise import KERNELS, Session
from runtimes.errors import InvalidInputs, InvalidModel
from runtimes.runtime import Options, available, load
from tests.support.bit_files import known_model, model_of, naive, tensors_of

Tensors = dict[str, NDArray[Any]]
Saved = Callable[[ModelProto, str], Path]
SOURCES = Path(build.__file__).parent
ARM = "aarch64-linux-gnu-g++", "qemu-aarch64-static"


@pytest.fixture(scope="session")
def library() -> Path:
    try:
        return build.library()
    except build.BuildFailed as error:
        pytest.skip(str(error))


@pytest.fixture(params=NAMES)
def kernels(request: pytest.FixtureRequest, library: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of kernels that run here, which every file that is loaded gets."""
    if build.choose(library, request.param) is None:
        pytest.skip(f"this processor ({platform.machine()}) does not run the kernels {request.param}")
    monkeypatch.setenv(KERNELS, request.param)
    return str(request.param)


def opened(file: Path, threads: int = 1) -> Session:
    runtime = load(file, "bitwise", Options(threads))
    assert isinstance(runtime, Session)
    return runtime


def whole(layer: BitLayer, two: bool = False, seed: int = 0) -> Tensors:
    """Tensors whose outputs are whole numbers: scales of 1, or 1 and 2."""
    tensors = tensors_of(layer, two, bias=False, seed=seed)
    tensors["S"] = np.ones_like(tensors["S"]) * (np.array([[1], [2]], np.float32) if two else np.float32(1))
    return tensors


def input_of(layer: BitLayer, tensors: Tensors, batch: int = 2, size: tuple[int, int] = (9, 10)) -> NDArray[np.float32]:
    """Random values, of which some are exactly at the threshold, or halfway between two steps."""
    inputs, rng = layer.weight_shape[1] * layer.group, np.random.default_rng(11)
    shape = (batch, inputs, *size) if layer.operation == "BitConv" else (batch, 3, inputs)
    x = rng.standard_normal(shape).astype(np.float32) * np.float32(1 if layer.activation == "sign" else 4)
    chosen = rng.random(shape) < 0.3
    if layer.activation == "unsigned":
        tensors["A"] = np.array([2], np.float32)
        return np.where(chosen, (np.rint(x * 2) + np.float32(0.5)) / 2, x).astype(np.float32)
    a = tensors["A"].reshape(-1, 1, 1) if layer.operation == "BitConv" else tensors["A"]
    return np.where(chosen, a, x).astype(np.float32)


def drawn(seed: int) -> tuple[BitLayer, bool]:
    """A random layer."""
    rng = np.random.default_rng(seed)
    bits, sign = int(rng.integers(1, 3)), bool(rng.integers(2))
    group, taps = int(rng.choice([1, 1, 2, 3])), rng.choice([1, 2, 3, 5], 2)
    shape = (group * int(rng.integers(1, 14)), int(rng.choice([1, 3, 5, 8, 16, 17, 33])), int(taps[0]), int(taps[1]))
    pads = tuple(int(rng.integers(0, taps[i % 2] + 1)) for i in range(4))
    strides, dilations = (tuple(int(n) for n in rng.integers(1, 3, 2)) for _ in range(2))
    layer = BitLayer(
        shape,
        bits,
        "sign" if sign else "unsigned",
        1 if sign else int(rng.integers(1, 9)),
        strides,  # type: ignore[arg-type]
        pads,  # type: ignore[arg-type]
        dilations,  # type: ignore[arg-type]
        group,
    )
    return layer, bits == 2 and bool(rng.integers(2))


CASES: dict[str, tuple[BitLayer, bool]] = {
    "100 channels, 1x1": (BitLayer((40, 100, 1, 1), 1, "sign"), False),
    "256 channels": (BitLayer((70, 256, 3, 3), 1, "sign", pads=(1, 1, 1, 1)), False),
    "17 channels, 5x5": (BitLayer((35, 17, 5, 5), 2, "sign", pads=(2, 2, 2, 2), strides=(2, 2)), False),
    "5 channels, dilated": (BitLayer((9, 5, 3, 3), 1, "sign", pads=(2, 1, 2, 3), dilations=(2, 1)), False),
    "3 channels, 8 bits": (BitLayer((33, 3, 3, 3), 2, "unsigned", 8, pads=(1, 1, 1, 1)), False),
    "depthwise": (BitLayer((20, 1, 3, 3), 1, "sign", pads=(1, 1, 1, 1), group=20), False),
    "depthwise, two scales": (BitLayer((20, 1, 3, 3), 2, "unsigned", 2, pads=(1, 1, 1, 1), group=20), True),
    "grouped": (BitLayer((12, 9, 3, 3), 2, "unsigned", 3, pads=(1, 1, 1, 1), group=4), True),
    "two scales, signs": (BitLayer((34, 32, 3, 3), 2, "sign", pads=(1, 1, 1, 1)), True),
    "wide kernel": (BitLayer((8, 40, 5, 9), 1, "unsigned", 2, pads=(2, 4, 2, 4)), False),
    "linear": (BitLayer((45, 300), 1, "sign"), False),
    "linear, 4 bits": (BitLayer((7, 77), 2, "unsigned", 4), True),
    **{
        f"2 bits by {bits}": (BitLayer((6, 8, 3, 3), 2, "unsigned", bits, pads=(1, 0, 1, 0)), False)
        for bits in range(1, 9)
    },
    **{f"drawn {seed}": drawn(seed) for seed in range(24)},
}


@pytest.mark.parametrize("name", CASES)
def test_sums_are_exact(name: str, kernels: str, saved: Saved) -> None:
    layer, two = CASES[name]
    tensors = whole(layer, two)
    x = input_of(layer, tensors)
    file = saved(model_of([(layer, tensors)], ["N", *x.shape[1:]]), "net.onnx")
    runtime = opened(file)
    assert runtime.kernels == kernels
    expected = naive(layer, tensors, x)
    assert np.abs(expected).max() < 2**24
    np.testing.assert_array_equal(runtime.run({"x": x})["y"], expected)
    np.testing.assert_array_equal(load(file, "onnxruntime").run({"x": x})["y"], expected)


def test_weights_of_minus_two(kernels: str, saved: Saved) -> None:
    for activation, bits in (("sign", 1), ("unsigned", 3)):
        layer = BitLayer((11, 6, 3, 3), 2, activation, bits, pads=(1, 1, 1, 1))  # type: ignore[arg-type]
        tensors = whole(layer)
        tensors["W"] = np.random.default_rng(3).integers(-2, 2, layer.weight_shape)
        x = input_of(layer, tensors)
        runtime = opened(saved(model_of([(layer, tensors)], ["N", *x.shape[1:]]), "net.onnx"))
        np.testing.assert_array_equal(runtime.run({"x": x})["y"], naive(layer, tensors, x))


@pytest.mark.parametrize("size", [(1, 1), (3, 2), (4, 4), (5, 13), (17, 16)])
def test_images_of_any_size(size: tuple[int, int], kernels: str, saved: Saved) -> None:
    for activation, bits in (("sign", 1), ("unsigned", 4)):
        layer = BitLayer((10, 37, 3, 3), 2, activation, bits, pads=(1, 1, 1, 1))  # type: ignore[arg-type]
        tensors = whole(layer)
        runtime = opened(saved(model_of([(layer, tensors)], ["N", 37, "H", "W"]), "net.onnx"))
        for batch in (1, 3):
            x = input_of(layer, tensors, batch, size)
            runtime = opened(saved(model_of([(layer, tensors)], ["N", 37, "H", "W"]), "net.onnx"))
            np.testing.assert_array_equal(runtime.run({"x": x})["y"], naive(layer, tensors, x))


def test_scales_and_biases(kernels: str, saved: Saved) -> None:
    for layer, two in (CASES["two scales, signs"], CASES["256 channels"], CASES["linear"]):
        tensors = tensors_of(layer, two)
        x = input_of(layer, tensors)
        runtime = opened(saved(model_of([(layer, tensors)], ["N", *x.shape[1:]]), "net.onnx"))
        np.testing.assert_allclose(runtime.run({"x": x})["y"], naive(layer, tensors, x), rtol=1e-5, atol=1e-4)


def test_no_number_is_below_every_threshold(kernels: str, saved: Saved) -> None:
    for activation in ("sign", "unsigned"):
        layer = BitLayer((1, 1, 1, 1), 1, activation)
        tensors = {"W": np.ones((1, 1, 1, 1), int), "S": np.ones(1, np.float32), "A": np.array([1], np.float32)}
        x = np.full((1, 1, 4, 5), np.nan, np.float32)
        runtime = opened(saved(model_of([(layer, tensors)], ["N", 1, "H", "W"]), "net.onnx"))
        assert set(runtime.run({"x": x})["y"].flat) == {-1.0 if activation == "sign" else 0.0}


def test_threads_share_the_outputs(kernels: str, saved: Saved) -> None:
    layer, two = CASES["256 channels"]
    tensors = tensors_of(layer, two)
    x = input_of(layer, tensors)
    file = saved(model_of([(layer, tensors)], ["N", *x.shape[1:]]), "net.onnx")
    one, several = (opened(file, threads).run({"x": x})["y"] for threads in (1, 3))
    np.testing.assert_array_equal(one, several)


def test_specs_and_executed_nodes(kernels: str) -> None:
    runtime, plain = opened(FILE), load(FILE, "onnxruntime")
    assert (runtime.inputs, runtime.outputs) == (plain.inputs, plain.outputs)
    graph = runtime.executed_graph()
    assert [(node.op, node.kind) for node in graph.nodes if node.op != "Flatten"] == [
        (f"BitConv 1-bit x 1-bit {kernels}", "integer"),
        (f"BitConv 2-bit x 2-bit {kernels}", "integer"),
        (f"BitGemm 2-bit x 1-bit {kernels}", "integer"),
    ]
    assert all(node.duration_ms > 0 for node in graph.nodes)


def test_other_operators_are_optimized_as_ever(library: Path, saved: Saved, models: dict[str, Any]) -> None:
    file = saved(models["float"](), "net.onnx")
    ours, plain = opened(file), load(file, "onnxruntime")
    assert ours.kernels == "none"
    assert ours.executed_graph().ops == plain.executed_graph().ops  # type: ignore[union-attr]


def damaged(change: Callable[[onnx.GraphProto], None]) -> ModelProto:
    layer = BitLayer((6, 16, 3, 3), 2, "sign", pads=(1, 1, 1, 1))
    model = model_of([(layer, whole(layer))], ["N", 16, 5, 5])
    change(model.graph)
    return model


def stored(name: str, value: NDArray[Any]) -> Callable[[onnx.GraphProto], None]:
    def change(graph: onnx.GraphProto) -> None:
        tensor = next(each for each in graph.initializer if each.name == f"{name}0")
        tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))

    return change


def attribute(name: str, value: int | bytes | list[int]) -> Callable[[onnx.GraphProto], None]:
    def change(graph: onnx.GraphProto) -> None:
        old = next(each for each in graph.node[0].attribute if each.name == name)
        graph.node[0].attribute.remove(old)
        graph.node[0].attribute.append(onnx.helper.make_attribute(name, value))

    return change


def two_scales_of_minus_two(graph: onnx.GraphProto) -> None:
    stored("S", np.ones((2, 6), np.float32))(graph)
    stored("W", pack_rows(np.full((6, 144), -2), 2))(graph)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (stored("W", np.zeros((6, 35), np.uint8)), r"W: expected uint8 \(6, 36\), got \(6, 35\)"),
        (stored("W", np.zeros((6, 6, 6), np.uint8)), r"W: expected \(M, bytes\)"),
        (stored("S", np.ones(5, np.float32)), r"S: expected \(6,\) or \(2, 6\), got \(5,\)"),
        (stored("A", np.ones(2, np.float32)), r"A: expected \(1,\) or \(16,\), got \(2,\)"),
        (two_scales_of_minus_two, "S: two scales need weights of -1, 0 and 1"),
        (attribute("weight_bits", 3), "weight_bits: expected 1 or 2"),
        (attribute("activation", b"relu"), "activation: expected sign"),
        (attribute("pads", [1, 1]), "pads: expected 4 numbers"),
        (attribute("group", 4), "group: expected a divisor"),
    ],
)
def test_broken_layers_are_one_clear_error(
    change: Callable[[onnx.GraphProto], None], message: str, library: Path, saved: Saved
) -> None:
    file = saved(damaged(change), "broken.onnx")
    with pytest.raises(InvalidModel, match=message) as caught:
        opened(file)
    assert "broken.onnx" in str(caught.value) and "\n" not in str(caught.value)


def test_wrong_inputs_and_files_are_refused(library: Path, tmp_path: Path) -> None:
    runtime = opened(FILE)
    for wrong in ({"x": np.zeros((1, 4, 6, 7), np.float32)}, {"x": np.zeros((1, 5, 6, 7))}, {}):
        with pytest.raises(InvalidInputs, match="expected"):
            runtime.run(wrong)
    runtime.close()
    with pytest.raises(InvalidModel, match="closed"):
        runtime.run({"x": np.zeros((1, 5, 6, 7), np.float32)})
    content = FILE.read_bytes()
    for damage in (content[: len(content) // 2], b"\0" * 64, b"not a model at all\n" * 50, content[:-1]):
        bad = tmp_path / "bad.onnx"
        bad.write_bytes(damage)
        with pytest.raises(InvalidModel, match="bad"):
            opened(bad)


def test_walk_finds_layers_and_leaves_other_bytes_alone() -> None:
    model = known_model()
    content = model.SerializeToString()
    assert bit_layers(content) == {
        "layer0": "1-bit x 1-bit",
        "layer1": "2-bit x 2-bit",
        "layer2": "2-bit x 1-bit",
    }
    model.ClearField("functions")
    assert onnx.load_from_string(without_functions(content)) == model
    with pytest.raises(ValueError, match="ends within"):
        bit_layers(content[:-3])


def test_without_a_compiler_functions_run_in_floats_and_it_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, saved: Saved
) -> None:
    for name, value in (("PATH", ""), ("EDGEPRESS_CACHE", str(tmp_path / "none"))):
        monkeypatch.setenv(name, value)
    for name in ("CXX", KERNELS, build.LIBRARY):
        monkeypatch.delenv(name, raising=False)
    with pytest.warns(RuntimeWarning, match=r"no C\+\+ compiler is here: install") as told:
        runtime = opened(FILE)
    assert len(told) == 1
    assert runtime.kernels.startswith("none: no C++ compiler")
    assert "in floats (no C++ compiler" in (available("bitwise")[0] or "")
    x = np.random.default_rng(0).standard_normal((2, 5, 6, 7)).astype(np.float32)
    np.testing.assert_array_equal(runtime.run({"x": x})["y"], load(FILE, "onnxruntime").run({"x": x})["y"])
    graph = runtime.executed_graph({"x": x})
    assert "Conv" in graph.ops and graph.float > 0
    assert compile_now([]) == 3


def test_failing_compiler_and_wrong_library_are_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    failing = tmp_path / "failing-c++"
    failing.write_text("#!/bin/sh\necho 'fatal error: no header' >&2\nexit 1\n")
    failing.chmod(0o755)
    monkeypatch.setenv("CXX", str(failing))
    monkeypatch.setenv("EDGEPRESS_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv(KERNELS, raising=False)
    monkeypatch.delenv(build.LIBRARY, raising=False)
    with pytest.warns(RuntimeWarning, match="cannot compile the kernels .*no header"):
        assert opened(FILE).run({"x": np.zeros((1, 5, 6, 7), np.float32)})["y"].shape == (1, 4)
    assert not list((tmp_path / "cache").rglob("*.so"))
    monkeypatch.setenv(build.LIBRARY, str(failing))
    with pytest.warns(RuntimeWarning, match="cannot be loaded"):
        opened(FILE)
    monkeypatch.setenv(build.LIBRARY, str(tmp_path / "missing.so"))
    with pytest.warns(RuntimeWarning, match="no file"):
        opened(FILE)


def test_kernels_are_named_by_a_variable(library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KERNELS, "none")
    with pytest.warns(RuntimeWarning, match="EDGEPRESS_BITWISE is none"):
        assert opened(FILE).kernels.startswith("none")
    monkeypatch.setenv(KERNELS, "sse9")
    with pytest.raises(InvalidInputs, match="sse9"):
        opened(FILE)


def test_library_is_made_once_and_can_be_carried(
    library: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    before = library.stat().st_mtime_ns
    assert build.library() == library and library.stat().st_mtime_ns == before
    carried = tmp_path / "carried.so"
    assert compile_now([str(carried)]) == 0
    monkeypatch.setenv(build.LIBRARY, str(carried))
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv(KERNELS, raising=False)
    assert opened(FILE).kernels in NAMES


def test_wheel_holds_the_sources() -> None:
    import tomllib

    settings = tomllib.loads((SOURCES.parents[1] / "pyproject.toml").read_text(encoding="utf-8"))
    patterns = settings["tool"]["setuptools"]["package-data"]["runtimes.bitwise"]
    packed = {file.name for pattern in patterns for file in SOURCES.glob(pattern)}
    assert packed == {file.name for file in SOURCES.iterdir() if file.is_file() and file.suffix != ".py"}


def test_neon_counts_as_plain_code_does(tmp_path: Path) -> None:
    missing = [name for name in ARM if shutil.which(name) is None]
    if missing:
        pytest.skip(f"{' and '.join(missing)}: apt-get install g++-aarch64-linux-gnu qemu-user-static")
    program = tmp_path / "compare"
    files = [str(SOURCES / name) for name in ("compare.cpp", "prepare.cpp", "scalar.cpp", "neon.cpp")]
    flags = ["-std=c++17", "-O3", "-ffp-contract=off", "-static"]
    subprocess.run([ARM[0], *flags, *files, "-o", str(program)], check=True)
    done = subprocess.run([ARM[1], str(program)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert done.stdout.splitlines()[-1].startswith("neon: 60 layers agree")
