"""What OpenVINO runs in integers ("Low precision transformations")."""

from __future__ import annotations

from ..rules.patterns import sums_are_whole
from ..rules.tensors import (
    Rule,
    activations_have_one_scale,
    pairs_fit_16_bits,
    scales_are_positive,
    types_are,
    zero_points_are_zero,
)

_ANY_PROCESSOR: tuple[Rule, ...] = (
    scales_are_positive,
    types_are("activation", "uint8", "int8", effect="slow"),
    types_are("weight", "int8", "int4", effect="slow"),
    zero_points_are_zero("weight", effect="slow"),
    activations_have_one_scale("refused"),
    sums_are_whole,
)

RULES: dict[str, tuple[Rule, ...]] = {
    "openvino": _ANY_PROCESSOR,
    "openvino-avx2": (*_ANY_PROCESSOR, pairs_fit_16_bits),
}
