"""TensorRT's documented Python API and CUDA's memory in a few lines, for what can be tested without a GPU.

Every call that matters is written down in ``calls``, in order. An engine is JSON: its tensors; running it computes
``compute``.
"""

from __future__ import annotations

import enum
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np

LAYERS = [
    {"Name": "Reformatting CopyNode for x", "LayerType": "Reformat", "Inputs": [{"Format/Datatype": "Row major FP32"}]},
    {"Name": "conv + relu", "LayerType": "CaskConvolution", "Inputs": [{"Format/Datatype": "32 wide Int8 format"}]},
    {"Name": "softmax", "LayerType": "kgen", "Inputs": [{"Format": "linear", "DataType": "Half"}]},
    {"Name": "never run", "LayerType": "kgen", "Inputs": [{"DataType": "Half"}]},
]


@dataclass
class Imitation:
    """What the imitation does next, and what was called."""

    version: str = "10.3.0"
    gpu: bool = True
    parser_errors: list[tuple[str, str, str]] = field(default_factory=list)
    builds: bool = True
    takes_cache: bool = True
    loads: bool = True
    executes: bool = True
    layers: list[Any] = field(default_factory=lambda: list(LAYERS))
    engine: bytes = b"engine"
    shape: tuple[int, ...] = (-1, 4)
    compute: Callable[[np.ndarray], np.ndarray] = np.copy
    calls: list[tuple[Any, ...]] = field(default_factory=list)
    memory: dict[int, bytearray] = field(default_factory=dict)

    def note(self, *call: Any) -> None:
        self.calls.append(call)

    def named(self, name: str) -> list[tuple[Any, ...]]:
        return [call[1:] for call in self.calls if call[0] == name]

    def network(self) -> Any:
        """What a parser fills: an input, and two layers, of which an accelerator runs the first."""
        value = SimpleNamespace(name="x", shape=self.shape)
        layers = [SimpleNamespace(name=name) for name in ("conv", "softmax")]
        return SimpleNamespace(
            num_inputs=1, get_input=lambda _: value, num_layers=2, get_layer=lambda number: layers[number]
        )

    def cuda(self) -> Any:
        """An object with the methods of `runtimes.devices.cuda.Cuda`, whose memory is in ``memory``."""
        return _Cuda(self)

    def module(self) -> ModuleType:
        """The module ``tensorrt``."""
        return _module(self)


class _Cuda:
    def __init__(self, world: Imitation) -> None:
        self.world, self.next = world, 0x1000

    def stream(self) -> int:
        self.world.note("stream")
        return 7

    def allocate(self, size_bytes: int) -> int:
        self.next += 0x10000
        self.world.memory[self.next] = bytearray(max(size_bytes, 1))
        self.world.note("allocate", size_bytes)
        return self.next

    def free(self, address: int) -> None:
        self.world.note("free", address)
        del self.world.memory[address]

    def copy_to_device(self, address: int, array: np.ndarray, stream: int) -> None:
        assert array.flags.c_contiguous and stream == 7
        self.world.memory[address][: array.nbytes] = array.tobytes()
        self.world.note("copy_to_device")

    def copy_to_host(self, array: np.ndarray, address: int, stream: int) -> None:
        assert array.flags.c_contiguous and stream == 7
        held = bytes(self.world.memory[address][: array.nbytes])
        array[...] = np.frombuffer(held, array.dtype).reshape(array.shape)
        self.world.note("copy_to_host")

    def gpu(self) -> str:
        return "Orin (sm87)"

    def event(self) -> int:
        self.next += 1
        self.world.note("event")
        return self.next

    def record(self, event: int, stream: int) -> None:
        assert stream == 7
        self.world.note("record")

    def elapsed_ms(self, start: int, end: int) -> float:
        return 0.25 * (end - start)

    def destroy_event(self, event: int) -> None:
        self.world.note("destroy_event")

    def synchronize(self, stream: int) -> None:
        self.world.note("synchronize")

    def destroy(self, stream: int) -> None:
        self.world.note("destroy")


class _Severity(enum.IntEnum):
    INTERNAL_ERROR, ERROR, WARNING = 0, 1, 2


class _Flag(enum.IntEnum):
    EXPLICIT_BATCH, STRONGLY_TYPED = 0, 1


class _Mode(enum.Enum):
    INPUT, OUTPUT = 1, 2


class _Logger:
    Severity = _Severity

    def log(self, severity: int, message: str) -> None:
        raise NotImplementedError


class _Profiler:
    def report_layer_time(self, layer_name: str, ms: float) -> None:
        raise NotImplementedError


class _Engine:
    def __init__(self, world: Imitation, tensors: list[dict[str, Any]]) -> None:
        self.world, self.tensors = world, {tensor["name"]: tensor for tensor in tensors}
        self.num_io_tensors = len(tensors)

    def get_tensor_name(self, index: int) -> str:
        return list(self.tensors)[index]

    def get_tensor_mode(self, name: str) -> _Mode:
        return _Mode.INPUT if self.tensors[name]["input"] else _Mode.OUTPUT

    def get_tensor_location(self, name: str) -> str:
        return str(self.tensors[name].get("location", "device"))

    def get_tensor_dtype(self, name: str) -> str:
        return str(self.tensors[name].get("dtype", "float32"))

    def get_tensor_shape(self, name: str) -> list[int]:
        return list(self.tensors[name]["shape"])

    def get_tensor_profile_shape(self, name: str, profile: int) -> list[tuple[int, ...]]:
        return [(1, 4), (2, 4), (8, 4)]

    def create_execution_context(self) -> _Context:
        return _Context(self)

    def create_engine_inspector(self) -> Any:
        def told(form: str) -> str:
            assert form == "json"
            return json.dumps({"Layers": self.world.layers})

        return SimpleNamespace(execution_context=None, get_engine_information=told)


