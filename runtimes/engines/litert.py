"""LiteRT (TensorFlow Lite) on the CPU: its interpreter, with the XNNPACK delegate for all that it takes."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import ai_edge_litert
import numpy as np
from ai_edge_litert import interpreter as engine

from ..errors import InvalidModel
from ..runtime import Array, Arrays, ExecutedGraph, Node, Options, TensorSpec, check_inputs, one_line, random_inputs

TITLE = "LiteRT"
PACKAGE = "ai_edge_litert"
SUFFIXES = (".tflite",)
INSTALL = "pip install ai_edge_litert"
NATIVE_TOOL = "benchmark_model"
TARGETS = {
    # LiteRT 8-bit quantization specification: weights in -127..127, 16-bit activations about zero point 0.
    "litert": {
        "interfaces": ("float32", "int8", "uint8"),
        "integers": {
            "activation": "int8",
            "wide_activation": "int16",
            "four_bit_products": True,
            "pools_in_one_scale": True,
            "integer_bias": True,
        },
    }
}

DELEGATE = "DELEGATE"
DELEGATED = "XNNPACK:"
"""Stands before the operators that the delegate computes; the others are LiteRT's own kernels."""

_FAILURES = (RuntimeError, ValueError, TypeError, OSError)

# Operators that convert, move or reshape data and compute nothing.
_MOVES = frozenset(
    {
        *("QUANTIZE", "DEQUANTIZE", "CAST", "RESHAPE", "TRANSPOSE", "SQUEEZE", "EXPAND_DIMS", "CONCATENATION"),
        *("SPLIT", "SPLIT_V", "SLICE", "STRIDED_SLICE", "GATHER", "GATHER_ND", "SCATTER_ND", "PAD", "PADV2"),
        *("MIRROR_PAD", "TILE", "BROADCAST_TO", "PACK", "UNPACK", "SHAPE", "RANK", "FILL", "ZEROS_LIKE", "RANGE"),
        *("SPACE_TO_DEPTH", "DEPTH_TO_SPACE", "SPACE_TO_BATCH_ND", "BATCH_TO_SPACE_ND", "REVERSE_V2"),
        *("REVERSE_SEQUENCE", "SELECT", "SELECT_V2", "WHERE", "IF", "WHILE", "RESIZE_NEAREST_NEIGHBOR"),
    }
)
_INTEGERS = frozenset({"int4", "int8", "uint8", "int16"})


def version() -> str:
    """Return the version of LiteRT."""
    return str(ai_edge_litert.__version__)


def parts(file: Path) -> tuple[Path, ...]:
    """Return the file: all is in it."""
    return (file,)


def load(file: Path, options: Options) -> Session:
    """Return ``file`` as an interpreter with ``options.threads`` threads; raises InvalidModel."""
    return Session(file, options)


def kind_of(op: str, read: Iterable[str], made: Iterable[str]) -> Literal["integer", "float", "other"]:
    """Return the arithmetic of a node from its operator and the dtypes of what it reads and makes.

    A product of floats with integer weights rounds the floats as it goes and multiplies integers.

    >>> kind_of("CONV_2D", ["int8", "int8", "int32"], ["int8"]), kind_of("ADD", ["float32", "float32"], ["float32"])
    ('integer', 'float')
    >>> kind_of("FULLY_CONNECTED", ["float32", "int8"], ["float32"]), kind_of("QUANTIZE", ["float32"], ["int8"])
    ('integer', 'other')
    """
    if op in _MOVES:
        return "other"
    if any(dtype in _INTEGERS for dtype in (*read, *made)):
        return "integer"
    return "float" if any(dtype.startswith(("float", "bfloat")) for dtype in (*read, *made)) else "other"


