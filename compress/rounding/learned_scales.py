"""Rounding whose scales are learnt by gradients: LSQ for any tensor, PACT for what follows a ReLU. Pure functions.

Values are rounded in float32 whatever the precision around them, as they will be deployed: ``scale * (clip(round(x /
scale) + zero, low, high) - zero)``.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn.functional import pad

TINY = float(torch.finfo(torch.float32).tiny) * 2**24
"""The least scale: a learnt one that would be smaller or negative counts as this much."""


def gradient_factor(values: int, high: int) -> float:
    """What an LSQ scale's gradient is multiplied by: ``1 / sqrt(N * Qp)``.

    Esser et al., "Learned Step Size Quantization" (2020), section 2.2: N is the number of weights that share the
    scale, or of features of a sample, and Qp the highest level.
    """
    return 1.0 / math.sqrt(max(1, values) * max(1, high))


def lsq(x: Tensor, scale: Tensor, zero: Tensor, low: int, high: int, factor: float) -> Tensor:
    """``x`` rounded with one learnt ``scale`` (a scalar) and a ``zero`` point that is learnt where it needs a gradient.

    Esser et al., "Learned Step Size Quantization" (2020), equations 1-3 and 5: the gradient of the scale is
    ``round(x / scale) - x / scale`` within the range and the level that it is clipped to outside, times ``factor``;
    that of x passes within the range. The gradient of the zero point is ``-scale`` outside and 0 within (Bhalgat et
    al., "LSQ+", 2020, section 3.1, for an integer zero point).
    """
    rounded: Tensor = _PerTensor.apply(x.float(), scale, zero, low, high, factor)  # type: ignore[no-untyped-call]
    return rounded


def lsq_per_channel(x: Tensor, scale: Tensor, low: int, high: int, factor: float) -> Tensor:
    """``x`` (channels, ...) rounded about 0 with a learnt ``scale`` (channels,); gradients as in :func:`lsq`."""
    rounded: Tensor = _PerChannel.apply(x.float(), scale, low, high, factor)  # type: ignore[no-untyped-call]
    return rounded


def lsq_per_block(x: Tensor, scale: Tensor, block: int, low: int, high: int, factor: float) -> Tensor:
    """``x`` (channels, features) rounded with a ``scale`` (channels * blocks,) for ``block`` neighbours in a row."""
    channels, features = x.shape
    rows = pad(x, (0, -features % block)).reshape(-1, block)
    return lsq_per_channel(rows, scale, low, high, factor).reshape(channels, -1)[:, :features]


def pact(x: Tensor, clip: Tensor, levels: int) -> Tensor:
    """``x`` clipped to 0..``clip`` and rounded to ``levels`` steps of that range.

    Choi et al., "PACT: Parameterized Clipping Activation for Quantized Neural Networks" (2018), equations 1-3: the
    gradient of the clip is 1 where x reaches it and 0 elsewhere; that of x passes between.
    """
    rounded: Tensor = _Pact.apply(x.float(), clip, levels)  # type: ignore[no-untyped-call]
    return rounded


def _on_grid(x: Tensor, step: Tensor, origin: Tensor, low: int, high: int) -> tuple[Tensor, Tensor]:
    """``x`` on the grid of one step and origin (scalars), and where it is within; the same bits either way.

    Compiled, operations that fuse, for a number taken out of a tensor would part the graph; else torch's one kernel.
    """
    if not torch.compiler.is_compiling():
        fake_quantize = torch.ops.aten.fake_quantize_per_tensor_affine_cachemask
        out, inside = fake_quantize(x, float(step), int(origin), low, high)
        return out, inside
    level = torch.round(x * step.reciprocal()) + origin
    return (level.clamp(low, high) - origin) * step, (level >= low) & (level <= high)


class _PerTensor(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, zero: Tensor, low: int, high: int, factor: float) -> Any:
        step = scale.detach().clamp_min(TINY)
        out, inside = _on_grid(x, step, zero.detach().round(), low, high)
        ctx.save_for_backward(x, out, inside, step)
        ctx.factor, ctx.shape = factor, scale.shape
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        x, out, inside, step = ctx.saved_tensors
        gradient = gradients[0].float()
        factor, shape = ctx.factor, ctx.shape
        passed = gradient * inside
        of_scale = (gradient * torch.where(inside, out - x, out)).sum().reshape(shape) * (factor / step)
        of_zero = None
        if ctx.needs_input_grad[2]:
            of_zero = ((passed - gradient).sum() * (step * factor)).reshape(shape)
        return passed, of_scale, of_zero, None, None, None


class _PerChannel(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, low: int, high: int, factor: float) -> Any:
        step = scale.detach().clamp_min(TINY)
        zero = torch.zeros(len(step), dtype=torch.int32, device=step.device)
        out, inside = torch.ops.aten.fake_quantize_per_channel_affine_cachemask(x, step, zero, 0, low, high)
        ctx.save_for_backward(x, out, inside, step)
        ctx.factor = factor
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        x, out, inside, step = ctx.saved_tensors
        gradient = gradients[0].float()
        of_scale = (gradient * torch.where(inside, out - x, out)).flatten(1).sum(1) / step
        return gradient * inside, of_scale * ctx.factor, None, None, None


class _Pact(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, clip: Tensor, levels: int) -> Any:
        most = clip.detach().clamp_min(TINY * levels)
        out, _ = _on_grid(x, most / levels, torch.zeros_like(most), 0, levels)
        ctx.save_for_backward(x, most)
        ctx.shape = clip.shape
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        x, most = ctx.saved_tensors
        gradient, shape = gradients[0].float(), ctx.shape
        above = x >= most
        return gradient * ((x > 0) & ~above), (gradient * above).sum().reshape(shape), None
