"""Arithmetic on the sizes of tensors, in plain integers and outside of torch, and tensors made from sizes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..step import Array, Call, Unsupported, Value, as_tensor, dtype_of
from .movement import expand, slices_of
from .registry import MOST_SIZES, on_shapes, operator


def size_array(sizes: Sequence[int]) -> Array:
    """Sizes as an array: of int64, or of objects where some are symbols."""
    if all(type(size) is int for size in sizes):
        return np.asarray(sizes, np.int64)
    array = np.empty(len(sizes), object)
    array[:] = list(sizes)
    return array


@on_shapes("Shape")
def _shape(call: Call) -> Array:
    sizes = list(call.values[0].shape)  # type: ignore[union-attr]
    stop = call.step.integer("end", len(sizes))
    return size_array(sizes[call.step.integer("start") : stop])


@on_shapes("Size")
def _size(call: Call) -> Array:
    return size_array([math.prod(call.values[0].shape)]).reshape(())  # type: ignore[union-attr]


@operator("ConstantOfShape")
def _constant_of_shape(call: Call) -> Tensor:
    value = call.step.attributes.get("value", np.zeros(1, np.float32))
    assert isinstance(value, np.ndarray), "the value is a tensor"
    return torch.full(call.sizes("shape", 0) or [], value.reshape(-1)[0].item(), dtype=as_tensor(value).dtype)


@on_shapes("ConstantOfShape")
def _known_constant_of_shape(call: Call) -> Value:
    sizes = call.array(0).reshape(-1).tolist()
    if len(sizes) > 1 or not all(type(size) is int for size in sizes) or math.prod(sizes) > MOST_SIZES:
        return _constant_of_shape(call)
    value = call.step.attributes.get("value", np.zeros(1, np.float32))
    assert isinstance(value, np.ndarray), "the value is a tensor"
    return np.full(sizes, value.reshape(-1)[0])


@operator("Range")
def _range(call: Call) -> Tensor:
    start, limit, delta = (call.array(i).reshape(-1).tolist()[0] for i in range(3))
    first = call.values[0]
    dtype = torch.float32 if isinstance(first, np.ndarray) and first.dtype.kind == "f" else torch.int64
    return torch.arange(start, limit, delta, dtype=first.dtype if isinstance(first, Tensor) else dtype)


def _each(function: Callable[..., Any], *arrays: Array) -> Array:
    """``function`` of every element, broadcast; Python's own arithmetic, which symbols take part in."""
    spread = np.broadcast_arrays(*arrays)
    if spread[0].size > MOST_SIZES**2 // 16:
        raise Unsupported(f"arithmetic on {spread[0].size:,} sizes")
    flat = [function(*items) for items in zip(*(array.reshape(-1).tolist() for array in spread), strict=True)]
    if all(type(item) is bool for item in flat):
        return np.asarray(flat, bool).reshape(spread[0].shape)
    if all(type(item) is int for item in flat):
        return np.asarray(flat, np.int64).reshape(spread[0].shape)
    if all(type(item) in (int, float) for item in flat):
        return np.asarray(flat, np.float32).reshape(spread[0].shape)
    result = np.empty(len(flat), object)
    result[:] = flat
    return result.reshape(spread[0].shape)