class _Context:
    def __init__(self, engine: _Engine) -> None:
        self.engine, self.world = engine, engine.world
        self.profiler: _Profiler | None = None
        self.shape: tuple[int, ...] = ()
        self.addresses: dict[str, int] = {}

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.world.note("set_input_shape", name, tuple(shape))
        self.shape = tuple(shape)
        return shape[0] <= 8

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return (self.shape[0], *self.engine.get_tensor_shape(name)[1:])

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.world.note("set_tensor_address", name)
        self.addresses[name] = address
        return True

    def execute_async_v3(self, stream: int) -> bool:
        self.world.note("execute_async_v3", stream)
        if not self.world.executes:
            return False
        count = int(np.prod(self.shape))
        x = np.frombuffer(bytes(self.world.memory[self.addresses["x"]]), np.float32)[:count].reshape(self.shape)
        y = self.world.compute(x).astype(np.float32)
        self.world.memory[self.addresses["y"]][: y.nbytes] = y.tobytes()
        if self.profiler is not None:
            for number, layer in enumerate(self.world.layers[:3]):
                self.profiler.report_layer_time(layer if isinstance(layer, str) else layer["Name"], 0.5 * (number + 1))
        return True


def _module(world: Imitation) -> ModuleType:
    trt = ModuleType("tensorrt")

    class Runtime:
        def __init__(self, logger: _Logger) -> None:
            self.logger = logger

        def deserialize_cuda_engine(self, content: bytes) -> _Engine | None:
            try:
                assert world.loads
                return _Engine(world, json.loads(content)["tensors"])
            except (AssertionError, ValueError, KeyError):
                self.logger.log(_Severity.ERROR, "Serialization assertion\n failed")
                return None

    class Builder:
        def __init__(self, logger: _Logger) -> None:
            self.logger = logger
            if not world.gpu:
                logger.log(_Severity.ERROR, "CUDA initialization failure with error: 100")
                raise TypeError("pybind11::init(): factory function returned nullptr")

        num_DLA_cores = 2  # noqa: N815 - as the library calls it

        def create_network(self, flags: int) -> Any:
            world.note("create_network", flags)
            return world.network()

        def create_builder_config(self) -> _Config:
            return _Config(world)

        def create_optimization_profile(self) -> Any:
            return SimpleNamespace(set_shape=lambda *shapes: world.note("set_shape", *shapes))

        def build_serialized_network(self, network: Any, config: _Config) -> bytes | None:
            world.note("build_serialized_network")
            if not world.builds:
                self.logger.log(_Severity.WARNING, "unimportant")
                self.logger.log(_Severity.ERROR, "no implementation for node conv")
            return world.engine if world.builds else None

    class OnnxParser:
        def __init__(self, network: Any, logger: _Logger) -> None:
            self.num_errors = len(world.parser_errors)

        def set_flag(self, flag: str) -> None:
            world.note("parser set_flag", flag)

        def parse_from_file(self, path: str) -> bool:
            world.note("parse_from_file", Path(path).read_bytes())
            return not world.parser_errors

        def get_error(self, number: int) -> Any:
            name, operator, text = world.parser_errors[number]
            told = {"node_name": name, "node_operator": operator, "desc": text, "node": 3}
            return SimpleNamespace(**{key: (lambda value=value: value) for key, value in told.items()})

    def nptype(dtype: str) -> type:
        if dtype == "bfloat16":
            raise TypeError("Could not resolve TensorRT datatype to an equivalent numpy datatype.")
        return np.dtype(dtype).type

    trt.__dict__.update(
        __version__=world.version,
        ILogger=_Logger,
        IProfiler=_Profiler,
        NetworkDefinitionCreationFlag=_Flag,
        TensorIOMode=_Mode,
        TensorLocation=SimpleNamespace(DEVICE="device", HOST="host"),
        LayerInformationFormat=SimpleNamespace(JSON="json"),
        MemoryPoolType=SimpleNamespace(WORKSPACE="workspace"),
        ProfilingVerbosity=SimpleNamespace(DETAILED="detailed"),
        Runtime=Runtime,
        Builder=Builder,
        OnnxParser=OnnxParser,
        DeviceType=SimpleNamespace(GPU="gpu", DLA="dla"),
        BuilderFlag=SimpleNamespace(GPU_FALLBACK="fallback"),
        OnnxParserFlag=SimpleNamespace(ADJUST_FOR_DLA="adjust"),
        nptype=nptype,
        init_libnvinfer_plugins=lambda logger, namespace: world.note("init_libnvinfer_plugins", namespace),
    )
    return trt


class _Config:
    def __init__(self, world: Imitation) -> None:
        self.world, self.profiling_verbosity = world, ""
        self.default_device_type, self.DLA_core = "gpu", -1

    def set_memory_pool_limit(self, pool: str, size_bytes: int) -> None:
        self.world.note("set_memory_pool_limit", pool, size_bytes)

    def create_timing_cache(self, content: bytes) -> bytes:
        return content

    def set_timing_cache(self, cache: bytes, ignore_mismatch: bool) -> bool:
        self.world.note("set_timing_cache", cache, self.profiling_verbosity)
        return self.world.takes_cache or not cache

    def get_timing_cache(self) -> Any:
        return SimpleNamespace(serialize=lambda: b"times")

    def set_flag(self, flag: str) -> None:
        self.world.note("set_flag", flag, self.default_device_type, self.DLA_core)

    def can_run_on_DLA(self, layer: Any) -> bool:  # noqa: N802
        return bool(layer.name == "conv")

    def add_optimization_profile(self, profile: Any) -> int:
        self.world.note("add_optimization_profile")
        return 0
