"""TensorRT as an engine against an imitation of its API: calls that are made, what is told of layers and errors."""

from __future__ import annotations

import ctypes
import importlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runtimes.devices import cuda
from runtimes.errors import EngineMissing, InvalidInputs, InvalidModel
from runtimes.runtime import Runtime, available, load
from runtimes.tensorrt.layers import layers_in
from tests.support.imitated_tensorrt import Imitation

TENSORS = [{"name": "x", "input": True, "shape": [-1, 4]}, {"name": "y", "input": False, "shape": [-1, 5]}]
NAME = "runtimes.engines.tensorrt"
INT8, FLOAT = {"Datatype": "Int8"}, {"Datatype": "Float"}


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch, reference: Callable[..., Any]) -> Iterator[Imitation]:
    made = Imitation(compute=reference)
    monkeypatch.setitem(sys.modules, "tensorrt", made.module())
    monkeypatch.setattr(cuda, "Cuda", made.cuda)
    monkeypatch.delitem(sys.modules, NAME, raising=False)
    yield made
    sys.modules.pop(NAME, None)
    package = importlib.import_module("runtimes.engines")
    package.__dict__.pop("tensorrt", None)


def engine(folder: Path, tensors: list[dict[str, Any]] | None = None) -> Path:
    file = folder / "net.engine"
    file.write_text(json.dumps({"tensors": tensors or TENSORS}))
    return file


def random(batch: int) -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(batch).standard_normal((batch, 4)).astype(np.float32)}


def test_it_runs_by_names_in_the_documented_order(
    world: Imitation, tmp_path: Path, reference: Callable[..., Any]
) -> None:
    runtime = load(engine(tmp_path))
    assert isinstance(runtime, Runtime)
    assert [str(spec) for spec in (*runtime.inputs, *runtime.outputs)] == ["x float32[?, 4]", "y float32[?, 5]"]
    for batch in (2, 3, 1):
        x = random(batch)
        np.testing.assert_allclose(runtime.run(x)["y"], reference(x["x"]), rtol=1e-5)
    order = [call[0] for call in world.calls]
    first = order[order.index("set_input_shape") :][:9]
    assert first == [
        *("set_input_shape", "allocate", "copy_to_device", "set_tensor_address", "allocate", "set_tensor_address"),
        *("execute_async_v3", "copy_to_host", "synchronize"),
    ]
    assert world.named("allocate") == [(32,), (40,), (48,), (60,)], "memory grows, and is used again"
    runtime.close()
    runtime.close()
    assert not world.memory and order.count("stream") == len(world.named("destroy")) == 1
    with pytest.raises(InvalidModel, match="closed"):
        runtime.run(random(1))


def test_layers_are_told_with_their_types_and_times(world: Imitation, tmp_path: Path) -> None:
    graph = load(engine(tmp_path)).executed_graph(random(2), runs=3)
    assert graph is not None
    assert [(node.name, node.kind, node.duration_ms) for node in graph.nodes] == [
        ("inputs to the GPU", "other", 0.25),
        ("Reformatting CopyNode for x", "other", 0.5),
        ("conv + relu", "integer", 1.0),
        ("softmax", "float", 1.5),
        ("outputs from the GPU", "other", 0.25),
    ]
    assert len(world.named("execute_async_v3")) == 3 + 3, "copies are timed without the profiler"
    assert len(world.named("event")) == len(world.named("destroy_event")) == 4
    order = [call[0] for call in world.calls]
    assert order[order.index("record") :][: order.index("synchronize") - order.index("record")] == [
        *("record", "set_input_shape", "allocate", "copy_to_device", "set_tensor_address", "record"),
        *("allocate", "set_tensor_address", "execute_async_v3", "record", "copy_to_host", "record"),
    ]
    world.layers = ["conv + relu", "softmax", "copy"]
    assert load(engine(tmp_path)).executed_graph() is None, "names alone tell no types"


