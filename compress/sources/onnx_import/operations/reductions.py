"""Sums, extrema and sorting along axes."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from ..step import Call
from .registry import operator


def _product(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    for axis in sorted(axes, reverse=True):
        x = x.prod(axis, keepdim=keep)
    return x


_REDUCTIONS: Mapping[str, Callable[[Tensor, list[int], bool], Tensor]] = {
    "ReduceMean": lambda x, axes, keep: x.mean(axes, keepdim=keep),
    "ReduceSum": lambda x, axes, keep: x.sum(axes, keepdim=keep, dtype=x.dtype),
    "ReduceMax": lambda x, axes, keep: torch.amax(x, axes, keepdim=keep),
    "ReduceMin": lambda x, axes, keep: torch.amin(x, axes, keepdim=keep),
    "ReduceProd": _product,
    "ReduceL1": lambda x, axes, keep: x.abs().sum(axes, keepdim=keep, dtype=x.dtype),
    "ReduceL2": lambda x, axes, keep: x.square().sum(axes, keepdim=keep).sqrt(),
    "ReduceSumSquare": lambda x, axes, keep: x.square().sum(axes, keepdim=keep, dtype=x.dtype),
    "ReduceLogSum": lambda x, axes, keep: x.sum(axes, keepdim=keep).log(),
    "ReduceLogSumExp": lambda x, axes, keep: torch.logsumexp(x, axes, keepdim=keep),
}


@operator(*_REDUCTIONS)
def _reduce(call: Call) -> Tensor:
    x = call.tensor()
    axes = call.sizes("axes", 1)
    if not axes:
        if call.step.integer("noop_with_empty_axes"):
            return x
        axes = list(range(x.ndim))
    keep = bool(call.step.integer("keepdims", 1))
    if not x.ndim:
        return _REDUCTIONS[call.step.operator](x.reshape(1), [0], False)
    return _REDUCTIONS[call.step.operator](x, [a % x.ndim for a in axes], keep)


@operator("ArgMax", "ArgMin")
def _arg_extremum(call: Call) -> Tensor:
    x, axis, keep = call.tensor(), call.step.integer("axis"), bool(call.step.integer("keepdims", 1))
    function = torch.argmax if call.step.operator == "ArgMax" else torch.argmin
    if call.step.integer("select_last_index"):
        return x.shape[axis] - 1 - function(x.flip(axis), axis, keepdim=keep)
    return function(x, axis, keepdim=keep)


@operator("TopK")
def _top_k(call: Call) -> tuple[Tensor, ...]:
    k = int(call.array(1).reshape(-1)[0])
    largest = bool(call.step.integer("largest", 1))
    axis = call.step.integer("axis", -1)
    values, indices = torch.sort(call.tensor(), dim=axis, descending=largest, stable=True)
    return values.narrow(axis, 0, k), indices.narrow(axis, 0, k)


@operator("CumSum")
def _cumulative_sum(call: Call) -> Tensor:
    x, axis = call.tensor(), int(call.array(1).reshape(-1)[0])
    reverse = call.step.integer("reverse")
    x = x.flip(axis) if reverse else x
    total = torch.cumsum(x, axis, dtype=x.dtype)
    total = total - x if call.step.integer("exclusive") else total
    return total.flip(axis) if reverse else total
