"""Core ML, on Apple's systems alone: what runs where (CPU, GPU, Neural Engine) is the system's choice.

It is written against the documentation of coremltools, and has not been run by this project's tests.
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.metadata import version as _installed
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InvalidModel
from ..runtime import Array, Arrays, ExecutedGraph, Options, TensorSpec, check_inputs, one_line

TITLE = "Core ML"
PACKAGE = "coremltools"
SUFFIXES = (".mlpackage", ".mlmodel")
INSTALL = "pip install coremltools"
SYSTEMS = ("darwin",)
UNPROVEN = "written against the documentation of coremltools; no test has run it"
TARGETS = {"coreml": {"integers": {"activation": "int8", "symmetric": True}}}  # the bias in float

if sys.platform not in SYSTEMS:
    raise ImportError(f"Core ML runs on Apple's systems alone, and this is {sys.platform}")

ct: Any = import_module("coremltools")

_DTYPES = {65552: "float16", 65568: "float32", 65600: "float64", 131104: "int32", 131080: "int8"}
"""By the numbers of ``ArrayFeatureType.ArrayDataType`` in Core ML's specification."""


def version() -> str:
    """Return the version of coremltools."""
    return _installed("coremltools")


def parts(file: Path) -> tuple[Path, ...]:
    """Return the file, or the files of the package."""
    return tuple(sorted(each for each in file.rglob("*") if each.is_file())) if file.is_dir() else (file,)


def load(file: Path, options: Options) -> Session:
    """Return ``file``, compiled for this system; Core ML has no setting for threads. Raises InvalidModel."""
    return Session(file, options)


class Session:
    """A package loaded into Core ML; see `runtimes.runtime.Runtime`."""

    def __init__(self, file: Path, options: Options) -> None:
        self._file = file
        self._options = options
        try:
            self._model: Any = ct.models.MLModel(str(file))
            description = self._model.get_spec().description
        except Exception as error:
            raise InvalidModel(f"{file}: Core ML cannot load it, export it again ({one_line(error)})") from error
        self._labels = self._classes()
        self._scores = str(description.predictedProbabilitiesName)
        self.inputs = tuple(_spec(feature) for feature in description.input)
        self.outputs = tuple(
            TensorSpec(feature.name, (1, len(self._labels)), "float32")
            if feature.name == self._scores
            else _spec(feature)
            for feature in description.output
            if feature.name != description.predictedFeatureName
        )

    def run(self, inputs: Arrays) -> dict[str, Array]:
        """Return the outputs by name; those of a classifier in the order of its labels."""
        if self._model is None:
            raise InvalidModel(f"{self._file}: the runtime is closed")
        check_inputs(self.inputs, inputs)
        try:
            results = self._model.predict(dict(inputs))
        except Exception as error:
            raise InvalidModel(f"{self._file}: Core ML failed: {one_line(error)}") from error
        return {spec.name: self._array(results[spec.name]) for spec in self.outputs}

    def executed_graph(self, inputs: Arrays | None = None, runs: int = 1) -> ExecutedGraph | None:
        """Return None: Core ML does not tell what it computed in."""
        return None

    def close(self) -> None:
        """Free the model."""
        self._model = None

    def _array(self, value: Any) -> Array:
        if isinstance(value, dict):
            return np.asarray([[value[label] for label in self._labels]], np.float32)
        return np.asarray(value)

    def _classes(self) -> list[Any]:
        """The labels of a classifier, in the order of its scores."""
        program = self._model.get_spec().mlProgram
        for function in program.functions.values():
            for block in function.block_specializations.values():
                for operation in block.operations:
                    if operation.type == "classify":
                        name = operation.inputs["classes"].arguments[0].name
                        return _strings(block, name)
        return []


def _strings(block: Any, name: str) -> list[Any]:
    """The constant ``name`` of a block: texts."""
    for operation in block.operations:
        if operation.type == "const" and operation.outputs[0].name == name:
            return list(operation.attributes["val"].immediateValue.tensor.strings.values)
    return []


def _spec(feature: Any) -> TensorSpec:
    array = feature.type.multiArrayType
    ranges = list(array.shapeRange.sizeRanges)
    varies = [each.lowerBound != each.upperBound for each in ranges] or [False] * len(array.shape)
    shape = tuple(None if vary else int(size) for size, vary in zip(array.shape, varies, strict=True))
    return TensorSpec(feature.name, shape, _DTYPES.get(array.dataType, "object"))
