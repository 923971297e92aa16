"""Rules about the numbers of single tensors: types, scales, zero points, ranges."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from .view import Quantized, Role, View, limits
from .violation import Effect, Violation

Rule = Callable[[View], Iterator[Violation]]

LARGEST_PAIR = 128
"""Two weights times the largest uint8, 255, stay below 2**15 while their magnitudes add up to no more."""


def violation(view: View, item: Quantized, rule: str, found: object, expected: str, effect: Effect) -> Violation:
    """What breaks ``rule`` at the tensor of ``item``."""
    return Violation(item.tensor, view.name(item.node), rule, str(found), expected, effect)


def scales_are_positive(view: View) -> Iterator[Violation]:
    """Scales are stored, finite and above 0."""
    for item in view.distinct:
        if item.scale is None:
            yield violation(view, item, "scale", "a computed value", "a stored one", "refused")
        elif not bool((np.isfinite(item.scale) & (item.scale > 0)).all()):
            bad = item.scale[~(np.isfinite(item.scale) & (item.scale > 0))].flat[0]
            yield violation(view, item, "scale", bad, "a finite number above 0", "refused")


def types_are(role: Role, *types: str, effect: Effect) -> Rule:
    """The integers of a role have one of these types."""

    def rule(view: View) -> Iterator[Violation]:
        for item in view.of(role):
            if item.dtype not in types:
                yield violation(view, item, f"type of {role}", item.dtype, " or ".join(types), effect)

    return rule


def zero_points_are_zero(*roles: Role, effect: Effect) -> Rule:
    """The zero points of these roles are stored and 0."""

    def rule(view: View) -> Iterator[Violation]:
        for item in view.distinct:
            if item.role in roles and (item.zero is None or bool((item.zero.astype(np.int64) != 0).any())):
                actual = "a computed value" if item.zero is None else item.zero[item.zero.astype(np.int64) != 0].flat[0]
                yield violation(view, item, f"zero point of {item.role}", actual, "0", effect)

    return rule


def activations_have_one_scale(effect: Effect) -> Rule:
    """Only weights may have a scale per channel."""

    def rule(view: View) -> Iterator[Violation]:
        for item in view.of("activation"):
            if item.scale is not None and item.scale.size > 1:
                yield violation(view, item, "scales of activation", f"{item.scale.size} scales", "one", effect)

    return rule


def weights_leave_out_the_least(view: View) -> Iterator[Violation]:
    """Weights span -127..127 (or -7..7), symmetric about 0."""
    for item in view.of("weight"):
        if item.integers is not None and item.integers.size and item.integers.min() == limits(item.dtype)[0] < 0:
            low = limits(item.dtype)[0]
            yield violation(view, item, "range of weight", low, f"no less than {low + 1}", "wrong")


def pairs_fit_16_bits(view: View) -> Iterator[Violation]:
    """Without VNNI two products of uint8 and int8 are added in 16 bits, which saturate (VPMADDUBSW).

    Whichever two weights of an output channel meet, their products with 255 must fit.
    """
    for item in view.of("weight"):
        if item.integers is None or item.integers.size < 2 or not _meets_uint8(view, item):
            continue
        per_channel = item.scale is not None and item.scale.size > 1 and not item.block
        magnitudes = np.abs(item.integers)
        if per_channel:
            rows = np.moveaxis(magnitudes, item.axis, 0).reshape(magnitudes.shape[item.axis], -1)
        else:
            rows = magnitudes.reshape(1, -1)
        pair = int(np.sort(rows, axis=1)[:, -2:].sum(1).max())
        if pair > LARGEST_PAIR:
            yield violation(
                view, item, "two weights", f"magnitudes that add up to {pair}", f"at most {LARGEST_PAIR}", "wrong"
            )


def _meets_uint8(view: View, weight: Quantized) -> bool:
    """Whether what reads ``weight`` multiplies it by uint8 activations."""
    for node in view.readers_past_restoring(weight):
        others = [view.restored(name) for name in node.input]
        if any(item is not None and item.role == "activation" and item.dtype == "uint8" for item in others):
            return True
    return False


def bias_is_float(view: View) -> Iterator[Violation]:
    """No DequantizeLinear on an int32 bias."""
    for item in view.of("bias"):
        yield violation(view, item, "bias", item.dtype, "float, without DequantizeLinear", "refused")


def bias_has_the_scale_of_the_product(view: View) -> Iterator[Violation]:
    """Engines add an int32 bias to the accumulator, whose scale is that of the input times that of the weight.

    Where it has another, newer versions of ONNX Runtime keep the convolution in float, older ones add it all the same.
    """
    for node in view.graph.node:
        if node.op_type not in ("Conv", "Gemm") or len(node.input) < 3:
            continue
        x, weight, bias = (view.restored(name) for name in node.input[:3])
        if x is None or weight is None or bias is None or bias.role != "bias":
            continue
        if any(item.scale is None for item in (x, weight, bias)):
            continue
        assert x.scale is not None and weight.scale is not None and bias.scale is not None
        expected = np.broadcast_arrays(np.ravel(x.scale).astype(np.float64) * np.ravel(weight.scale), bias.scale)[0]
        off = ~np.isclose(bias.scale, expected, rtol=1e-4, atol=1e-30)
        if bool(off.any()):
            want = f"{float(expected[off].flat[0]):.6g}, input scale times weight scale"
            yield violation(view, bias, "scale of bias", f"{float(bias.scale[off].flat[0]):.6g}", want, "wrong")
