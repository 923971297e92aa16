"""A loaded file called as the network that it was made from: floats by position, images as (N, C, H, W)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from .checks.check import run_samples, runs_whole
from .errors import InvalidInputs
from .runtime import Array, Runtime, TensorSpec


@dataclass(frozen=True)
class Binding:
    """How a network's inputs and outputs are called in a file.

    Args:
        inputs: names of the file's inputs in the network's order; empty where both have the same order.
        outputs: likewise.
        layout: of images at the file's inputs.
    """

    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    layout: Literal["nchw", "nhwc"] = "nchw"


def call(runtime: Runtime, binding: Binding, inputs: Sequence[Array], batch: int = 64) -> list[Array]:
    """Return the outputs for N samples, (N, ...) each, in the network's order, as floats where the file has integers.

    Floats are rounded to a file's integers, integers restored, images transposed, as the file wants it.

    Raises:
        InvalidInputs: another number of inputs, a name that the file has not, or samples that do not fit.
    """
    specs = _ordered(runtime.outputs, binding.outputs, "outputs")
    arrays = run_samples(runtime, feed(runtime, binding, inputs), batch)
    return [_out_of(spec, arrays[spec.name]) for spec in specs]


def feed(runtime: Runtime, binding: Binding, inputs: Sequence[Array]) -> dict[str, Array]:
    """Return what the file takes for these inputs of the network, by name; raises InvalidInputs."""
    taken = _ordered(runtime.inputs, binding.inputs, "inputs")
    if len(taken) != len(inputs):
        names = ", ".join(spec.name for spec in taken)
        raise InvalidInputs(f"inputs: the file takes {len(taken)} ({names}), got {len(inputs)}")
    return {spec.name: _into(spec, value, binding.layout) for spec, value in zip(taken, inputs, strict=True)}


def one_feed(runtime: Runtime, binding: Binding, inputs: Sequence[Array]) -> dict[str, Array]:
    """Return what the file takes for the first sample, repeated where its batch is fixed."""
    whole = feed(runtime, binding, inputs)
    if runs_whole(runtime, whole):
        return whole
    fixed = next((spec.shape[0] for spec in runtime.inputs if spec.shape and spec.shape[0] is not None), 1)
    return feed(runtime, binding, [np.repeat(value[:1], fixed, axis=0) for value in inputs])


def _ordered(specs: Sequence[TensorSpec], names: Sequence[str], what: str) -> list[TensorSpec]:
    if not names:
        return list(specs)
    known = {spec.name: spec for spec in specs}
    if sorted(names) != sorted(known):
        raise InvalidInputs(f"{what}: expected {', '.join(names)}; the file has {', '.join(known)}")
    return [known[name] for name in names]


def _into(spec: TensorSpec, value: Array, layout: str) -> Array:
    if layout == "nhwc" and value.ndim == 4:
        value = np.ascontiguousarray(value.transpose(0, 2, 3, 1))
    if spec.scale is not None and value.dtype.kind == "f":
        limits = np.iinfo(spec.dtype)
        integers = np.rint(value.astype(np.float32) / np.float32(spec.scale)) + spec.zero_point
        clipped: Array = np.clip(integers, limits.min, limits.max).astype(spec.dtype)
        return clipped
    if value.dtype.kind == "f" and spec.dtype == "float16":
        return value.astype(np.float16)
    if spec.scale is None and value.dtype.kind in "iu" and np.dtype(spec.dtype).kind in "iu":
        return _of_width(spec, value)
    return value


def _of_width(spec: TensorSpec, value: Array) -> Array:
    """``value`` in the integers of the file, as a format may have none of 64 bits; raises InvalidInputs."""
    if value.size and not np.can_cast(value.dtype, spec.dtype):
        limits, low, high = np.iinfo(spec.dtype), int(value.min()), int(value.max())
        if low < limits.min or high > limits.max:
            raise InvalidInputs(
                f"input {spec.name!r}: expected {spec.dtype}, {limits.min} to {limits.max}, got {low} to {high}"
            )
    return value.astype(spec.dtype, copy=False)


def _out_of(spec: TensorSpec, value: Array) -> Array:
    if spec.scale is not None and value.dtype.kind in "iu":
        return ((value.astype(np.float32) - spec.zero_point) * np.float32(spec.scale)).astype(np.float32)
    return value.astype(np.float32) if value.dtype == np.float16 else value
