"""TensorRT 10 and 11 on an NVIDIA GPU: an engine that was built on this device, run with its documented Python API.

Unproven: the bindings install without a GPU, but the library does not, so that only the parts that need neither are
tested, with a small imitation of the API. A run is timed with its copies to the GPU and back. `Options.threads` has no
meaning on a GPU. TensorRT Python API: https://docs.nvidia.com/deeplearning/tensorrt/latest/_static/python-api/.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tensorrt as trt

from ..devices.cuda import Cuda
from ..errors import InvalidInputs, InvalidModel
from ..runtime import Array, Arrays, ExecutedGraph, Node, Options, TensorSpec, check_inputs, one_line, random_inputs

TITLE = "TensorRT"
PACKAGE = "tensorrt"
SUFFIXES = (".engine", ".plan")
INSTALL = "pip install tensorrt, on a device with an NVIDIA GPU (a Jetson has it from JetPack)"
UNPROVEN = "no GPU has run it in a test; an imitation of the documented API has"
TARGETS = {
    "tensorrt": {
        "needs_vnni": True,  # where such a file is tried on a CPU
        "integers": {"activation": "int8", "symmetric": True, "half_networks": True},
    }
}

_CUDA = Cuda()  # where there is no GPU, this engine cannot be used at all

# Types of layers, as the engine's inspector calls them, that convert, move or reshape data and compute nothing.
_MOVES = re.compile(
    r"Reformat\w*|NoOp|Cast|Constant|Shuffle|Slice|Concatenation|Gather|Padding|Identity|Shape\w*|Signal|Wait|Copy"
    r"|Quantize|Dequantize|move|transpose|reshape",
    re.IGNORECASE,
)
# A layer that is made of nothing but these (its name joins theirs by " + ") only rounds.
_ROUNDING = re.compile(r".*(Quantize|QuantizeLinear|DequantizeLinear)\w*\W*\d*\]?", re.IGNORECASE)


def version() -> str:
    """Return the version of TensorRT."""
    return str(trt.__version__)


def parts(file: Path) -> tuple[Path, ...]:
    """Return the file: an engine is one."""
    return (file,)


def load(file: Path, options: Options) -> Session:
    """Return the engine in ``file``, with memory for its tensors; raises InvalidModel."""
    return Session(file, options)


def layers_in(engine_json: str) -> tuple[Mapping[str, Any], ...] | None:
    """Return the layers of an inspector's JSON, or None where the engine was built to tell their names alone.

    >>> layers_in('{"Layers": ["conv + relu"]}') is None
    True
    """
    try:
        layers = json.loads(engine_json).get("Layers", [])
    except (json.JSONDecodeError, AttributeError):
        return None
    return tuple(layers) if layers and all(isinstance(layer, dict) for layer in layers) else None


def kind_of(layer: Mapping[str, Any]) -> Literal["integer", "float", "other"]:
    """Return the arithmetic of a layer from its type and the type of what it reads.

    TensorRT 10 tells types as ``Format/Datatype`` ("... Int8 format"), 11 as ``DataType``.

    >>> kind_of({"Name": "conv", "LayerType": "CaskConvolution", "Inputs": [{"DataType": "Int8"}]})
    'integer'
    """
    names = str(layer.get("Name", "")).split(" + ")
    if _MOVES.fullmatch(str(layer.get("LayerType", ""))) or all(_ROUNDING.fullmatch(name) for name in names):
        return "other"
    read = [_datatype(tensor) for tensor in layer.get("Inputs", ()) if isinstance(tensor, dict)]
    if not read:
        return "other"
    if re.search(r"u?int(4|8)", read[0]):
        return "integer"
    return "other" if re.search(r"int(32|64)|bool", read[0]) else "float"


def _datatype(tensor: Mapping[str, Any]) -> str:
    keys = ("DataType", "Datatype", "Format/Datatype", "Format/DataType", "Format")
    return next((str(tensor[key]) for key in keys if key in tensor), "").lower()


class _Logger(trt.ILogger):  # type: ignore[misc]
    """Keeps what TensorRT says of errors, and prints nothing."""

    def __init__(self) -> None:
        trt.ILogger.__init__(self)
        self.errors: list[str] = []

    def log(self, severity: Any, message: str) -> None:
        """Called by TensorRT."""
        if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
            self.errors.append(" ".join(message.split()))


class _Profiler(trt.IProfiler):  # type: ignore[misc]
    """Keeps the time of each layer in each run."""

    def __init__(self) -> None:
        trt.IProfiler.__init__(self)
        self.ms: dict[str, list[float]] = {}

    def report_layer_time(self, layer_name: str, ms: float) -> None:
        """Called by TensorRT."""
        self.ms.setdefault(layer_name, []).append(float(ms))


class Session:
    """An engine with a context of its own; see `runtimes.runtime.Runtime`."""

    def __init__(self, file: Path, options: Options) -> None:
        self._file = file
        self._options = options
        self._logger = _Logger()
        self._buffers: dict[str, tuple[int, int]] = {}
        trt.init_libnvinfer_plugins(self._logger, "")
        self._runtime = trt.Runtime(self._logger)
        self._engine: Any = self._runtime.deserialize_cuda_engine(file.read_bytes())
        if self._engine is None:
            raise InvalidModel(
                f"{file}: TensorRT {version()} cannot load it; an engine runs on the GPU and the version that it was "
                f"built for: build it again here ({self._last_error()})"
            )
        names = [self._engine.get_tensor_name(i) for i in range(self._engine.num_io_tensors)]
        self.inputs = tuple(self._spec(name) for name in names if self._mode(name) == trt.TensorIOMode.INPUT)
        self.outputs = tuple(self._spec(name) for name in names if self._mode(name) == trt.TensorIOMode.OUTPUT)
        self._context: Any = self._new_context()
        self._stream: int | None = _CUDA.stream()

    def run(self, inputs: Arrays) -> dict[str, Array]:
        """Return the outputs by name; raises InvalidInputs for a wrong name, shape or dtype."""
        if self._stream is None:
            raise InvalidModel(f"{self._file}: the runtime is closed")
        check_inputs(self.inputs, inputs)
        return self._execute(self._context, inputs)

    def executed_graph(self, inputs: Arrays | None = None, runs: int = 1) -> ExecutedGraph | None:
        """Return the layers of the engine with the types that they read, timed by TensorRT's profiler.

        None where the engine was not built with detailed verbosity: then it knows names alone.
        """
        if self._stream is None:
            raise InvalidModel(f"{self._file}: the runtime is closed")
        arrays = random_inputs(self.inputs) if inputs is None else inputs
        check_inputs(self.inputs, arrays)
        context, profiler = self._new_context(), _Profiler()
        context.profiler = profiler
        for _ in range(runs):
            self._execute(context, arrays)
        inspector = self._engine.create_engine_inspector()
        inspector.execution_context = context
        layers = layers_in(inspector.get_engine_information(trt.LayerInformationFormat.JSON))
        if layers is None:
            return None
        timed = {name: float(np.percentile(ms, 25)) for name, ms in profiler.ms.items()}
        return ExecutedGraph(
            tuple(
                Node(str(layer["Name"]), str(layer.get("LayerType", "")), kind_of(layer), timed[str(layer["Name"])])
                for layer in layers
                if str(layer.get("Name")) in timed
            )
        )

    def close(self) -> None:
        """Free the memory of the GPU."""
        if self._stream is None:
            return
        for address, _ in self._buffers.values():
            _CUDA.free(address)
        _CUDA.destroy(self._stream)
        self._buffers.clear()
        self._stream = self._context = self._engine = None

    def _execute(self, context: Any, inputs: Arrays) -> dict[str, Array]:
        assert self._stream is not None
        try:
            held = {spec.name: np.ascontiguousarray(inputs[spec.name]) for spec in self.inputs}  # until all is done
            for spec in self.inputs:
                self._feed(context, spec, held[spec.name])
            outputs = {spec.name: self._place(context, spec) for spec in self.outputs}
            if not context.execute_async_v3(self._stream):
                raise InvalidModel(f"{self._file}: TensorRT failed: {self._last_error()}")
            for name, array in outputs.items():
                _CUDA.copy_to_host(array, self._buffers[name][0], self._stream)
            _CUDA.synchronize(self._stream)
        except (OSError, RuntimeError) as error:
            raise InvalidModel(f"{self._file}: TensorRT failed: {one_line(error)}") from error
        return outputs

    def _feed(self, context: Any, spec: TensorSpec, array: Array) -> None:
        assert self._stream is not None
        if not context.set_input_shape(spec.name, array.shape):
            least, _, most = (tuple(shape) for shape in self._engine.get_tensor_profile_shape(spec.name, 0))
            raise InvalidInputs(
                f"input {spec.name!r}: the engine was built for shapes {least} to {most}, got {array.shape}"
            )
        address = self._memory(spec.name, array.nbytes)
        _CUDA.copy_to_device(address, array, self._stream)
        context.set_tensor_address(spec.name, address)

    def _place(self, context: Any, spec: TensorSpec) -> Array:
        """An array for an output, and memory of the GPU behind it."""
        shape = tuple(int(n) for n in context.get_tensor_shape(spec.name))
        if any(n < 0 for n in shape):
            raise InvalidModel(f"{self._file}: the shape of {spec.name} depends on the data, which is not supported")
        array: Array = np.empty(shape, np.dtype(spec.dtype))
        context.set_tensor_address(spec.name, self._memory(spec.name, array.nbytes))
        return array

    def _memory(self, name: str, size_bytes: int) -> int:
        address, held = self._buffers.get(name, (0, -1))
        if held < size_bytes:
            if held >= 0:
                _CUDA.free(address)
            address = _CUDA.allocate(size_bytes)
            self._buffers[name] = (address, size_bytes)
        return address

    def _new_context(self) -> Any:
        context = self._engine.create_execution_context()
        if context is None:
            raise InvalidModel(f"{self._file}: TensorRT has no memory to run it: {self._last_error()}")
        return context

    def _mode(self, name: str) -> Any:
        return self._engine.get_tensor_mode(name)

    def _spec(self, name: str) -> TensorSpec:
        if self._engine.get_tensor_location(name) != trt.TensorLocation.DEVICE:
            raise InvalidModel(f"{self._file}: {name} is a shape, not data, which is not supported")
        try:
            dtype = np.dtype(trt.nptype(self._engine.get_tensor_dtype(name))).name
        except TypeError:  # numpy has no such type
            raise InvalidModel(f"{self._file}: {name} has a type that numpy has not; build it with float32") from None
        shape = tuple(int(n) if n >= 0 else None for n in self._engine.get_tensor_shape(name))
        return TensorSpec(name, shape, dtype)

    def _last_error(self) -> str:
        return self._logger.errors[-1] if self._logger.errors else "no reason given"
