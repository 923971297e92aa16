"""Resizing, with every convention of where the coordinates of the outputs fall."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F  # noqa: N812 - as everyone calls it
from torch import Tensor

from ..step import Call, Unsupported
from .registry import operator


@operator("Resize", "Upsample")
def _resize(call: Call) -> Tensor:
    x, step = call.tensor(), call.step
    scales, sizes = _resize_target(call, x.ndim)
    mode = step.text("mode", "nearest")
    old = step.operator == "Upsample" or step.opset < 11
    transformation = step.text("coordinate_transformation_mode", "asymmetric" if old else "half_pixel")
    rounding = step.text("nearest_mode", "floor" if old else "round_prefer_floor")
    for key, default in (("antialias", "0"), ("keep_aspect_ratio_policy", "stretch"), ("exclude_outside", "0")):
        if step.text(key, default) != default:
            raise Unsupported(f"{key} of {step.text(key)}")
    resized = [i for i in range(x.ndim) if (scales[i] != 1 if scales else sizes[i] != x.shape[i])]
    if not resized:
        return x
    spatial = x.ndim in (3, 4, 5) and min(resized) >= 2
    whole = bool(scales) and all(float(s).is_integer() for s in scales)
    direct = None
    if mode == "nearest" and (
        (transformation == "asymmetric" and rounding == "floor")
        or (whole and transformation == "half_pixel" and rounding.startswith("round_prefer"))
    ):
        direct = "nearest"
    elif mode == "linear" and transformation in ("half_pixel", "align_corners", "pytorch_half_pixel"):
        direct = {3: "linear", 4: "bilinear", 5: "trilinear"}.get(x.ndim)
    elif (
        mode == "cubic"
        and x.ndim == 4
        and transformation in ("half_pixel", "align_corners")
        and math.isclose(step.real("cubic_coeff_a", -0.75), -0.75)
    ):
        direct = "bicubic"
    target = sizes[2:] if sizes else [int(n * s) for n, s in zip(x.shape[2:], scales[2:], strict=True)]
    if transformation == "pytorch_half_pixel" and 1 in target:
        direct = None
    if direct and spatial:
        corners = None if direct == "nearest" else transformation == "align_corners"
        if scales and not corners:
            return F.interpolate(x, scale_factor=list(scales[2:]), mode=direct, align_corners=corners)
        return F.interpolate(x, size=target, mode=direct, align_corners=corners)
    if mode == "cubic":
        raise Unsupported(f"mode cubic with {transformation}")
    for axis in resized:
        size = sizes[axis] if sizes else int(x.shape[axis] * scales[axis])
        scale = scales[axis] if scales else size / x.shape[axis]
        x = _resize_axis(x, axis, size, scale, mode, transformation, rounding)
    return x


def _resize_target(call: Call, rank: int) -> tuple[list[float], list[int]]:
    """Scales, or sizes, one per dimension; the other list is empty."""
    step = call.step
    raw_scales: list[float] = []
    raw_sizes: list[int] = []
    if "scales" in step.attributes:
        raw_scales = [float(s) for s in step.attributes["scales"]]  # type: ignore[union-attr]
    else:
        index = 1 if step.operator == "Upsample" or step.opset < 11 else 2
        if call.has(index) and call.array(index).size:
            raw_scales = call.array(index).reshape(-1).tolist()
        elif call.has(3):
            raw_sizes = call.array(3).reshape(-1).tolist()
    axes = step.integers("axes")
    if axes is not None:
        x = call.tensor()
        if raw_scales:
            full_scales = [1.0] * rank
            for axis, scale in zip(axes, raw_scales, strict=True):
                full_scales[axis] = scale
            raw_scales = full_scales
        else:
            full_sizes = list(x.shape)
            for axis, size in zip(axes, raw_sizes, strict=True):
                full_sizes[axis] = size
            raw_sizes = full_sizes
    return raw_scales, raw_sizes


def _resize_axis(
    x: Tensor, axis: int, size: int, scale: float, mode: str, transformation: str, rounding: str
) -> Tensor:
    """``x`` with ``size`` samples along ``axis``, taken where the coordinates of the outputs fall."""
    have = x.shape[axis]
    output = torch.arange(size, device=x.device, dtype=torch.float32)
    if transformation == "asymmetric":
        place = output / scale
    elif transformation == "align_corners":
        place = output * ((have - 1) / (size - 1)) if size > 1 else output * 0
    elif transformation == "half_pixel" or (transformation == "pytorch_half_pixel" and size > 1):
        place = (output + 0.5) / scale - 0.5
    elif transformation == "pytorch_half_pixel":
        place = output * 0
    else:
        raise Unsupported(f"coordinate_transformation_mode of {transformation}")
    if mode == "nearest":
        functions: Mapping[str, Callable[[Tensor], Tensor]] = {
            "floor": torch.floor,
            "ceil": torch.ceil,
            "round_prefer_floor": lambda p: torch.ceil(p - 0.5),
            "round_prefer_ceil": lambda p: torch.floor(p + 0.5),
        }
        rounded = functions[rounding](place)
        return x.index_select(axis, rounded.clamp(0, have - 1).long())
    place = place.clamp(0, have - 1)
    low = place.floor().long()
    fraction = (place - low).reshape([-1 if i == axis else 1 for i in range(x.ndim)]).to(x.dtype)
    high = (low + 1).clamp(max=have - 1)
    return x.index_select(axis, low) * (1 - fraction) + x.index_select(axis, high) * fraction
