"""OpenVINO on the CPU: one stream, in the precision that the file has.

By itself the plugin computes a float32 file in bfloat16 where the processor has instructions for that; here it is told
float32. A file whose batch is open is compiled again for the shapes that it is given: fixed shapes are faster, by a
tenth on MobileNetV2.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import openvino as ov

from ..errors import InvalidModel
from ..runtime import Array, Arrays, ExecutedGraph, Node, Options, TensorSpec, check_inputs, one_line, random_inputs

TITLE = "OpenVINO"
PACKAGE = "openvino"
SUFFIXES = (".xml",)
WEIGHTS = ".bin"
INSTALL = "pip install openvino"
TARGETS = {
    "openvino": {
        "needs_vnni": True,
        "by_onednn": True,
        "interfaces": ("float32", "uint8"),
        "integers": {"activation": "uint8", "fuses_sums": True},
    },
    # 7-bit weights, for processors without VNNI.
    "openvino-avx2": {
        "interfaces": ("float32", "uint8"),
        "integers": {"activation": "uint8", "weight_bits": 7, "fuses_sums": True},
    },
}

KEPT_SHAPES = 2
"""So many compiled forms of a file with an open batch are kept."""

_FAILURES = (RuntimeError, TypeError, ValueError)

_FLOATS = {"f64", "f32", "fp32", "f16", "fp16", "bf16"}
_INTEGERS = {"u8", "i8", "u4", "i4"}

# Layers, by the names of the execution graph, that convert, move or reshape data and compute nothing.
_MOVES = {
    *("Reorder", "Reshape", "Convert", "Transpose", "Concatenation", "Split", "StridedSlice", "Gather", "GatherND"),
    *("GatherElements", "ScatterUpdate", "ScatterElementsUpdate", "ScatterNDUpdate", "Pad", "Tile", "Broadcast"),
    *("ShuffleChannels", "DepthToSpace", "SpaceToDepth", "BatchToSpace", "SpaceToBatch", "ReverseSequence", "Roll"),
    *("ShapeOf", "Range", "NonZero", "FakeQuantize", "MemoryInput", "MemoryOutput", "ReadValue", "Assign"),
}

# Operations of a file that only round: what is fused of these alone is one too.
_ROUNDING = {"FakeQuantize", "Convert"}


def version() -> str:
    """Return the version of OpenVINO."""
    return str(ov.__version__)


def parts(file: Path) -> tuple[Path, ...]:
    """Return the file and the one with its weights."""
    weights = file.with_suffix(WEIGHTS)
    return (file, weights) if file.suffix.lower() == ".xml" and weights.is_file() else (file,)


def load(file: Path, options: Options) -> Session:
    """Return ``file`` compiled for ``options.threads`` threads; raises InvalidModel."""
    return Session(file, options)


def kind_of(layer: str, kernel: str, fused: set[str]) -> Literal["integer", "float", "other"]:
    """Return the arithmetic of a layer from its type, its kernel, and the operations that it is made of.

    The kernel's name ends with the type that it computes in; integers that are only stored (a weight that is multiplied
    by floats) do not show in it.

    >>> kind_of("Convolution", "brgconv_avx512_I8", {"Convolution", "Add"}), kind_of("FullyConnected", "jit_f32", set())
    ('integer', 'float')
    >>> kind_of("Reorder", "jit_uni_I8", set()), kind_of("Subgraph", "jit_avx512_f32", {"FakeQuantize"})
    ('other', 'other')
    """
    if layer in _MOVES or (fused and fused <= _ROUNDING):
        return "other"
    precision = kernel.rpartition("_")[2].lower()
    if precision in _FLOATS:
        return "float"
    return "integer" if precision in _INTEGERS else "other"


class Session:
    """A file compiled by OpenVINO; see `runtimes.runtime.Runtime`."""

    def __init__(self, file: Path, options: Options) -> None:
        self._file = file
        self._options = options
        self._core: ov.Core | None = ov.Core()
        self._model = self._read()
        self.inputs = tuple(self._spec(port) for port in self._model.inputs)
        self.outputs = tuple(self._spec(port) for port in self._model.outputs)
        self._names = [spec.name for spec in self.outputs]
        self._open = any(None in spec.shape for spec in self.inputs)
        self._requests: OrderedDict[tuple[tuple[int, ...], ...], ov.InferRequest] = OrderedDict()
        self._request(None)

    def run(self, inputs: Arrays) -> dict[str, Array]:
        """Return the outputs by name; raises InvalidInputs for a wrong name, shape or dtype."""
        if self._core is None:
            raise InvalidModel(f"{self._file}: the runtime is closed")
        check_inputs(self.inputs, inputs)  # the engine would cast and copy without a word
        try:
            results = self._request(inputs).infer(_contiguous(inputs), share_inputs=True)
            return {name: results[position] for position, name in enumerate(self._names)}
        except _FAILURES as error:
            raise InvalidModel(f"{self._file}: OpenVINO failed: {one_line(error)}") from error

    def executed_graph(self, inputs: Arrays | None = None, runs: int = 1) -> ExecutedGraph:
        """Return the layers that OpenVINO executed, from its execution graph and its performance counters.

        What is fused into a layer is not listed; layers that the plugin runs in place are left out.
        """
        if self._core is None:
            raise InvalidModel(f"{self._file}: the runtime is closed")
        arrays = random_inputs(self.inputs) if inputs is None else inputs
        check_inputs(self.inputs, arrays)
        durations: dict[str, list[float]] = {}
        try:
            compiled = self._compile(arrays, counters=True)
            request = compiled.create_infer_request()
            for _ in range(runs):
                request.infer(_contiguous(arrays))
                for counter in request.profiling_info:
                    if counter.status == ov.ProfilingInfo.Status.EXECUTED:
                        ms = counter.real_time.total_seconds() * 1000
                        durations.setdefault(counter.node_name, []).append(ms)
            executed = sorted(compiled.get_runtime_model().get_ops(), key=lambda op: int(_fact(op, "execOrder") or 0))
        except _FAILURES as error:
            raise InvalidModel(f"{self._file}: OpenVINO failed: {one_line(error)}") from error
        types = {op.get_friendly_name(): op.get_type_name() for op in self._model.get_ops()}
        return ExecutedGraph(
            tuple(
                _node(op, types, float(np.percentile(durations[op.get_friendly_name()], 25)))
                for op in executed
                if op.get_friendly_name() in durations
            )
        )

    def close(self) -> None:
        """Free the compiled network."""
        self._requests.clear()
        self._core = None

    def _read(self) -> ov.Model:
        assert self._core is not None
        if self._file.suffix.lower() == ".xml":
            # Whatever is no XML the engine would offer to the readers of all other formats, which complain one by one.
            with self._file.open("rb") as file:
                start = file.read(64).lstrip(b"\xef\xbb\xbf \t\r\n")
            if not start.startswith((b"<?xml", b"<net")):
                raise InvalidModel(f"{self._file}: no OpenVINO network: expected XML; export it again")
        try:
            return self._core.read_model(str(self._file))
        except _FAILURES as error:
            raise InvalidModel(self._refusal(error)) from error

    def _refusal(self, error: Exception) -> str:
        weights = self._file.with_suffix(WEIGHTS)
        hint = "" if self._file.suffix.lower() != ".xml" or weights.is_file() else f"; {weights.name} is missing"
        return f"{self._file}: OpenVINO {version()} cannot load it{hint}; export it again ({one_line(error)})"

    def _spec(self, port: Any) -> TensorSpec:
        name = min(port.get_names()) if port.get_names() else port.get_node().get_friendly_name()
        shape = port.get_partial_shape()
        if shape.rank.is_dynamic:
            raise InvalidModel(f"{self._file}: the number of dimensions of {name} is not fixed; export it again")
        sizes = tuple(None if size.is_dynamic else int(size.get_length()) for size in shape)
        scale, zero = (self._runtime_info("quantization", name, key) for key in ("scale", "zero_point"))
        try:
            dtype = str(np.dtype(port.get_element_type().to_dtype()).name)
        except RuntimeError:  # numpy has no such type
            dtype = str(port.get_element_type().get_type_name())
        return TensorSpec(name, sizes, dtype, None if scale is None else float(scale), int(zero or 0))

    def _runtime_info(self, *path: str) -> str | None:
        """What the file's exporter wrote down under this path."""
        return str(self._model.get_rt_info(list(path)).value) if self._model.has_rt_info(list(path)) else None

    def _request(self, inputs: Arrays | None) -> ov.InferRequest:
        """The file compiled for the shapes of ``inputs``, or as it is."""
        shapes = None if inputs is None else tuple(inputs[spec.name].shape for spec in self.inputs)
        key = shapes if self._open and shapes is not None else ()
        if key in self._requests:
            self._requests.move_to_end(key)
            return self._requests[key]
        try:
            request = self._compile(inputs if key else None).create_infer_request()
        except _FAILURES as error:
            raise InvalidModel(self._refusal(error)) from error
        self._requests[key] = request
        if len(self._requests) > KEPT_SHAPES:
            self._requests.popitem(last=False)
        return request

    def _compile(self, inputs: Arrays | None, *, counters: bool = False) -> ov.CompiledModel:
        assert self._core is not None
        model = self._model
        if self._open and inputs is not None:
            model = model.clone()
            model.reshape({spec.name: ov.PartialShape(list(inputs[spec.name].shape)) for spec in self.inputs})
        settings = {
            "INFERENCE_NUM_THREADS": self._options.threads,
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
            "ENABLE_CPU_PINNING": False,  # whoever measures pins the process
            "INFERENCE_PRECISION_HINT": self._precision(),
            "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,  # nothing is rounded that the file does not round
            "PERF_COUNT": counters,
            "LP_TRANSFORMS_MODE": not self._options.reference,
        }
        return self._core.compile_model(model, "CPU", settings)

    def _precision(self) -> str:
        """What floats are computed in: float16 where the file stores such weights and the processor computes in it."""
        assert self._core is not None
        half = any(
            op.get_type_name() == "Constant" and op.get_element_type() == ov.Type.f16 for op in self._model.get_ops()
        )
        able = "FP16" in self._core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        return "f16" if half and able else "f32"


def _contiguous(inputs: Arrays) -> dict[str, Array]:
    return {name: np.ascontiguousarray(value) for name, value in inputs.items()}


def _fact(op: Any, name: str) -> str:
    facts = op.get_rt_info()
    return str(facts[name].value) if name in facts else ""


def _node(op: Any, types: Mapping[str, str], duration_ms: float) -> Node:
    layer = _fact(op, "layerType")
    fused = {types[name] for name in _fact(op, "originalLayersNames").split(",") if name in types}
    kernel = _fact(op, "primitiveType")
    provider = kernel.rpartition("_")[0] or kernel
    fell_back = kernel.startswith("ref")
    return Node(op.get_friendly_name(), layer, kind_of(layer, kernel, fused), duration_ms, provider, fell_back)
