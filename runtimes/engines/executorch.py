"""ExecuTorch on the CPU: XNNPACK for what a program delegates to it, portable kernels for the rest.

A program knows its inputs and outputs by position: they are called ``input_0``, ... and ``output_0``, ....
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import re
import tempfile
import warnings
import weakref
from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import version as _installed
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ..errors import InvalidInputs, InvalidModel
from ..files.flatbuffer import Schema
from ..runtime import Array, Arrays, ExecutedGraph, Node, Options, TensorSpec, check_inputs, one_line, random_inputs

TITLE = "ExecuTorch"
PACKAGE = "executorch"
SUFFIXES = (".pte",)
INSTALL = "pip install executorch"
NATIVE_TOOL = "executor_runner"
TARGETS = {
    "executorch": {"integers": {"activation": "int8"}}
}  # XNNPACK rounds the bias, which stays in float, by itself


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Keep what the engine prints, logs and warns about off the console."""
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    held, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        os.dup2(held, 2)
        os.close(held)
        os.close(nowhere)
        logging.disable(disabled)


def _bindings() -> Any:
    """The engine's compiled module; the public one before it imports the compiler of programs, for seconds."""
    package = "executorch.extension.pybindings"
    try:
        return importlib.import_module(f"{package}._C")
    except ImportError:
        return importlib.import_module(f"{package}.portable_lib")


with _silent():
    import executorch

    # The engine is linked with the libraries of this package, and takes its tensors.
    _tensor = importlib.import_module("torch").from_numpy
    portable_lib = _bindings()

Kind = Literal["integer", "float", "other"]

_DTYPES = {
    "BYTE": "uint8",
    "CHAR": "int8",
    "SHORT": "int16",
    "INT": "int32",
    "LONG": "int64",
    "HALF": "float16",
    "FLOAT": "float32",
    "DOUBLE": "float64",
    "BOOL": "bool",
    "BFLOAT16": "bfloat16",
}

# What converts, moves or reshapes data and computes nothing: kernels of XNNPACK (which has no name for that which gives
# integers another scale), and ExecuTorch's own.
_MOVES = re.compile(r"Convert|Transpose|Copy|Static Reshape|Constant Pad|Slice|Concatenate|Invalid Unary Op")
_PORTABLE_MOVES = re.compile(
    r"(de)?quantize_per\w+|_?(to|clone)(_dim_order)?(_copy)?|_to_dim_order_copy|(view|permute|expand|slice|select|squeeze"
    r"|unsqueeze|transpose|t|alias|detach|unbind|split|split_with_sizes)(_copy)?|cat|stack|copy_?|clone|constant_pad_nd"
    r"|full(_like)?|zeros|ones|empty|arange|gather|index|index_select|repeat|flip|pixel_(un)?shuffle|sym_size|et_view"
)

# Kernels of XNNPACK whose names do not tell their type, as they are called in a program.
_UNTYPED = {"Mean": "GlobalAvgPooling2d", "Clamp": "Clamp", "Average Pooling": "AvgPooling2d", "ELU": "ELU"}

_open: weakref.WeakSet[Session] = weakref.WeakSet()


def version() -> str:
    """Return the version of ExecuTorch."""
    return _installed("executorch")


def parts(file: Path) -> tuple[Path, ...]:
    """Return the file: a program holds its weights."""
    return (file,)


def load(file: Path, options: Options) -> Session:
    """Return ``file`` with ``options.threads`` threads; raises InvalidModel."""
    return Session(file, options)


