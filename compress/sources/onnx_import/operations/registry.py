"""The tables of operators, which the modules beside this one fill."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TypeVar

from torch import Tensor

from ..step import Call, Value

Function = Callable[[Call], Value | tuple[Value, ...]]
Registered = TypeVar("Registered", bound=Function)
FUNCTIONS: dict[str, Function] = {}
"""Operators on tensors."""
ON_SHAPES: dict[str, Function] = {}
"""Operators on sizes, used where no input is a tensor."""
KNOWN_INPUTS: Mapping[str, frozenset[int]] = {
    name: frozenset(indices)
    for name, indices in {
        "Clip": (1, 2),
        "ConstantOfShape": (0,),
        "CumSum": (1,),
        "Dropout": (1, 2),
        "Expand": (1,),
        "Pad": (1, 2, 3),
        "Range": (0, 1, 2),
        "Reshape": (1,),
        "Resize": (1, 2, 3),
        "Slice": (1, 2, 3, 4),
        "Split": (1,),
        "Squeeze": (1,),
        "Tile": (1,),
        "TopK": (1,),
        "Trilu": (1,),
        "Unsqueeze": (1,),
        "Upsample": (1,),
        **{f"Reduce{kind}": (1,) for kind in ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum")},
        "ReduceSumSquare": (1,),
    }.items()
}
"""Inputs that are read as numbers: sizes, axes, bounds."""
MOST_SIZES = 4096
"""Elements of what is computed as plain numbers; what has more is a tensor."""


def operator(*names: str) -> Callable[[Registered], Registered]:
    """Register a function for tensors."""

    def register(function: Registered) -> Registered:
        FUNCTIONS.update(dict.fromkeys(names, function))
        return function

    return register


def on_shapes(*names: str) -> Callable[[Registered], Registered]:
    """Register a function for sizes."""

    def register(function: Registered) -> Registered:
        ON_SHAPES.update(dict.fromkeys(names, function))
        return function

    return register


def run(call: Call) -> tuple[Value, ...]:
    """The outputs of one step.

    Raises:
        Unsupported: the operator is used in a way that has no counterpart.
    """
    step = call.step
    shapes_only = not any(isinstance(value, Tensor) or _is_long(call, value) for value in call.values)
    function = ON_SHAPES.get(step.operator) if shapes_only or step.operator in ("Shape", "Size") else None
    outputs = (function or FUNCTIONS[step.operator])(call)
    return outputs if isinstance(outputs, tuple) else (outputs,)


def _is_long(call: Call, value: Value | None) -> bool:
    """Whether an array holds more numbers than sizes are, where tensors can take its place."""
    return value is not None and call.step.operator in FUNCTIONS and math.prod(value.shape) > MOST_SIZES
