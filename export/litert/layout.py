"""Operators about the layout of images, written as the engine runs them best; nothing else is computed."""

from __future__ import annotations

from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from .file import File

NO_ACTIVATION = schema.ActivationFunctionType.NONE
RELUS = frozenset({schema.ActivationFunctionType.RELU, schema.ActivationFunctionType.RELU6})


def fold_transposes(file: File) -> int:
    """Let a mean read what is transposed for it alone; returns how many transpositions are gone.

    The mean of dimensions that are dropped is the same in every order, if the others keep theirs.
    """
    gone = 0
    for operator in list(file.operators):
        if file.kind(operator) != "MEAN" or operator.builtinOptions.keepDims:
            continue
        moved = file.producer(operator.inputs[0])
        axes = file.constant(operator.inputs[1])
        if moved is None or axes is None or file.kind(moved) != "TRANSPOSE" or not _only_reader(file, moved, operator):
            continue
        order = file.constant(moved.inputs[1])
        if order is None:
            continue
        reduced = {int(axis) % len(order) for axis in axes.reshape(-1)}
        axes_left = [int(source) for place, source in enumerate(order) if place not in reduced]
        if axes_left != sorted(axes_left):
            continue
        sources = np.asarray(sorted(int(order[place]) for place in reduced), np.int32)
        name = file.tensors[operator.inputs[1]].name.decode()
        operator.inputs = [moved.inputs[0], file.add_tensor(name, sources.shape, "int32", values=sources)]
        file.operators.remove(moved)
        gone += 1
    return gone


def pad_with_zeros(file: File) -> int:
    """Let max pooling after a ReLU read images that are padded with 0 for the least value; returns how many.

    A window holds at least one value of the image, and none is below 0. PADV2, which pads with any value, is computed
    by LiteRT's own kernel; PAD by XNNPACK.
    """
    changed = 0
    for operator in file.operators:
        readers = file.consumers(operator.outputs[0])
        if file.kind(operator) != "PADV2" or not readers or operator.outputs[0] in file.graph.outputs:
            continue
        if {file.kind(reader) for reader in readers} == {"MAX_POOL_2D"} and _is_positive(file, operator.inputs[0]):
            operator.opcodeIndex = file.opcode("PAD")
            operator.inputs = operator.inputs[:2]
            operator.builtinOptionsType, operator.builtinOptions = (
                schema.BuiltinOptions.PadOptions,
                schema.PadOptionsT(),
            )
            changed += 1
    return changed


def _is_positive(file: File, index: int) -> bool:
    """Whether no value of a tensor is below 0: its least integer stands for 0, or a ReLU made it."""
    parameters = file.parameters(index)
    if parameters is not None and file.dtype(index) == "int8":
        return parameters[1] == -128
    options = getattr(file.producer(index), "builtinOptions", None)
    return getattr(options, "fusedActivationFunction", NO_ACTIVATION) in RELUS


def _only_reader(file: File, moved: Any, reader: Any) -> bool:
    index = moved.outputs[0]
    return file.consumers(index) == [reader] and index not in file.graph.outputs
