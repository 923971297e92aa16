"""ONNX Runtime on the CPU: one operator after the other, all of its graph optimizations on."""

from __future__ import annotations

import errno
import json
import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnxruntime as ort
from onnxruntime.capi import onnxruntime_pybind11_state as native

from ..errors import InvalidModel
from ..files.untrusted import Unreadable, require_file
from ..runtime import Array, Arrays, ExecutedGraph, Node, Options, TensorSpec, check_inputs, one_line, random_inputs

TITLE = "ONNX Runtime"
PACKAGE = "onnxruntime"
SUFFIXES = (".onnx", ".ort")
INSTALL = "pip install onnxruntime"
NATIVE_TOOL = "onnxruntime_perf_test"
NATIVE_LIBRARY = "libonnxruntime.so"
FORMER_NAMES = ("ort",)
TARGETS = {
    # x86 with VNNI multiplies uint8 activations by int8 weights: the zero point is 0 after a ReLU, which costs nothing.
    "ort-x86": {
        "suits": ("x86-vnni",),
        "needs_vnni": True,
        "interfaces": ("float32", "uint8"),
        "integers": {
            "activation": "uint8",
            "wide_activation": "uint16",
            "four_bit_products": True,
            "integer_bias": True,
            "casts_weights": True,
            "rounds_floats": True,
            "bit_operators": True,
            "x86_kernels": True,
        },
    },
    # Without VNNI two products are added in 16 bits, which 8-bit weights overflow; 7-bit weights do not.
    "ort-avx2": {
        "suits": ("any",),
        "reason": "7-bit weights, whose sums stay within 16 bits",
        "interfaces": ("float32", "uint8"),
        "integers": {
            "activation": "uint8",
            "wide_activation": "uint16",
            "weight_bits": 7,
            "four_bit_products": True,
            "integer_bias": True,
            "casts_weights": True,
            "rounds_floats": True,
            "bit_operators": True,
            "x86_kernels": True,
        },
    },
    # ARM with the dot product instructions prefers int8 for both: after a ReLU the zero point is -128, again the least.
    "ort-arm": {
        "suits": ("arm64",),
        "needs_vnni": True,
        "interfaces": ("float32", "int8"),
        "integers": {
            "activation": "int8",
            "wide_activation": "uint16",
            "four_bit_products": True,
            "integer_bias": True,
            "casts_weights": True,
            "rounds_floats": True,
            "bit_operators": True,
        },
    },
}

_FAILURES = (
    native.EPFail,
    native.Fail,
    native.InvalidArgument,
    native.InvalidGraph,
    native.InvalidProtobuf,
    native.NoModel,
    native.NoSuchFile,
    native.NotImplemented,
    native.RuntimeException,
    RuntimeError,
    TypeError,
    ValueError,
)

_DTYPES = {"float": "float32", "double": "float64", "string": "object"}

_FLOATS = {"float", "float16", "double", "bfloat16"}

# Operators that compute in integers whatever their first input is.
_INTEGER = re.compile(r"QLinear\w+|QGemm|QAttention|\w+Integer|MatMulIntegerToFloat|DynamicQuantize(MatMul|LSTM)")

# Operators that convert, move or reshape data and compute nothing.
_MOVES = re.compile(
    r"(Dynamic)?QuantizeLinear|DequantizeLinear|Cast(Like)?|Reorder(In|Out)put|Memcpy\w+|Reshape|Flatten|Transpose"
    r"|(Un)?[Ss]queeze|Concat|Split|Slice|Gather(Elements|ND)?|Scatter\w*|Pad|Expand|Tile|Identity|Dropout|Shape|Size"
    r"|Constant(OfShape)?|Range|NonZero|DepthToSpace|SpaceToDepth|If|Loop|Scan|Sequence\w+|Optional\w*|ReverseSequence"
)

# external_data { key: "location" value: <a name shorter than 16384 bytes> } as protobuf writes it.
_LOCATION = re.compile(rb"\x0a\x08location\x12([\x01-\x7f]|[\x80-\xff][\x01-\x7f])", re.DOTALL)


def version() -> str:
    """Return the version of ONNX Runtime."""
    return str(ort.__version__)


def parts(file: Path) -> tuple[Path, ...]:
    """Return the file and the files that hold its external tensors."""
    return (file, *(path for path in _external(file) if path.is_file() and path != file))


