"""Normalization: a module where the weights are in the file, a function where they are computed."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 - as everyone calls it
from torch import Tensor

from ..step import Call, Unsupported
from .registry import operator


@operator("BatchNormalization")
def _batch_normalization(call: Call) -> Tensor:
    if call.module is not None:
        return call.through()
    scale, bias, mean, variance = (call.tensor(i) for i in range(1, 5))
    return F.batch_norm(call.tensor(), mean, variance, scale, bias, False, 0.0, call.step.real("epsilon", 1e-5))


@operator("InstanceNormalization")
def _instance_normalization(call: Call) -> Tensor:
    if call.module is not None:
        return call.through()
    return F.instance_norm(
        call.tensor(), weight=call.tensor(1), bias=call.tensor(2), eps=call.step.real("epsilon", 1e-5)
    )


@operator("LayerNormalization")
def _layer_normalization(call: Call) -> Tensor:
    if call.module is not None:
        return call.through()
    x = call.tensor()
    axis = call.step.integer("axis", -1) % x.ndim
    normal = F.layer_norm(x, x.shape[axis:], eps=call.step.real("epsilon", 1e-5)) * call.tensor(1)
    return normal + call.tensor(2) if call.has(2) else normal


@operator("RMSNormalization")
def _rms_normalization(call: Call) -> Tensor:
    x = call.tensor()
    axes = list(range(call.step.integer("axis", -1) % x.ndim, x.ndim))
    return x * torch.rsqrt(x.square().mean(axes, keepdim=True) + call.step.real("epsilon", 1e-5)) * call.tensor(1)


@operator("GroupNormalization")
def _group_normalization(call: Call) -> Tensor:
    if call.module is not None:
        return call.through()
    x, scale, bias, groups = call.tensor(), call.tensor(1), call.tensor(2), call.step.integer("num_groups")
    if scale.shape[0] != x.shape[1]:  # opset 18 had one scale per group
        scale, bias = (t.repeat_interleave(x.shape[1] // groups) for t in (scale, bias))
    return F.group_norm(x, groups, scale, bias, call.step.real("epsilon", 1e-5))


@operator("LpNormalization")
def _lp_normalization(call: Call) -> Tensor:
    return F.normalize(call.tensor(), call.step.integer("p", 2), call.step.integer("axis", -1))


@operator("LRN")
def _local_response_normalization(call: Call) -> Tensor:
    size = call.step.integer("size")
    if size % 2 == 0:
        raise Unsupported(f"an even size of {size}")
    alpha, beta, bias = (call.step.real(key, d) for key, d in (("alpha", 1e-4), ("beta", 0.75), ("bias", 1.0)))
    return F.local_response_norm(call.tensor(), size, alpha, beta, bias)
