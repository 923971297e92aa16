"""What ONNX Runtime runs in integers ("Quantize ONNX models", and the selectors of its QDQ transformer)."""

from __future__ import annotations

from ..rules.patterns import clipping_is_rounding, products_run_in_integers
from ..rules.tensors import (
    Rule,
    bias_has_the_scale_of_the_product,
    pairs_fit_16_bits,
    scales_are_positive,
    types_are,
    zero_points_are_zero,
)

_ANY_PROCESSOR: tuple[Rule, ...] = (
    scales_are_positive,
    types_are("weight", "int8", "int4", effect="slow"),
    zero_points_are_zero("weight", effect="slow"),
    bias_has_the_scale_of_the_product,
    clipping_is_rounding,
    products_run_in_integers,
)

RULES: dict[str, tuple[Rule, ...]] = {
    "ort-x86": (*_ANY_PROCESSOR, types_are("activation", "uint8", effect="slow")),
    "ort-avx2": (*_ANY_PROCESSOR, types_are("activation", "uint8", effect="slow"), pairs_fit_16_bits),
    "ort-arm": (*_ANY_PROCESSOR, types_are("activation", "int8", effect="slow")),
}