def _external(file: Path) -> list[Path]:
    """Return where the external tensors of ``file`` lie, as far as it says so; files or not."""
    content = file.read_bytes()
    names = {content[hit.end() : hit.end() + _length(hit[1])] for hit in _LOCATION.finditer(content)}
    return [file.parent / name.decode("utf-8", "replace") for name in sorted(names) if b"\0" not in name]


def _length(written: bytes) -> int:
    return sum((byte & 0x7F) << 7 * place for place, byte in enumerate(written))


def load(file: Path, options: Options) -> Session:
    """Return ``file`` as a session with ``options.threads`` threads; raises InvalidModel."""
    return Session(file, options)


def kind_of(op: str, dtype: str | None) -> Literal["integer", "float", "other"]:
    """Return the arithmetic of a node from its operator and the dtype of its first input, in ONNX Runtime's names.

    Operators that run on several types (MaxPool, Relu, Add) are what their input is; wider integers are shapes and
    indices, not a network's arithmetic.

    >>> kind_of("QLinearConv", "uint8"), kind_of("MaxPool", "uint8"), kind_of("MaxPool", "float")
    ('integer', 'integer', 'float')
    >>> kind_of("DequantizeLinear", "uint8"), kind_of("Reshape", "float"), kind_of("Add", "int64")
    ('other', 'other', 'other')
    """
    if _INTEGER.fullmatch(op):
        return "integer"
    if _MOVES.fullmatch(op):
        return "other"
    if dtype in _FLOATS:
        return "float"
    return "integer" if dtype in ("int8", "uint8") else "other"


class Session:
    """A file loaded into ONNX Runtime; see `runtimes.runtime.Runtime`."""

    def __init__(self, file: Path, options: Options) -> None:
        self._file = file
        self._options = options
        _require_sound(file)
        self._session: ort.InferenceSession | None = self._open()
        metadata = self._session.get_modelmeta().custom_metadata_map
        self.inputs = tuple(_spec(each, metadata) for each in self._session.get_inputs())
        self.outputs = tuple(_spec(each, metadata) for each in self._session.get_outputs())
        self._names = [spec.name for spec in self.outputs]

    def run(self, inputs: Arrays) -> dict[str, Array]:
        """Return the outputs by name; raises InvalidInputs for a wrong name, shape or dtype."""
        if self._session is None:
            raise InvalidModel(f"{self._file}: the runtime is closed")
        # The engine would cast a list, and read bytes in the wrong order, without a word.
        if not all(isinstance(value, np.ndarray) and value.dtype.isnative for value in inputs.values()):
            check_inputs(self.inputs, inputs)
        try:
            return dict(zip(self._names, self._session.run(self._names, inputs), strict=True))
        except _FAILURES as error:
            # The engine checks all else by itself: it is looked at again only to explain, off the timed path.
            check_inputs(self.inputs, inputs)
            raise InvalidModel(f"{self._file}: ONNX Runtime failed: {one_line(error)}") from error

    def executed_graph(self, inputs: Arrays | None = None, runs: int = 1) -> ExecutedGraph:
        """Return the nodes that ONNX Runtime executed when profiled, with the dtypes that it ran them on.

        This is the optimized graph as executed, with fused and com.microsoft operators, and needs no ``onnx`` package.
        """
        arrays = random_inputs(self.inputs) if inputs is None else inputs
        check_inputs(self.inputs, arrays)
        with tempfile.TemporaryDirectory() as folder:
            session = self._open(profile=Path(folder) / "profile")
            try:
                for _ in range(runs):
                    session.run(self._names, dict(arrays))
            except _FAILURES as error:
                raise InvalidModel(f"{self._file}: ONNX Runtime failed: {one_line(error)}") from error
            finally:
                profile = Path(session.end_profiling())
            events = _events(profile)
        executed = [event for event in events if _is_node(event)]
        each = len(executed) // runs
        rows = np.asarray([event["dur"] for event in executed[: each * runs]], np.float64).reshape(runs, each) / 1000
        durations = np.percentile(rows, 25, axis=0)
        first = session.get_providers()[0]
        return ExecutedGraph(
            tuple(_node(event, float(ms), first) for event, ms in zip(executed, durations, strict=False))
        )

    def close(self) -> None:
        """Free the session."""
        self._session = None

    def _open(self, profile: Path | None = None) -> ort.InferenceSession:
        settings = ort.SessionOptions()
        settings.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
        settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
        settings.intra_op_num_threads = self._options.threads
        settings.inter_op_num_threads = 1
        settings.log_severity_level = 4
        # Idle threads that spin would take the cores from the next session when several are run in turn.
        settings.add_session_config_entry("session.force_spinning_stop", "1")
        if self._options.reference:
            settings.add_session_config_entry("session.disable_quant_qdq", "1")
        if profile is not None:
            settings.enable_profiling = True
            settings.profile_file_prefix = str(profile)
        source = self._source(settings)
        try:
            return ort.InferenceSession(source, settings, providers=["CPUExecutionProvider"], enable_fallback=0)
        except _FAILURES as error:
            reason = one_line(error)
            raise InvalidModel(
                f"{self._file}: ONNX Runtime {version()} cannot load it, export it again ({reason})"
            ) from error

    def _source(self, settings: ort.SessionOptions) -> str | bytes:
        """Return what the session is made of; an engine that adds operators adds them to ``settings``."""
        return str(self._file)


