"""Activations, and dropout."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F  # noqa: N812 - as everyone calls it
from torch import Tensor

from ..step import Call
from .registry import FUNCTIONS, operator

_UNARY: Mapping[str, Callable[[Tensor], Tensor]] = {
    "HardSwish": F.hardswish,
    "Mish": F.mish,
    "Relu": F.relu,
    "Sigmoid": torch.sigmoid,
    "Softplus": F.softplus,
    "Softsign": F.softsign,
    "Tanh": torch.tanh,
}
for _name, _unary in _UNARY.items():
    FUNCTIONS[_name] = lambda call, function=_unary: function(call.tensor())  # type: ignore[misc]


@operator("LeakyRelu")
def _leaky_relu(call: Call) -> Tensor:
    return F.leaky_relu(call.tensor(), call.step.real("alpha", 0.01))


@operator("Elu")
def _elu(call: Call) -> Tensor:
    return F.elu(call.tensor(), call.step.real("alpha", 1.0))


@operator("Celu")
def _celu(call: Call) -> Tensor:
    return F.celu(call.tensor(), call.step.real("alpha", 1.0))


@operator("Selu")
def _selu(call: Call) -> Tensor:
    x, alpha = call.tensor(), call.step.real("alpha", 1.6732632423543772)
    return call.step.real("gamma", 1.0507009873554805) * F.elu(x, alpha)


@operator("ThresholdedRelu")
def _thresholded_relu(call: Call) -> Tensor:
    return F.threshold(call.tensor(), call.step.real("alpha", 1.0), 0.0)


@operator("HardSigmoid")
def _hard_sigmoid(call: Call) -> Tensor:
    alpha, beta = call.step.real("alpha", 0.2), call.step.real("beta", 0.5)
    if math.isclose(alpha, 1 / 6, rel_tol=1e-6) and math.isclose(beta, 0.5, rel_tol=1e-6):
        return F.hardsigmoid(call.tensor())
    if alpha <= 0:
        return torch.clamp(call.tensor() * alpha + beta, 0, 1)
    # The scale last, so that the sum can join the bias of the layer before and integers only get another scale.
    return torch.clamp(call.tensor() + beta / alpha, 0.0, 1 / alpha) * alpha


@operator("Gelu")
def _gelu(call: Call) -> Tensor:
    return F.gelu(call.tensor(), approximate=call.step.text("approximate", "none"))


@operator("PRelu")
def _prelu(call: Call) -> Tensor:
    if call.module is not None:
        return call.through()
    x = call.tensor()
    return torch.where(x < 0, x * call.tensor(1), x)


@operator("Clip")
def _clip(call: Call) -> Tensor:
    x = call.tensor()
    low = call.number("min", 1, -math.inf)
    high = call.number("max", 2, math.inf)
    if low == 0 and high == 6 and x.is_floating_point():
        return F.relu6(x)
    if low == 0 and high == math.inf and x.is_floating_point():
        return F.relu(x)
    if low == -math.inf and high == math.inf:
        return x
    return torch.clamp(x, None if low == -math.inf else low, None if high == math.inf else high)


@operator("Softmax", "LogSoftmax")
def _softmax(call: Call) -> Tensor:
    x = call.tensor()
    function = torch.softmax if call.step.operator == "Softmax" else torch.log_softmax
    if call.step.opset >= 13:
        return function(x, call.step.integer("axis", -1))
    axis = call.step.integer("axis", 1) % max(x.ndim, 1)
    if axis == x.ndim - 1:
        return function(x, axis)
    return function(x.flatten(axis), -1).reshape(x.shape)


@operator("Dropout")
def _dropout(call: Call) -> Tensor:
    return call.through() if call.module is not None else call.tensor()