class Session:
    """A program loaded into ExecuTorch; see `runtimes.runtime.Runtime`."""

    def __init__(self, file: Path, options: Options) -> None:
        self._file = file
        self._options = options
        self._closed = False
        self._loaded: tuple[Any, Any] | None = None
        self._program = _Program(file)
        self.inputs = self._program.specs("inputs")
        self.outputs = self._program.specs("outputs")
        self._most = self._program.most_samples
        self._method()

    def run(self, inputs: Arrays) -> dict[str, Array]:
        """Return the outputs by name; raises InvalidInputs for a wrong name, shape or dtype."""
        if self._closed:
            raise InvalidModel(f"{self._file}: the runtime is closed")
        # A size that varies is not checked by the engine: it would read past or short of what it was given.
        check_inputs(self.inputs, inputs)
        return self._run(self._method(), inputs)

    def executed_graph(self, inputs: Arrays | None = None, runs: int = 1) -> ExecutedGraph:
        """Return the kernels that ran, as profiled: those of XNNPACK by their own names, which tell their types.

        A build of ExecuTorch without its profiler tells the operations of the program, without durations.
        """
        arrays = random_inputs(self.inputs) if inputs is None else inputs
        check_inputs(self.inputs, arrays)
        program, method = self._load(profiled=True)
        if not program.has_etdump():
            return ExecutedGraph(tuple(self._program.written()))
        for _ in range(runs):
            self._run(method, arrays)
        with tempfile.TemporaryDirectory() as folder:
            profile = Path(folder) / "profile"
            program.write_etdump_result_to_file(str(profile), None)
            dump = _profile_schema().read(profile.read_bytes()[4:], "ETDump")
        timed = [self._program.executed(run["events"]) for run in dump["run_data"] if run.get("name") == "Execute"]
        durations = np.percentile([[node.duration_ms for node in run] for run in timed[:runs]], 25, axis=0)
        return ExecutedGraph(
            tuple(replace(node, duration_ms=float(ms)) for node, ms in zip(timed[0], durations, strict=True))
        )

    def close(self) -> None:
        """Free the program."""
        self._closed = True
        self._loaded = None

    def _run(self, method: Any, inputs: Arrays) -> dict[str, Array]:
        arrays = [np.require(inputs[spec.name], requirements=["C", "W"]) for spec in self.inputs]
        for most, array, spec in zip(self._most, arrays, self.inputs, strict=True):
            if most is not None and len(array) > most:
                raise InvalidInputs(f"input {spec.name!r}: expected at most {most} samples at once, got {len(array)}")
        try:
            results = method([_tensor(array) for array in arrays])
        except RuntimeError as error:
            raise InvalidModel(f"{self._file}: ExecuTorch failed: {one_line(error)}") from error
        return {spec.name: value.numpy() for spec, value in zip(self.outputs, results, strict=True)}

    def _method(self) -> Any:
        if self._loaded is None:
            self._loaded = self._load()
        return self._loaded[1]

    def _load(self, profiled: bool = False) -> tuple[Any, Any]:
        """The program and its method; both are kept, for the one reads from the other."""
        try:
            with _silent():
                _use_threads(self._options.threads)
                program = portable_lib._load_program(
                    str(self._file),
                    enable_etdump=profiled,
                    debug_buffer_size=0,
                    program_verification=portable_lib.Verification.InternalConsistency,
                )
                method = program.load_method(self._program.name)
        except RuntimeError as error:
            raise _refused(self._file, one_line(error)) from error
        _open.add(self)
        return program, method


def _use_threads(threads: int) -> None:
    """Give the engine, which has one pool of threads for all programs, so many; programs of the old pool load anew."""
    if portable_lib._threadpool_get_thread_count() != threads:
        for session in _open:
            session._loaded = None
        portable_lib._unsafe_reset_threadpool(threads)


def _refused(file: Path, reason: str) -> InvalidModel:
    return InvalidModel(f"{file}: ExecuTorch {version()} cannot load it, export it again ({reason})")


