"""Modules for the nodes whose weights are in the file."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from torch import nn

from .operations.recurrent import activations_of, has_module, reordered
from .operations.windows import pads_apart, transposed_pads, window_pads
from .reading.read import Dimensions
from .step import Array, Step

_CONVOLUTIONS: tuple[Callable[..., nn.Module], ...] = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED: tuple[Callable[..., nn.Module], ...] = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_BATCH_NORMS: Mapping[int, Callable[..., nn.Module]] = {
    2: nn.BatchNorm1d,
    3: nn.BatchNorm1d,
    4: nn.BatchNorm2d,
    5: nn.BatchNorm3d,
}
_INSTANCE_NORMS: Mapping[int, Callable[..., nn.Module]] = {
    3: nn.InstanceNorm1d,
    4: nn.InstanceNorm2d,
    5: nn.InstanceNorm3d,
}
_RECURRENT: Mapping[str, Callable[..., nn.Module]] = {"GRU": nn.GRU, "LSTM": nn.LSTM, "RNN": nn.RNN}
Tensors = dict[str, tuple[Array, str]]
Made = tuple[nn.Module, Tensors] | None
Weights = list[Array | None]


def _present(**arrays: Array | None) -> Tensors:
    return {name: (array, "") for name, array in arrays.items() if array is not None}


def _steps_and_groups(step: Step, count: int) -> tuple[tuple[int, ...], tuple[int, ...], int]:
    """Stride and dilation in ``count`` dimensions, and the number of groups."""
    ones = (1,) * count
    return step.integers("strides") or ones, step.integers("dilations") or ones, step.integer("group", 1)


def _make_convolution(step: Step, weights: Weights, _: Dimensions | None) -> Made:
    weight, bias = (*weights, None)[:2]
    if weight is None or not 3 <= weight.ndim <= 5:
        return None
    kernel = weight.shape[2:]
    count = len(kernel)
    stride, dilation, groups = _steps_and_groups(step, count)
    padding: tuple[int, ...] = (0,) * count
    if not pads_apart(step, kernel):
        padding = tuple(window_pads(step, kernel, kernel, stride, dilation)[0])
    module = _CONVOLUTIONS[count - 1](
        weight.shape[1] * groups,
        weight.shape[0],
        kernel,
        stride,
        padding,
        dilation,
        groups,
        bias is not None,
        device="meta",
    )
    return module, _present(weight=weight, bias=bias)


def _make_transposed(step: Step, weights: Weights, _: Dimensions | None) -> Made:
    weight, bias = (*weights, None)[:2]
    if weight is None or not 3 <= weight.ndim <= 5:
        return None
    kernel = weight.shape[2:]
    count = len(kernel)
    stride, dilation, groups = _steps_and_groups(step, count)
    output_padding = step.integers("output_padding") or (0,) * count
    module = _TRANSPOSED[count - 1](
        weight.shape[0],
        weight.shape[1] * groups,
        kernel,
        stride,
        transposed_pads(step, count),
        output_padding,
        groups,
        bias is not None,
        dilation,
        device="meta",
    )
    return module, _present(weight=weight, bias=bias)


def _make_batch_norm(step: Step, weights: Weights, have: Dimensions | None) -> Made:
    scale, bias, mean, variance = weights[:4]
    made = _BATCH_NORMS.get(len(have)) if have else None
    if scale is None or made is None or not step.integer("spatial", 1):
        return None
    module = made(scale.size, step.real("epsilon", 1e-5), 1 - step.real("momentum", 0.9), device="meta")
    return module, _present(weight=scale, bias=bias, running_mean=mean, running_var=variance)


def _make_instance_norm(step: Step, weights: Weights, have: Dimensions | None) -> Made:
    scale, bias = weights[:2]
    made = _INSTANCE_NORMS.get(len(have)) if have else None
    if scale is None or made is None:
        return None
    return made(scale.size, step.real("epsilon", 1e-5), affine=True, device="meta"), _present(weight=scale, bias=bias)


def _make_layer_norm(step: Step, weights: Weights, have: Dimensions | None) -> Made:
    scale, bias = (*weights, None)[:2]
    axis = step.integer("axis", -1)
    axis = axis - len(have) if axis >= 0 and have else axis
    fits = scale is not None and axis == -scale.ndim and (bias is None or bias.shape == scale.shape)
    if scale is None or not fits or len([name for name in step.outputs if name]) > 1:
        return None
    if have is None or tuple(have[axis:]) != scale.shape:
        return None
    module = nn.LayerNorm(scale.shape, step.real("epsilon", 1e-5), bias=bias is not None, device="meta")
    return module, _present(weight=scale, bias=bias)


def _make_group_norm(step: Step, weights: Weights, have: Dimensions | None) -> Made:
    scale, bias = weights[:2]
    if scale is None or have is None or len(have) < 2 or have[1] != scale.size:
        return None
    module = nn.GroupNorm(step.integer("num_groups"), scale.size, step.real("epsilon", 1e-5), device="meta")
    return module, _present(weight=scale, bias=bias)


def _make_linear(step: Step, weights: Weights, _: Dimensions | None) -> Made:
    weight, bias = (*weights, None)[:2]
    if weight is None or weight.ndim != 2 or step.integer("transA"):
        return None
    transposed = step.operator == "Gemm" and bool(step.integer("transB"))
    outputs, inputs = weight.shape if transposed else weight.shape[::-1]
    tensors = {"weight": (weight, "")}
    alpha, beta = step.real("alpha", 1.0), step.real("beta", 1.0)
    if not transposed or alpha != 1:
        upright = weight if transposed else weight.T
        tensors["weight"] = (upright if alpha == 1 else upright * weight.dtype.type(alpha), f"{transposed}{alpha}")
    if bias is not None:
        if bias.size != 1 and (bias.size != outputs or bias.shape[-1] != outputs):
            return None
        tensors["bias"] = (np.broadcast_to(bias.reshape(-1), (outputs,)) * bias.dtype.type(beta), f"{beta}")
    return nn.Linear(inputs, outputs, bias is not None, device="meta"), tensors


def _make_prelu(_step: Step, weights: Weights, have: Dimensions | None) -> Made:
    slope = weights[0]
    if slope is None:
        return None
    if slope.size != 1:
        # One slope per channel, which torch takes along dimension 1.
        rank = len(have) if have else 0
        full = (1,) * (rank - slope.ndim) + slope.shape
        if slope.ndim > rank or rank < 2 or full[1] != slope.size:
            return None
    return nn.PReLU(slope.size, device="meta"), {"weight": (slope.reshape(-1), "flat")}


def _make_dropout(step: Step, weights: Weights, _: Dimensions | None) -> Made:
    ratio = weights[0] if weights else None
    return nn.Dropout(step.real("ratio", 0.5) if ratio is None else float(ratio.reshape(-1)[0])), {}


def _make_recurrent(step: Step, weights: Weights, _: Dimensions | None) -> Made:
    weight, recurrent, bias = (*weights, None)[:3]
    if weight is None or recurrent is None or not has_module(step):
        return None
    directions, stacked, hidden = recurrent.shape
    if (step.text("direction") == "bidirectional") != (directions == 2) or weight.shape[:2] != (directions, stacked):
        return None
    settings = {"nonlinearity": activations_of(step)[0].lower()} if step.operator == "RNN" else {}
    module = _RECURRENT[step.operator](
        weight.shape[2], hidden, bias=bias is not None, bidirectional=directions == 2, device="meta", **settings
    )
    tensors: Tensors = {}
    for direction, end in zip(range(directions), ("", "_reverse"), strict=False):
        stored = {"weight_ih": weight[direction], "weight_hh": recurrent[direction]}
        if bias is not None:
            stored["bias_ih"], stored["bias_hh"] = np.split(bias[direction], 2)
        for name, array in stored.items():
            tensors[f"{name}_l0{end}"] = (reordered(step.operator, array), f"{name}{end}")
    return module, tensors


LAYERS: Mapping[str, Callable[[Step, Weights, Dimensions | None], Made]] = {
    "BatchNormalization": _make_batch_norm,
    "Conv": _make_convolution,
    "ConvTranspose": _make_transposed,
    "Dropout": _make_dropout,
    "GRU": _make_recurrent,
    "Gemm": _make_linear,
    "GroupNormalization": _make_group_norm,
    "InstanceNormalization": _make_instance_norm,
    "LSTM": _make_recurrent,
    "LayerNormalization": _make_layer_norm,
    "MatMul": _make_linear,
    "PRelu": _make_prelu,
    "RNN": _make_recurrent,
}
"""What makes the module of an operator, given the step, its weights and the sizes of its input; None if none fits."""
VALUES: Mapping[str, tuple[int, ...]] = dict.fromkeys(_RECURRENT, (0, 4, 5, 6))
"""The inputs that a module is called with, for operators of which the first is not the only one."""