def _quotient(a: Any, b: Any) -> Any:
    if isinstance(a, (float, torch.SymFloat)) or isinstance(b, (float, torch.SymFloat)):
        return a / b
    if type(a) is int and type(b) is int and (a < 0) != (b < 0):
        return -(abs(a) // abs(b))
    return a // b


_SIZE_ARITHMETIC: Mapping[str, Callable[..., Any]] = {
    "Add": lambda a, b: a + b,
    "Sub": lambda a, b: a - b,
    "Mul": lambda a, b: a * b,
    "Div": _quotient,
    "Mod": lambda a, b: a % b,
    "Min": lambda *items: _fold(torch.sym_min, items),
    "Max": lambda *items: _fold(torch.sym_max, items),
    "Neg": lambda a: -a,
    "Floor": lambda a: _as_float(math.floor(a)),
    "Ceil": lambda a: _as_float(math.ceil(a)),
    "Equal": lambda a, b: bool(a == b),
    "Greater": lambda a, b: bool(a > b),
    "GreaterOrEqual": lambda a, b: bool(a >= b),
    "Less": lambda a, b: bool(a < b),
    "LessOrEqual": lambda a, b: bool(a <= b),
    "And": lambda a, b: bool(a and b),
    "Or": lambda a, b: bool(a or b),
    "Not": lambda a: not a,
    "Where": lambda condition, a, b: a if condition else b,
}


def _as_float(number: Any) -> Any:
    return float(number) if type(number) in (bool, int, float) else torch.sym_float(number)


def _as_integer(number: Any) -> Any:
    return int(number) if type(number) in (bool, int, float) else torch.sym_int(number)


def _fold(function: Callable[[Any, Any], Any], items: Sequence[Any]) -> Any:
    result = items[0]
    for item in items[1:]:
        result = function(result, item)
    return result


@on_shapes(*_SIZE_ARITHMETIC)
def _size_arithmetic(call: Call) -> Array:
    return _each(_SIZE_ARITHMETIC[call.step.operator], *(call.array(i) for i in range(len(call.values))))


@on_shapes("Cast")
def _cast_sizes(call: Call) -> Array:
    dtype = dtype_of(call.step.integer("to"))
    if dtype == torch.bool:
        return _each(bool, call.array(0))
    if dtype.is_floating_point:
        return _each(_as_float, call.array(0))
    return _each(_as_integer, call.array(0))


@on_shapes("Identity")
def _same_sizes(call: Call) -> Array:
    return call.array(0)


@on_shapes("Gather")
def _gather_sizes(call: Call) -> Array:
    return np.asarray(np.take(call.array(0), call.array(1).astype(np.int64), call.step.integer("axis")))


@on_shapes("Concat")
def _concat_sizes(call: Call) -> Array:
    return np.concatenate([call.array(i) for i in range(len(call.values))], call.step.integer("axis"))


@on_shapes("Slice")
def _slice_sizes(call: Call) -> Array:
    array = call.array(0)
    index: list[slice] = [slice(None)] * array.ndim
    for axis, start, end, step in slices_of(call, array.ndim):
        index[axis] = slice(start, None if step < 0 and end < -array.shape[axis] else end, step)
    return array[tuple(index)]


@on_shapes("Squeeze")
def _squeeze_sizes(call: Call) -> Array:
    axes = call.sizes("axes", 1)
    return np.squeeze(call.array(0), None if axes is None else tuple(axes))


@on_shapes("Unsqueeze")
def _unsqueeze_sizes(call: Call) -> Array:
    return np.expand_dims(call.array(0), tuple(call.sizes("axes", 1) or ()))


@on_shapes("Reshape")
def _reshape_sizes(call: Call) -> Array:
    return call.array(0).reshape([int(size) for size in call.sizes("shape", 1) or []])


@on_shapes("Expand")
def _expand_sizes(call: Call) -> Value:
    sizes = call.sizes("shape", 1) or []
    if not all(type(size) is int for size in sizes) or math.prod(sizes) > MOST_SIZES:
        return expand(call)
    array = call.array(0)
    return np.broadcast_to(array, np.broadcast_shapes(array.shape, tuple(sizes)))


@on_shapes("Split")
def _split_sizes(call: Call) -> tuple[Array, ...]:
    array, axis, sizes = call.array(0), call.step.integer("axis"), call.sizes("split", 1)
    parts: int | list[int] = len(call.step.outputs) if sizes is None else [int(n) for n in np.cumsum(sizes)[:-1]]
    return tuple(np.split(array, parts, axis))


@on_shapes("ReduceProd", "ReduceSum", "ReduceMax", "ReduceMin")
def _reduce_sizes(call: Call) -> Array:
    items = call.array(0).reshape(-1).tolist()
    functions: Mapping[str, Callable[[list[Any]], Any]] = {
        "ReduceProd": math.prod,
        "ReduceSum": sum,
        "ReduceMax": lambda a: _fold(torch.sym_max, a),
        "ReduceMin": lambda a: _fold(torch.sym_min, a),
    }
    total = functions[call.step.operator](items)
    keep = bool(call.step.integer("keepdims", 1))
    return _each(lambda a: a, size_array([total])).reshape((1,) * call.array(0).ndim if keep else ())
