"""Inputs and outputs of a file: their names, their types, whether the batch is open."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from ai_edge_litert import interpreter
from ai_edge_litert import schema_py_generated as schema

from compress.errors import InvalidInput
from compress.graph.interface import Names

from .converter import quiet
from .file import File

INTEGERS = frozenset({"int8", "int16"})


def set_interface(file: File, interface: str) -> None:
    """Give inputs and outputs the type asked for; those that are not real numbers keep theirs.

    Raises:
        InvalidInput: integers are asked for, and something between computes in float.
    """
    if interface != "float32":
        _require_integers(file, interface)
    for place, index in enumerate(file.graph.inputs):
        if file.dtype(index) in INTEGERS and file.dtype(index) != interface:
            made = _other(file, index, interface)
            file.add_operator("QUANTIZE", [made], [index], before=file.operators[0])
            file.graph.inputs[place] = made
            _rename(file.model.signatureDefs[0].inputs, index, made)
    for place, index in enumerate(file.graph.outputs):
        if file.dtype(index) in INTEGERS and file.dtype(index) != interface:
            made = _other(file, index, interface)
            file.add_operator("DEQUANTIZE" if interface == "float32" else "QUANTIZE", [index], [made])
            file.graph.outputs[place] = made
            _rename(file.model.signatureDefs[0].outputs, index, made)


def _other(file: File, index: int, interface: str) -> int:
    """A tensor like this one, of the interface's type: uint8 ones stand for the same values as int8 ones."""
    tensor = file.tensors[index]
    name, shape, signature = f"{tensor.name.decode()}_{interface}", file.shape(index), tensor.shapeSignature
    if interface == "float32":
        return file.add_tensor(name, shape, "float32", signature=signature)
    parameters = file.parameters(index)
    assert parameters is not None, name
    scale, zero = parameters
    shift = 128 if interface == "uint8" else 0
    return file.add_tensor(name, shape, interface, scale=[scale], zero_point=[zero + shift], signature=signature)


def _rename(items: Sequence[Any], old: int, new: int) -> None:
    for item in items:
        if int(item.tensorIndex) == old:
            item.tensorIndex = new


def _require_integers(file: File, interface: str) -> None:
    advice = "quantize all of it with --scheme int8, its result too, or ask for --interface float32"
    for kind, indices in (("input", file.graph.inputs), ("output", file.graph.outputs)):
        for place, index in enumerate(indices):
            if file.dtype(index) not in ("int8", "uint8"):
                raise InvalidInput(
                    f"interface {interface}: {kind} {place} of the network is {file.dtype(index)}, not 8-bit integers; "
                    f"{advice}"
                )
    for operator in file.operators:
        floats = [index for index in operator.outputs if file.dtype(index).startswith("float")]
        if floats:
            raise InvalidInput(
                f"interface {interface}: {file.kind(operator)} ({file.tensors[floats[0]].name.decode()}) computes in "
                f"float; {advice}"
            )


def name_interface(file: File, names: Names) -> None:
    """Call the tensors and the arguments of the signature by these names, in the order of the network's own."""
    signature = file.model.signatureDefs[0]
    for items, indices, wanted in (
        (signature.inputs, file.graph.inputs, names.inputs),
        (signature.outputs, file.graph.outputs, names.outputs),
    ):
        places = {index: item for item in items for index in [int(item.tensorIndex)]}
        for index, name in zip(indices, wanted, strict=True):
            file.tensors[index].name = name.encode()
            if index in places:
                places[index].name = name.encode()


def open_batch(file: File, batch: int) -> None:
    """Say that the first dimension of inputs and outputs is open, and let shapes that are stored follow it."""
    for operator in file.operators:
        kind = file.kind(operator)
        if kind == "RESHAPE" and len(operator.inputs) > 1:
            _open_reshape(file, operator, batch)
        elif kind == "SLICE":
            _open_slice(file, operator, batch)
    for index in (*file.graph.inputs, *file.graph.outputs):
        tensor, shape = file.tensors[index], file.shape(index)
        if shape and shape[0] == batch:
            tensor.shapeSignature = np.asarray((-1, *shape[1:]), np.int32)


def _open_reshape(file: File, operator: Any, batch: int) -> None:
    """The stored size of the first dimension becomes -1: as many as there are."""
    sizes = file.constant(operator.inputs[1])
    if sizes is None or not sizes.size or sizes[0] != batch or (sizes < 0).any():
        return
    opened = np.asarray((-1, *sizes[1:]), np.int32)
    name = file.tensors[operator.inputs[1]].name.decode()
    operator.inputs[1] = file.add_tensor(name, opened.shape, "int32", values=opened)
    if operator.builtinOptions is not None:
        operator.builtinOptions.newShape = opened


def _open_slice(file: File, operator: Any, batch: int) -> None:
    """A slice that takes the whole batch becomes one whose masks say so: SLICE itself keeps its first shape."""
    begin, sizes = (file.constant(index) for index in operator.inputs[1:3])
    if begin is None or sizes is None or begin[0] != 0 or sizes[0] != batch or (sizes < 0).any():
        return
    name = file.tensors[operator.inputs[1]].name.decode()
    bounds = (begin, begin + sizes, np.ones_like(begin))
    stored = [
        file.add_tensor(f"{name}_{place}", values.shape, "int32", values=values.astype(np.int32))
        for place, values in enumerate(bounds)
    ]
    options = schema.StridedSliceOptionsT()
    options.beginMask = options.endMask = 1
    operator.opcodeIndex = file.opcode("STRIDED_SLICE")
    operator.inputs = [operator.inputs[0], *stored]
    operator.builtinOptionsType, operator.builtinOptions = schema.BuiltinOptions.StridedSliceOptions, options


def batches_agree(content: bytes) -> bool:
    """Whether the file computes two samples at once as one after the other, on random inputs."""
    engine = interpreter.Interpreter(model_content=content, num_threads=1)
    taken, results = engine.get_input_details(), engine.get_output_details()
    samples = [_random(detail, seed) for seed in range(2) for detail in taken]
    first, second = samples[: len(taken)], samples[len(taken) :]
    try:
        with quiet():
            one = [_run(engine, taken, results, each, batch=1) for each in (first, second)]
            both = [np.concatenate(pair) for pair in zip(first, second, strict=True)]
            together = _run(engine, taken, results, both, batch=2)
    except (RuntimeError, ValueError):
        return False
    apart = [np.concatenate(pair) for pair in zip(*one, strict=True)]
    return all(
        a.shape == b.shape and np.allclose(a, b, rtol=1e-3, atol=1e-3 * max(1.0, float(np.abs(a).max(initial=0))))
        for a, b in zip(apart, together, strict=True)
    )


def _random(detail: dict[str, Any], seed: int) -> np.ndarray[Any, Any]:
    generator = np.random.default_rng(seed)
    shape, dtype = (1, *detail["shape"][1:]), np.dtype(detail["dtype"])
    if dtype.kind == "f":
        return generator.standard_normal(shape).astype(dtype)
    return generator.integers(0, 2, shape).astype(dtype)


def _run(engine: Any, taken: Any, given: Any, inputs: Sequence[Any], *, batch: int) -> list[np.ndarray[Any, Any]]:
    for detail in taken:
        engine.resize_tensor_input(detail["index"], (batch, *detail["shape"][1:]), strict=True)
    engine.allocate_tensors()
    for detail, values in zip(taken, inputs, strict=True):
        engine.set_tensor(detail["index"], values)
    engine.invoke()
    return [engine.get_tensor(detail["index"]) for detail in given]