class Session:
    """A file loaded into LiteRT; see `runtimes.runtime.Runtime`."""

    def __init__(self, file: Path, options: Options) -> None:
        self._file = file
        self._options = options
        self._interpreter: Any = self._open()
        taken, outputs = self._interpreter.get_input_details(), self._interpreter.get_output_details()
        names = self._names()
        self.inputs = tuple(_spec(detail, names) for detail in taken)
        self.outputs = tuple(_spec(detail, names) for detail in outputs)
        self._shapes = {
            spec.name: tuple(map(int, each["shape"])) for spec, each in zip(self.inputs, taken, strict=True)
        }
        self._taken = [
            (spec.name, int(each["index"]), np.dtype(each["dtype"]))
            for spec, each in zip(self.inputs, taken, strict=True)
        ]
        self._result_tensors = [
            (spec.name, int(each["index"])) for spec, each in zip(self.outputs, outputs, strict=True)
        ]

    def run(self, inputs: Arrays) -> dict[str, Array]:
        """Return the outputs by name; raises InvalidInputs for a wrong name, shape or dtype."""
        interpreter = self._interpreter
        if interpreter is None:
            raise InvalidModel(f"{self._file}: the runtime is closed")
        fits = len(inputs) == len(self._taken) and all(
            isinstance(value := inputs.get(name), np.ndarray)
            and value.dtype == dtype
            and value.shape == self._shapes[name]
            for name, _, dtype in self._taken
        )
        if not fits:
            check_inputs(self.inputs, inputs)
        try:
            if not fits:
                self._resize(inputs)
            for name, index, _ in self._taken:
                interpreter.set_tensor(index, inputs[name])
            interpreter.invoke()
            return {name: interpreter.get_tensor(index) for name, index in self._result_tensors}
        except _FAILURES as error:
            raise InvalidModel(f"{self._file}: LiteRT failed: {one_line(error)}") from error

    def executed_graph(self, inputs: Arrays | None = None, runs: int = 1) -> ExecutedGraph:
        """Return the nodes that run, with the dtypes of their tensors; their durations are not told by LiteRT.

        Operators that the delegate computes have ``XNNPACK:`` before their names.
        """
        if self._interpreter is None:
            raise InvalidModel(f"{self._file}: the runtime is closed")
        self.run(random_inputs(self.inputs) if inputs is None else inputs)  # a shape decides what the delegate takes
        operators = self._interpreter._get_ops_details()
        tensors = {each["index"]: each for each in self._interpreter.get_tensor_details()}
        delegated = _delegated(operators)
        nodes = []
        for operator in operators:
            op = str(operator["op_name"])
            if op == DELEGATE:
                continue
            read = [tensors[i]["dtype"].__name__ for i in map(int, operator["inputs"]) if i in tensors]
            made = [tensors[i]["dtype"].__name__ for i in map(int, operator["outputs"]) if i in tensors]
            name = str(tensors[int(operator["outputs"][0])]["name"]) if made else op
            label = f"{DELEGATED}{op}" if operator["index"] in delegated else op
            by_delegate = operator["index"] in delegated
            provider = DELEGATED.removesuffix(":") if by_delegate else TITLE
            nodes.append(Node(name, label, kind_of(op, read, made), 0.0, provider, not by_delegate))
        return ExecutedGraph(tuple(nodes))

    def close(self) -> None:
        """Free the interpreter."""
        self._interpreter = None

    def _open(self) -> Any:
        try:
            # Read into memory, so that the file may be changed while it is loaded.
            content = self._file.read_bytes()
            with _quiet():
                interpreter = engine.Interpreter(model_content=content, num_threads=self._options.threads)
                interpreter.allocate_tensors()
        except _FAILURES as error:
            reason = one_line(error)
            raise InvalidModel(
                f"{self._file}: LiteRT {version()} cannot load it, export it again ({reason})"
            ) from error
        return interpreter

    def _names(self) -> dict[int, str]:
        """Return what the file's only signature calls its tensors; without one, their own names stand."""
        signatures = self._interpreter.get_signature_list()
        if len(signatures) != 1:
            return {}
        runner = self._interpreter.get_signature_runner(next(iter(signatures)))
        tensors = (*runner.get_input_details().items(), *runner.get_output_details().items())
        return {int(detail["index"]): str(name) for name, detail in tensors}

    def _resize(self, inputs: Arrays) -> None:
        """Make room for another batch."""
        for name, index, _ in self._taken:
            self._interpreter.resize_tensor_input(index, inputs[name].shape, strict=True)
        self._shapes = {}  # until all has its place
        self._interpreter.allocate_tensors()
        self._shapes = {name: inputs[name].shape for name, _, _ in self._taken}


def _delegated(operators: list[dict[str, Any]]) -> set[int]:
    """Return the operators that delegates took: from the outputs of each back to its inputs."""
    makers = {int(i): each for each in operators if each["op_name"] != DELEGATE for i in each["outputs"]}
    taken: set[int] = set()
    for delegate in (each for each in operators if each["op_name"] == DELEGATE):
        read = {int(i) for i in delegate["inputs"]}
        left = [int(i) for i in delegate["outputs"]]
        while left:
            at = left.pop()
            maker = makers.get(at)
            if at in read or maker is None or maker["index"] in taken:
                continue
            taken.add(maker["index"])
            left += [int(i) for i in maker["inputs"]]
    return taken


def _spec(detail: dict[str, Any], names: dict[int, str]) -> TensorSpec:
    signature = detail["shape_signature"] if len(detail["shape_signature"]) == len(detail["shape"]) else detail["shape"]
    shape = tuple(int(n) if n >= 0 else None for n in signature)
    name = names.get(int(detail["index"]), str(detail["name"]))
    scale, zero_point = detail["quantization"]
    dtype = np.dtype(detail["dtype"]).name
    return TensorSpec(name, shape, dtype, float(scale) if scale else None, int(zero_point))


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the engine's remarks, which native code writes, off the console."""
    sys.stderr.flush()
    stderr = os.dup(2)
    with Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
