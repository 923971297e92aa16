"""Operators that move elements and compute none: joining, cutting, reordering, repeating, padding."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - as everyone calls it
from torch import Tensor

from ..step import Call, Unsupported
from .registry import operator
from .windows import interleave

_FURTHEST = 2**62
"""Ends of slices beyond this mean "to the end"."""


@operator("Concat")
def _concat(call: Call) -> Tensor:
    return torch.cat([call.tensor(i) for i in range(len(call.values))], call.step.integer("axis", 1))


@operator("Split")
def _split(call: Call) -> tuple[Tensor, ...]:
    x, axis = call.tensor(), call.step.integer("axis")
    sizes = call.sizes("split", 1)
    count = len(call.step.outputs)
    if sizes is None or len(set(sizes)) == 1:
        return tuple(torch.chunk(x, count, axis))
    return tuple(torch.split(x, sizes, axis))


@operator("Slice")
def _slice(call: Call) -> Tensor:
    x = call.tensor()
    for axis, start, end, step in slices_of(call, x.ndim):
        if step < 0:
            x = x.flip(axis)
            size = x.shape[axis]
            start = size - 1 - (start + size if start < 0 else min(start, size - 1))
            end = _FURTHEST if end < -size else size - 1 - (end + size if end < 0 else end)
            step = -step
        index: list[slice] = [slice(None)] * x.ndim
        index[axis] = slice(start, end if not isinstance(end, int) or end < _FURTHEST else None, step)
        x = x[tuple(index)]
    return x


def slices_of(call: Call, ndim: int) -> list[tuple[int, int, int, int]]:
    """Axis, start, end and step of each slice that the call takes."""
    starts, ends = call.sizes("starts", 1), call.sizes("ends", 2)
    assert starts is not None and ends is not None, "a slice has starts and ends"
    axes = call.sizes("axes", 3) or list(range(len(starts)))
    steps = call.sizes("steps", 4) or [1] * len(starts)
    return [(a % ndim, s, e, t) for a, s, e, t in zip(axes, starts, ends, steps, strict=True)]


@operator("Gather")
def _gather(call: Call) -> Tensor:
    x, axis = call.tensor(0), call.step.integer("axis")
    axis %= x.ndim
    value = call.values[1]
    if isinstance(value, np.ndarray) and value.ndim == 0:
        return x.select(axis, value.item())
    indices = call.tensor(1).long()
    indices = torch.where(indices < 0, indices + x.shape[axis], indices)
    picked = x.index_select(axis, indices.reshape(-1))
    return picked.reshape(*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :])


@operator("GatherElements")
def _gather_elements(call: Call) -> Tensor:
    x, axis, indices = call.tensor(0), call.step.integer("axis"), call.tensor(1).long()
    return torch.gather(x, axis, torch.where(indices < 0, indices + x.shape[axis], indices))


@operator("Reshape")
def _reshape(call: Call) -> Tensor:
    x = call.tensor()
    relative = call.step.integers("relative_shape")
    if relative is None and call.step.integer("allowzero"):
        return x.reshape(call.sizes("shape", 1) or [])
    wanted = list(relative) if relative is not None else call.sizes("shape", 1) or []
    if wanted == [0, -1] and x.ndim > 1:
        return x.flatten(1)
    return x.reshape([x.shape[i] if isinstance(size, int) and size == 0 else size for i, size in enumerate(wanted)])


@operator("Flatten")
def _flatten(call: Call) -> Tensor:
    x, axis = call.tensor(), call.step.integer("axis", 1)
    axis = axis + x.ndim if axis < 0 else axis
    if axis == 1:
        return x.flatten(1) if x.ndim > 1 else x.reshape(-1, 1)
    return x.reshape(math.prod(x.shape[:axis]), -1)


@operator("Transpose")
def _transpose(call: Call) -> Tensor:
    x = call.tensor()
    order = call.step.integers("perm")
    return x.permute(tuple(reversed(range(x.ndim))) if order is None else order)


@operator("Squeeze")
def _squeeze(call: Call) -> Tensor:
    axes = call.sizes("axes", 1)
    return call.tensor().squeeze() if axes is None else call.tensor().squeeze(tuple(axes))


@operator("Unsqueeze")
def _unsqueeze(call: Call) -> Tensor:
    x, axes = call.tensor(), call.sizes("axes", 1) or []
    rank = x.ndim + len(axes)
    for axis in sorted(a % rank for a in axes):
        x = x.unsqueeze(axis)
    return x


@operator("Expand")
def expand(call: Call) -> Tensor:
    """Input 0 repeated along its dimensions of size 1 to the shape of input 1."""
    x, wanted = call.tensor(), call.sizes("shape", 1) or []
    rank = max(x.ndim, len(wanted))
    own = [1] * (rank - x.ndim) + list(x.shape)
    wanted = [1] * (rank - len(wanted)) + wanted
    return x.expand([have if want == 1 else want for have, want in zip(own, wanted, strict=True)])


@operator("Tile")
def _tile(call: Call) -> Tensor:
    return call.tensor().repeat(call.sizes("repeats", 1) or [])


@operator("Pad")
def _pad(call: Call) -> Tensor:
    x, mode = call.tensor(), call.step.text("mode", "constant")
    pads = call.sizes("pads", 1) or []
    axes = call.sizes("axes", 3) or list(range(x.ndim))
    before, after = [0] * x.ndim, [0] * x.ndim
    for position, axis in enumerate(axes):
        before[axis], after[axis] = pads[position], pads[position + len(axes)]
    if mode == "constant":
        return F.pad(x, interleave(before, after), value=call.number("value", 2, 0.0))
    names = {"reflect": "reflect", "edge": "replicate", "wrap": "circular"}
    first = next((i for i in range(x.ndim) if before[i] or after[i]), x.ndim)
    if first == x.ndim:
        return x
    if first == 0 or x.ndim > 5:
        raise Unsupported(f"mode {mode} along the batch")
    first = 2 if x.ndim > 2 and first >= 2 else 1
    return F.pad(x, interleave(before[first:], after[first:]), mode=names[mode])


@operator("Trilu")
def _triangle(call: Call) -> Tensor:
    diagonal = int(call.array(1).reshape(-1)[0]) if call.has(1) else 0
    return (torch.triu if call.step.integer("upper", 1) else torch.tril)(call.tensor(), diagonal)


@operator("DepthToSpace")
def _depth_to_space(call: Call) -> Tensor:
    x, size = call.tensor(), call.step.integer("blocksize")
    if call.step.text("mode", "DCR") == "CRD":
        return F.pixel_shuffle(x, size)
    n, channels, height, width = x.shape
    x = x.reshape(n, size, size, channels // size**2, height, width).permute(0, 3, 4, 1, 5, 2)
    return x.reshape(n, channels // size**2, height * size, width * size)


@operator("SpaceToDepth")
def _space_to_depth(call: Call) -> Tensor:
    x, size = call.tensor(), call.step.integer("blocksize")
    if call.step.text("mode", "DCR") == "CRD":
        return F.pixel_unshuffle(x, size)
    n, channels, height, width = x.shape
    x = x.reshape(n, channels, height // size, size, width // size, size).permute(0, 3, 5, 1, 2, 4)
    return x.reshape(n, channels * size**2, height // size, width // size)
