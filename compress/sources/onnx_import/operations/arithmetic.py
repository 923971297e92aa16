"""Arithmetic, comparison and conversion, element by element."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from ..step import Call, Unsupported, dtype_of
from .registry import FUNCTIONS, operator

_UNARY: Mapping[str, Callable[[Tensor], Tensor]] = {
    "Abs": torch.abs,
    "Ceil": torch.ceil,
    "Cos": torch.cos,
    "Erf": torch.erf,
    "Exp": torch.exp,
    "Floor": torch.floor,
    "Identity": lambda x: x,
    "IsNaN": torch.isnan,
    "Log": torch.log,
    "Neg": torch.neg,
    "Not": torch.logical_not,
    "Reciprocal": torch.reciprocal,
    "Round": torch.round,
    "Sign": torch.sign,
    "Sin": torch.sin,
    "Sqrt": torch.sqrt,
}
for _name, _unary in _UNARY.items():
    FUNCTIONS[_name] = lambda call, function=_unary: function(call.tensor())  # type: ignore[misc]


def _divide(a: Tensor | float, b: Tensor | float) -> Tensor:
    tensor = a if isinstance(a, Tensor) else b
    assert isinstance(tensor, Tensor), "one operand is a tensor"
    rounding = None if tensor.is_floating_point() else "trunc"
    return torch.div(torch.as_tensor(a) if not isinstance(a, Tensor) else a, b, rounding_mode=rounding)


def _as_type(x: Tensor, dtype: torch.dtype) -> Tensor:
    """``x`` in ``dtype``; a conversion to the type that it has is not written: a trace would hold it and its check."""
    return x if x.dtype == dtype else x.to(dtype)


def _power(a: Tensor | float, b: Tensor | float) -> Tensor:
    result: Tensor = torch.pow(a, b)  # type: ignore[arg-type]
    return _as_type(result, a.dtype) if isinstance(a, Tensor) else result


_BINARY: Mapping[str, Callable[[Any, Any], Any]] = {
    "Add": lambda a, b: a + b,
    "Sub": lambda a, b: a - b,
    "Mul": lambda a, b: a * b,
    "Div": _divide,
    "Pow": _power,
    "Equal": lambda a, b: a == b,
    "Greater": lambda a, b: a > b,
    "GreaterOrEqual": lambda a, b: a >= b,
    "Less": lambda a, b: a < b,
    "LessOrEqual": lambda a, b: a <= b,
}
for _name, _binary in _BINARY.items():
    FUNCTIONS[_name] = lambda call, function=_binary: function(call.operand(0), call.operand(1))  # type: ignore[misc]
_LOGICAL: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "And": torch.logical_and,
    "Or": torch.logical_or,
    "Xor": torch.logical_xor,
}
for _name, _logical in _LOGICAL.items():
    FUNCTIONS[_name] = lambda call, function=_logical: function(call.tensor(0), call.tensor(1))  # type: ignore[misc]


@operator("Mod")
def _modulo(call: Call) -> Tensor:
    return (torch.fmod if call.step.integer("fmod") else torch.remainder)(call.tensor(0), call.tensor(1))


@operator("Min", "Max", "Sum", "Mean")
def _variadic(call: Call) -> Tensor:
    pair = {"Min": torch.minimum, "Max": torch.maximum}.get(call.step.operator, torch.add)
    result = call.tensor(0)
    for index in range(1, len(call.values)):
        result = pair(result, call.tensor(index))
    return result / len(call.values) if call.step.operator == "Mean" else result


@operator("Where")
def _where(call: Call) -> Tensor:
    return torch.where(call.tensor(0).bool(), call.tensor(1), call.tensor(2))


@operator("Select")
def _select(call: Call) -> Tensor:
    """What one of two branches yields; the operator of :mod:`..branches`, not of the specification."""
    condition, then, other = (call.tensor(index) for index in range(3))
    if then.shape != other.shape or then.dtype != other.dtype:
        raise Unsupported(
            f"a branch on a value of the inputs whose sides yield {tuple(then.shape)} and {tuple(other.shape)}"
        )
    return torch.where(condition.bool().reshape(()), then, other)


@operator("Cast")
def _cast(call: Call) -> Tensor:
    return _as_type(call.tensor(), dtype_of(call.step.integer("to")))


@operator("CastLike")
def _cast_like(call: Call) -> Tensor:
    return _as_type(call.tensor(), call.tensor(1).dtype)