def _require_sound(file: Path) -> None:
    """Raise InvalidModel for a file that the engine would crash on, or never end with: weights in a pipe, and what
    the ``onnx`` package finds, where it is installed."""
    try:
        for path in _external(file):
            if os.path.lexists(path) and not path.is_dir():
                require_file(path)
    except Unreadable as error:
        raise InvalidModel(f"{file}: its weights are in {error}") from error
    if file.suffix.lower() == ".onnx":
        try:
            from ..files.onnx_sound import require_sound_file
        except ModuleNotFoundError:
            return
        require_sound_file(file)


def _spec(tensor: ort.NodeArg, declared: Mapping[str, str]) -> TensorSpec:
    kind = re.sub(r"tensor\((\w+)\)", r"\1", tensor.type)
    shape = tuple(n if isinstance(n, int) and n >= 0 else None for n in tensor.shape)
    scale = declared.get(f"scale:{tensor.name}")
    zero_point = int(declared.get(f"zero_point:{tensor.name}", 0))
    return TensorSpec(tensor.name, shape, _DTYPES.get(kind, kind), None if scale is None else float(scale), zero_point)


def _events(profile: Path) -> list[dict[str, Any]]:
    """Return what ONNX Runtime noted; it says nothing where there is no room for its notes."""
    try:
        return list(json.loads(profile.read_text(encoding="utf-8")))
    except ValueError as error:
        message = "the profile of ONNX Runtime cannot be written whole; make room for temporary files"
        raise OSError(errno.ENOSPC, message, str(profile)) from error


def _is_node(event: dict[str, object]) -> bool:
    return event.get("cat") == "Node" and str(event["name"]).endswith("_kernel_time")


def _node(event: dict[str, dict[str, object]], duration_ms: float, wanted: str) -> Node:
    """The node of an event; one that another provider than ``wanted`` ran fell back."""
    facts = event["args"]
    op = str(facts["op_name"])
    types = facts.get("input_type_shape")
    first = next((name for each in types for name in each), None) if isinstance(types, list) else None
    provider, name = str(facts.get("provider", "")), str(event["name"]).removesuffix("_kernel_time")
    return Node(name, op, kind_of(op, first), duration_ms, provider, provider not in ("", wanted))


def write_integer_product(folder: Path, size: int) -> Path:
    """Return a file with one product of square matrices of 8-bit integers, the second of which is stored.

    It is written by hand, so that no ``onnx`` is needed: https://onnx.ai/onnx/intro/concepts.html, onnx.proto3.
    """
    square = _message(1, _number(1, size)) * 2
    left, right = (_value(name, code, square) for name, code in (("a", _UINT8), ("y", _INT32)))
    weights = np.random.default_rng(0).integers(-127, 128, (size, size), dtype=np.int8).tobytes()
    stored = _number(1, size) * 2 + _number(2, _INT8) + _message(8, b"b") + _message(9, weights)
    node = _message(1, b"a") + _message(1, b"b") + _message(2, b"y") + _message(4, b"MatMulInteger")
    graph = _message(1, node) + _message(2, b"product") + _message(5, stored) + _message(11, left) + _message(12, right)
    file = folder / "product.onnx"
    file.write_bytes(_number(1, 8) + _message(8, _message(1, b"") + _number(2, 13)) + _message(7, graph))
    return file


_UINT8, _INT8, _INT32 = 2, 3, 6


def _value(name: str, dtype: int, shape: bytes) -> bytes:
    return _message(1, name.encode()) + _message(2, _message(1, _number(1, dtype) + _message(2, shape)))


def _message(field: int, content: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(content)) + content


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _varint(value: int) -> bytes:
    written = bytearray()
    while value > 0x7F:
        written.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*written, value))