class _Program:
    """What a file says of itself: https://docs.pytorch.org/executorch/stable/pte-file-format.html."""

    def __init__(self, file: Path) -> None:
        content = memoryview(file.read_bytes())
        try:
            if bytes(content[4:6]) != b"ET" or bytes(content[8:12]) != b"eh00":
                raise ValueError("it does not begin as a program")
            length, self._segments_at, segments = (
                int.from_bytes(content[at : at + 8], "little") for at in (16, 24, 32)
            )
            if len(content) < max(length, self._segments_at + segments):
                raise ValueError("it is cut off")
            self._content = content
            self._root = _program_schema().read(content, "Program")
            self._plan = next(plan for plan in self._root["execution_plan"] if plan["name"] == "forward")
            self._values = [value.get("val", {"is": "Null"}) for value in self._plan["values"]]
            self.name = str(self._plan["name"])
            self._graphs = [self._graph(delegate) for delegate in self._plan.get("delegates", [])]
            self.most_samples = [self._most(self._values[place]) for place in self._plan["inputs"]]
            if not self._plan["outputs"] or not self._plan["chains"][0]["instructions"]:
                raise ValueError("it computes nothing")
        except (ValueError, KeyError, IndexError, StopIteration) as error:
            raise _refused(file, one_line(error)) from error

    def specs(self, which: Literal["inputs", "outputs"]) -> tuple[TensorSpec, ...]:
        """Return the inputs or the outputs."""
        return tuple(
            TensorSpec(
                f"{which[:-1]}_{number}",
                (None if self._most(value) is not None else value["sizes"][0], *value["sizes"][1:])
                if value.get("sizes")
                else (),
                _DTYPES.get(value.get("scalar_type", "BYTE"), "object"),
            )
            for number, value in enumerate(self._values[place] for place in self._plan[which])
        )

    @staticmethod
    def _most(value: dict[str, Any]) -> int | None:
        """The largest first size of a tensor whose size varies."""
        varies = value.get("shape_dynamism", "STATIC") != "STATIC" and value.get("sizes")
        return int(value["sizes"][0]) if varies else None

    def executed(self, events: list[dict[str, Any]]) -> list[Node]:
        """Return the kernels of one profiled run, in order."""
        nodes: list[Node] = []
        profiled = [event["profile_event"] for event in events if "profile_event" in event]
        inside = {event.get("instruction_id", -1) for event in profiled if "delegate_debug_id_str" in event}
        for event in profiled:
            number = event.get("instruction_id", -1)
            duration_ms = (event["end_time"] - event["start_time"]) / 1e6
            label = event.get("delegate_debug_id_str")
            if label is not None:
                op = label.partition(" #")[0]
                kind = self._kind(number, label, nodes[-1].kind if nodes else "float")
                nodes.append(Node(f"{number}/{label}", op, kind, duration_ms, self._delegate(number)))
            elif event.get("name") in ("OPERATOR_CALL", "DELEGATE_CALL") and number not in inside:
                nodes.append(self._instruction(number, duration_ms))
        return nodes

    def written(self) -> Iterator[Node]:
        """The operations of the program, in order."""
        for number in range(len(self._plan["chains"][0]["instructions"])):
            graph = self._graph_of(number)
            for place, (op, kind) in enumerate(graph):
                yield Node(f"{number}/{op} #{place}", op, kind, 0.0, self._delegate(number))
            if not graph:
                yield self._instruction(number, 0.0)

    def _graph_of(self, number: int) -> list[tuple[str, Kind]]:
        call = self._plan["chains"][0]["instructions"][number]["instr_args"]
        return self._graphs[call.get("delegate_index", 0)] if call["is"] == "DelegateCall" else []

    def _instruction(self, number: int, duration_ms: float) -> Node:
        """An instruction of the program that is one kernel, or a delegate that does not tell more."""
        call = self._plan["chains"][0]["instructions"][number]["instr_args"]
        if call["is"] != "KernelCall":
            name = (
                self._plan["delegates"][call.get("delegate_index", 0)]["id"] if "Delegate" in call["is"] else call["is"]
            )
            return Node(f"{number}/{name}", name, "other", duration_ms, self._delegate(number))
        operator = self._plan["operators"][call.get("op_index", 0)]["name"]
        short = operator.rpartition("::")[2]
        types = [self._values[place].get("scalar_type", "BYTE") for place in call["args"] if self._is_tensor(place)]
        kind: Kind = "other"
        if not _PORTABLE_MOVES.fullmatch(short) and types:
            kind = "integer" if types[0] in ("BYTE", "CHAR") else "float" if types[0] in _FLOATS else "other"
        return Node(f"{number}/{operator}", operator, kind, duration_ms, _PORTABLE, bool(self._graphs))

    def _delegate(self, number: int) -> str:
        """The delegate that an instruction calls; "" where it calls none."""
        call = self._plan["chains"][0]["instructions"][number]["instr_args"]
        return str(self._plan["delegates"][call.get("delegate_index", 0)]["id"]) if "Delegate" in call["is"] else ""

    def _is_tensor(self, place: int) -> bool:
        return 0 <= place < len(self._values) and self._values[place]["is"] == "Tensor"

    def _kind(self, number: int, label: str, before: Kind) -> Kind:
        """The arithmetic of a kernel of XNNPACK, from its name: "Convolution (NHWC, QC8) IGEMM #1".

        Where the name has no type it is that of the operation in the program; a clip that is none there clips what was
        computed before.
        """
        name, _, rest = label.partition(" (")
        if _MOVES.match(name):
            return "other"
        types = re.findall(r"\b([A-Z]+)\d+W?\b", rest.partition(")")[0])
        if types:
            return "integer" if any(each.startswith(("Q", "S", "U")) for each in types) else "float"
        wanted = _UNTYPED.get(name, name.replace(" ", "")).lower()
        kinds = [kind for op, kind in self._graph_of(number) if op.lower() == wanted]
        place = int(label.rpartition("#")[2] or 1) - 1 if "#" in label else 0
        if len(set(kinds)) == 1:
            return kinds[0]
        return kinds[place] if place < len(kinds) else before

    def _graph(self, delegate: dict[str, Any]) -> list[tuple[str, Kind]]:
        """The operations that XNNPACK was given, with their arithmetic."""
        if delegate["id"] != "XnnpackBackend":
            return []
        where = delegate["processed"]
        if where.get("location", "INLINE") == "INLINE":
            data = self._root["backend_delegate_data"][where.get("index", 0)]["data"]
        else:
            segment = self._root["segments"][where.get("index", 0)]
            start = self._segments_at + segment.get("offset", 0)
            data = self._content[start : start + segment["size"]]
        at, size = (int.from_bytes(data[begin : begin + 4], "little") for begin in (10, 14))
        graph = _xnnpack_schema().read(data[at : at + size], "XNNGraph")
        tensors = [value["xvalue_union"] for value in graph["xvalues"]]
        types = {
            tensor.get("id_out", 0): tensor["datatype"].removeprefix("xnn_datatype_")
            for tensor in (each.get("tensor_value", each) for each in tensors)
        }
        return [self._operation(node["xnode_union"], types) for node in graph["xnodes"]]

    @staticmethod
    def _operation(node: dict[str, Any], types: dict[int, str]) -> tuple[str, Kind]:
        op = node["is"].removeprefix("XNN")
        if re.match(r"Convert|StaticTranspose|StaticReshape|StaticSlice|StaticConstantPad|Concatenate|Copy", op):
            return op, "other"
        read = types.get(node.get("input1_id", node.get("input_id", 0)), "fp32")
        return op, "integer" if read.startswith("q") else "float"


_PORTABLE = "portable kernels"
"""What the engine runs a node with that no delegate took."""

_FLOATS = ("HALF", "FLOAT", "DOUBLE", "BFLOAT16")
_SCHEMAS: dict[str, Schema] = {}


def _schema(*files: str) -> Schema:
    """The schema that is in these files of the engine's package."""
    if files[-1] not in _SCHEMAS:
        folder = Path(next(iter(executorch.__path__)))
        _SCHEMAS[files[-1]] = Schema.parse("\n".join((folder / file).read_text(encoding="utf-8") for file in files))
    return _SCHEMAS[files[-1]]


def _program_schema() -> Schema:
    return _schema("exir/_serialize/scalar_type.fbs", "exir/_serialize/program.fbs")


def _xnnpack_schema() -> Schema:
    return _schema("backends/xnnpack/serialization/schema.fbs")


def _profile_schema() -> Schema:
    return _schema("devtools/etdump/scalar_type.fbs", "devtools/etdump/etdump_schema_flatcc.fbs")
