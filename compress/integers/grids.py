"""Grids and encodings, both ways: the shape of a grid's scales, and the encoding from which a target derives a grid."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from .encoding import Encoding, IntegerParameters
from .target import Target


def scale_for(grid: IntegerParameters, weight: Tensor) -> Tensor:
    """The scales of ``grid`` in a shape to multiply ``weight`` (out, ...) by: (out, 1, ...), or its own with blocks."""
    scale = torch.from_numpy(grid.scale).to(weight.device)
    if grid.block is None:
        return scale.view(-1, *(1 for _ in weight.shape[1:]))
    return scale.view(weight.shape[0], -1).repeat_interleave(grid.block, 1)[:, : weight.shape[1]]


def activation_encoding(grid: IntegerParameters, like: Encoding, target: Target) -> Encoding:
    """``like`` with the range of which ``target`` makes the scale and zero point of ``grid``, exactly."""
    return _encoding_of(grid, like, target.activation_parameters)


def weight_encoding(
    grid: IntegerParameters, like: Encoding, target: Target, *, multiplies_integers: bool = True
) -> Encoding:
    """``like`` with the ranges of which ``target`` makes the scales of ``grid``; itself, where it has them.

    Args:
        multiplies_integers: whether the weight is multiplied by integers, of which some targets want fewer bits then.
    """

    def derive(encoding: Encoding) -> IntegerParameters:
        return target.weight_parameters(encoding, 1.0 if multiplies_integers else None)

    if np.array_equal(derive(like).scale, grid.scale):
        return like
    return _encoding_of(grid, like, derive)


def _encoding_of(grid: IntegerParameters, like: Encoding, derive: Callable[[Encoding], IntegerParameters]) -> Encoding:
    """``like`` with the range for which ``derive`` gives the scale and zero point of ``grid``, exactly in float32.

    The ends are integers times a float32, which float64 holds exactly, so that the division gives the scale back. A
    range from 0 stays one, for other targets. A symmetric range may not end where its integers do: the one that reaches
    as far on both sides is tried last.
    """
    scale = np.atleast_1d(np.asarray(grid.scale, np.float64))
    zero = np.atleast_1d(grid.zero_point)
    top = (grid.high - zero) * scale
    from_zero = [np.zeros_like(top)] if all(low >= 0 for low in like.low) else []
    for low in (*from_zero, (grid.low - zero) * scale, -top):
        encoding = replace(like, low=tuple(low.tolist()), high=tuple(top.tolist()))
        back = derive(encoding)
        if np.array_equal(back.scale, grid.scale) and np.array_equal(back.zero_point, grid.zero_point):
            return encoding
    raise AssertionError(f"no range has the scale {grid.scale} and the zero point {grid.zero_point}")
