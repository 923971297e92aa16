"""A toy engine: the interpreter in numpy that belongs to ONNX runs files whose names end in .toy.

It shows all that an engine states and does. It is right, and far too slow to be used. No torch is imported, and nothing
of ``compress``: this file runs on boards.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
from onnx.helper import tensor_dtype_to_np_dtype
from onnx.reference import ReferenceEvaluator

from ..errors import InvalidModel
from ..runtime import Array, Arrays, ExecutedGraph, Options, TensorSpec, check_inputs, one_line

TITLE = "Toy"
PACKAGE = "onnx"
SUFFIXES = (".toy",)
INSTALL = "pip install onnx"
TARGETS = {"toy": {"integers": {"activation": "int8"}}}


def version() -> str:
    """Return the version of the engine."""
    return str(onnx.__version__)


def parts(file: Path) -> tuple[Path, ...]:
    """Return every file on disk that the model is made of: this one."""
    return (file,)


def load(file: Path, options: Options) -> Session:  # noqa: ARG001
    """Return ``file``, loaded; numpy knows no threads for one operator, so ``options`` say nothing to it."""
    return Session(file)


class Session:
    """A loaded file; see `runtimes.runtime.Runtime`.

    Raises:
        InvalidModel: the file is not one of this engine.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        try:
            model = onnx.load(str(file), format="protobuf")
            self._evaluator: Any = ReferenceEvaluator(model)
        except Exception as error:
            raise InvalidModel(f"{file}: Toy cannot load it, export it again ({one_line(error)})") from error
        self.inputs = tuple(_spec(value) for value in model.graph.input)
        self.outputs = tuple(_spec(value) for value in model.graph.output)

    def run(self, inputs: Arrays) -> dict[str, Array]:
        """Return the outputs by name; nothing is cast."""
        if self._evaluator is None:
            raise InvalidModel(f"{self._file}: the runtime is closed")
        check_inputs(self.inputs, inputs)
        try:
            values = self._evaluator.run(None, dict(inputs))
        except Exception as error:
            raise InvalidModel(f"{self._file}: Toy failed: {one_line(error)}") from error
        return {spec.name: value for spec, value in zip(self.outputs, values, strict=True)}

    def executed_graph(self, inputs: Arrays | None = None, runs: int = 1) -> ExecutedGraph | None:
        """Return None: this engine does not tell what it computed in."""
        return None

    def close(self) -> None:
        """Free the model; may be called twice."""
        self._evaluator = None


def _spec(value: onnx.ValueInfoProto) -> TensorSpec:
    tensor = value.type.tensor_type
    shape = tuple(size.dim_value if size.HasField("dim_value") else None for size in tensor.shape.dim)
    return TensorSpec(value.name, shape, tensor_dtype_to_np_dtype(tensor.elem_type).name)
