"""Weights in fewer bits than the converter writes: integers of 4 bits, integers beside floats, float16."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from .file import TYPES, Array, File
from .program import StoredWeight

PRODUCTS = frozenset({"CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV"})
HYBRID = frozenset({"FULLY_CONNECTED"})
"""Operators that multiply floats by integer weights themselves, rounding what they read to 8 bits as they go."""


def store(file: File, weights: Iterable[StoredWeight]) -> int:
    """Put the stored forms of ``weights`` in the place of their rounded values; returns how many are not in the file.

    A float operator reads such a weight through DEQUANTIZE, which engines compute once at load; FULLY_CONNECTED reads
    the integers themselves. Integers of 4 bits that an integer operator reads are packed.
    """
    known = {_key(weight.real): weight for weight in weights}  # a layer that is called twice has one weight
    forms = {
        _key(values): (key, weight, axis, form)
        for key, weight in known.items()
        for values, axis, form in _forms(weight)
    }
    keys = set()
    for index in range(len(file.tensors)):
        values = file.constant(index)
        if values is None or file.dtype(index) not in ("float32", "int8"):
            continue
        hit = forms.get(_key(values))
        if hit is None:
            continue
        key, weight, axis, stored = hit
        keys.add(key)
        if file.dtype(index) == "float32":
            _shorten(file, index, weight, stored, axis)
        elif weight.bits == 4:
            file.tensors[index].type = TYPES["int4"]
            file.set_constant(index, values)
    return len(known) - len(keys)


def widen_biases(file: File) -> int:
    """Store biases that are added to products of 16-bit values in 64 bits, as the format specifies; returns how many.

    With 32 bits, kernels that do not look at the type read two biases as one.
    """
    widened = 0
    for operator in file.operators:
        if file.kind(operator) not in PRODUCTS or len(operator.inputs) < 3 or operator.inputs[2] < 0:
            continue
        bias = operator.inputs[2]
        values = file.constant(bias)
        if values is None or file.dtype(operator.inputs[0]) != "int16" or file.dtype(bias) != "int32":
            continue
        quantization = file.tensors[bias].quantization
        name = file.tensors[bias].name.decode()
        operator.inputs[2] = file.add_tensor(
            name,
            values.shape,
            "int64",
            values=values.astype(np.int64),
            scale=quantization.scale,
            zero_point=quantization.zeroPoint,
        )
        widened += 1
    return widened


def _key(values: Array) -> tuple[str, int, bytes]:
    return values.dtype.name, values.size, np.ascontiguousarray(values).tobytes()


def _forms(weight: StoredWeight) -> Iterator[tuple[Array, int, Array]]:
    """A weight as the file may have it: its values, its dimension of channels, and what to store for them."""
    integers = weight.integers
    for order in _orders(weight.real.ndim):
        axis = order.index(0)
        real = weight.real.transpose(order)
        if integers is None:
            yield real, axis, real.astype(np.float16)
        else:
            stored = integers.transpose(order).astype(np.int8)
            yield real, axis, stored
            yield stored, axis, stored


def _orders(rank: int) -> list[tuple[int, ...]]:
    """Output channels first as in torch; then input channels last; then, depthwise, output channels last."""
    if rank < 3:
        return [tuple(range(rank))]
    space = tuple(range(2, rank))
    return [tuple(range(rank)), (0, *space, 1), (1, *space, 0)]


def _shorten(file: File, index: int, weight: StoredWeight, stored: Array, axis: int) -> None:
    """Store a weight that a float operator reads in fewer bits."""
    made = _add(file, index, weight, stored, axis)
    readers = file.consumers(index)
    direct = [reader for reader in readers if weight.parameters is not None and _multiplies(file, reader, index)]
    for reader in direct:
        reader.inputs = [made if read == index else read for read in reader.inputs]
        reader.builtinOptions.asymmetricQuantizeInputs = True
    if len(direct) < len(readers):
        first = next(reader for reader in readers if reader not in direct)
        file.tensors[index].buffer = 0
        file.add_operator("DEQUANTIZE", [made], [index], before=first)


def _add(file: File, index: int, weight: StoredWeight, stored: Array, axis: int) -> int:
    """The stored form of a weight as a new tensor."""
    shape, name, parameters = file.shape(index), file.tensors[index].name.decode(), weight.parameters
    if parameters is None:
        return file.add_tensor(f"{name}_float16", shape, "float16", values=stored)
    dtype = "int4" if weight.bits == 4 else "int8"
    if parameters.block is not None:
        scales = parameters.scale.reshape(shape[0], -1).astype(np.float16)
        made = file.add_tensor(f"{name}_{dtype}", shape, dtype, values=stored)
        file.set_blocks(
            made, file.add_tensor(f"{name}_scales", scales.shape, "float16", values=scales), parameters.block
        )
        return made
    place = len(shape) - 1 if axis else 0
    scale = parameters.scale.tolist()
    zeros = [0] * len(scale)
    return file.add_tensor(f"{name}_{dtype}", shape, dtype, values=stored, scale=scale, zero_point=zeros, axis=place)


def _multiplies(file: File, operator: Any, index: int) -> bool:
    return file.kind(operator) in HYBRID and operator.inputs[1] == index