@pytest.mark.parametrize(
    ("layer", "kind"),
    [
        ({"Name": "__myl_CastMulReluMulMinMaxRounCast_myl0_4", "LayerType": "kgen", "Inputs": [INT8]}, "float"),
        ({"Name": "__myl_MulMinMaxRounCastReplConc_myl0_1", "LayerType": "kgen", "Inputs": [FLOAT]}, "other"),
        ({"Name": "__myl_ReshMove_myl0_1", "LayerType": "kgen", "Inputs": [INT8]}, "other"),
        ({"Name": "a", "LayerType": "kgen", "Inputs": [{"Format/Datatype": "Row major linear BF16"}]}, "float"),
        ({"Name": "a", "LayerType": "gemm", "Inputs": [{"DataType": "FP8"}]}, "float"),
        ({"Name": "a", "LayerType": "kgen", "Inputs": [{"DataType": "Int64"}]}, "other"),
        ({"Name": "a", "LayerType": "Constant", "Inputs": []}, "other"),
        ({"Name": "a", "LayerType": "kgen", "Inputs": []}, "other"),
        ({"Name": "x_QuantizeLinear_3", "LayerType": "Scale", "Inputs": [{"DataType": "Float"}]}, "other"),
        ({"Name": "conv + y_QuantizeLinear", "LayerType": "kgen", "Inputs": [{"DataType": "Int8"}]}, "integer"),
    ],
)
def test_kinds_of_layers(layer: dict[str, Any], kind: str) -> None:
    (read,) = layers_in(json.dumps({"Layers": [layer]})) or ()
    assert read.kind == kind


def test_an_onnx_file_is_built_once_for_a_version_and_a_gpu(
    world: Imitation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEPRESS_CACHE", str(tmp_path / "cache"))
    world.engine = json.dumps({"tensors": TENSORS}).encode()
    file = tmp_path / "net.onnx"
    file.write_bytes(b"network")
    for _ in range(2):
        assert load(file, "tensorrt").run(random(2))["y"].shape == (2, 5)
    assert world.named("parse_from_file") == [(b"network",)], "the second time it is kept"
    assert world.named("set_shape") == [("x", (1, 4), (1, 4), (32, 4))]
    kept = sorted(path.name for path in (tmp_path / "cache" / "tensorrt").iterdir())
    assert [name.partition("-")[2] for name in kept[:1]] == ["TensorRT-10.3.0-Orin-sm87.engine"]
    assert kept[1:] == ["TensorRT-10.3.0-Orin-sm87.timing_cache"]
    (tmp_path / "cache" / "tensorrt" / kept[0]).write_bytes(b"of another driver")
    assert load(file, "tensorrt").run(random(1))["y"].shape == (1, 5)
    assert len(world.named("parse_from_file")) == 2 and world.named("set_timing_cache")[-1][0] == b"times"
    file.write_bytes(b"another network")
    load(file, "tensorrt")
    assert len(world.named("parse_from_file")) == 3
    world.shape = (-1, -1)
    file.write_bytes(b"open sizes")
    with pytest.raises(InvalidModel, match=r"input x: only the batch may be open, got \(-1, -1\)"):
        load(file, "tensorrt")


def test_shapes_that_it_was_not_built_for(world: Imitation, tmp_path: Path) -> None:
    with pytest.raises(InvalidInputs, match=r"input 'x': the engine was built for shapes \(1, 4\) to \(8, 4\), got"):
        load(engine(tmp_path)).run(random(9))


def test_failures_say_why(world: Imitation, tmp_path: Path) -> None:
    runtime = load(engine(tmp_path))
    world.executes = False
    with pytest.raises(InvalidModel, match="TensorRT failed: no reason given"):
        runtime.run(random(1))
    (tmp_path / "bad.engine").write_bytes(b"built elsewhere")
    with pytest.raises(InvalidModel, match=r"TensorRT 10.3.0 cannot load it; .*built for: .*Serialization assertion f"):
        load(tmp_path / "bad.engine")
    for changed, message in (
        ({"location": "host"}, "x is a shape"),
        ({"dtype": "bfloat16"}, "x has a type that numpy"),
    ):
        with pytest.raises(InvalidModel, match=message):
            load(engine(tmp_path, [{**TENSORS[0], **changed}, TENSORS[1]]))


def test_without_a_gpu_the_engine_is_missing_and_says_so(world: Imitation, monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> None:
        raise OSError("CUDA finds no NVIDIA GPU")

    monkeypatch.setattr(cuda, "Cuda", none)
    version, reason = available("tensorrt")
    assert version is None and "CUDA finds no NVIDIA GPU" in reason and "pip install tensorrt" in reason
    with pytest.raises(EngineMissing):
        load(__file__, "tensorrt")


class Library:
    """CUDA's runtime library: C functions that fill what they are given an address of."""

    def __init__(self, gpus: int = 1, failing: str = "") -> None:
        self.gpus, self.failing, self.calls = gpus, failing, []  # type: ignore[var-annotated]

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name == "cudaGetErrorString":
            describe = lambda code: b"out of memory"  # noqa: E731
            return type("Function", (), {"restype": None, "__call__": staticmethod(describe)})()

        def call(*arguments: Any) -> int:
            self.calls.append((name, *(getattr(a, "value", None) for a in arguments)))
            if name == "cudaGetDeviceCount":
                arguments[0]._obj.value = self.gpus
            elif name == "cudaEventElapsedTime":
                arguments[0]._obj.value = 1.5
            elif name == "cudaGetDeviceProperties":
                arguments[0].value = b"Orin"
            elif name == "cudaDeviceGetAttribute":
                arguments[0]._obj.value = {75: 8, 76: 7}[arguments[1].value]
            elif name in ("cudaMalloc", "cudaStreamCreate", "cudaEventCreate"):
                arguments[0]._obj.value = 4096
            elif name == "cudaMemcpyAsync":
                ctypes.memmove(arguments[0].value, arguments[1].value, arguments[2].value)
            return 2 if name == self.failing else 0

        return call


def test_cuda_is_called_as_documented() -> None:
    library = Library()
    gpu = cuda.Cuda(library)  # type: ignore[arg-type]
    stream, address = gpu.stream(), gpu.allocate(0)
    assert (stream, address) == (4096, 4096)
    source, target = np.arange(6, dtype=np.float32), np.zeros(6, np.float32)
    gpu.copy_to_device(int(target.ctypes.data), source, stream)
    np.testing.assert_array_equal(target, source)
    back = np.zeros(6, np.float32)
    gpu.copy_to_host(back, int(target.ctypes.data), stream)
    np.testing.assert_array_equal(back, source)
    gpu.synchronize(stream)
    gpu.free(address)
    gpu.destroy(stream)
    assert [call[0] for call in library.calls] == [
        *("cudaGetDeviceCount", "cudaStreamCreate", "cudaMalloc", "cudaMemcpyAsync", "cudaMemcpyAsync"),
        *("cudaStreamSynchronize", "cudaFree", "cudaStreamDestroy"),
    ]
    assert [call[3:] for call in library.calls if call[0] == "cudaMemcpyAsync"] == [(24, 1, 4096), (24, 2, 4096)]


def test_events_and_the_name_of_the_gpu() -> None:
    library = Library()
    gpu = cuda.Cuda(library)  # type: ignore[arg-type]
    start, end = gpu.event(), gpu.event()
    gpu.record(start, 5)
    assert gpu.elapsed_ms(start, end) == 1.5
    gpu.destroy_event(end)
    assert [call[0] for call in library.calls[1:]] == [
        *("cudaEventCreate", "cudaEventCreate", "cudaEventRecord", "cudaEventElapsedTime", "cudaEventDestroy"),
    ]
    assert gpu.gpu() == "Orin (sm87)"


def test_cuda_says_what_failed() -> None:
    with pytest.raises(OSError, match="CUDA finds no NVIDIA GPU"):
        cuda.Cuda(Library(gpus=0))  # type: ignore[arg-type]
    gpu = cuda.Cuda(Library(failing="cudaMalloc"))  # type: ignore[arg-type]
    with pytest.raises(OSError, match=r"cudaMalloc failed: out of memory \(error 2\)"):
        gpu.allocate(10)
