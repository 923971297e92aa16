"""What LiteRT runs in integers ("8-bit quantization specification")."""

from __future__ import annotations

from ..rules.tensors import (
    Rule,
    activations_have_one_scale,
    bias_has_the_scale_of_the_product,
    scales_are_positive,
    types_are,
    weights_leave_out_the_least,
    zero_points_are_zero,
)

RULES: dict[str, tuple[Rule, ...]] = {
    "litert": (
        scales_are_positive,
        types_are("activation", "int8", "int16", effect="refused"),
        types_are("weight", "int8", "int4", effect="refused"),
        zero_points_are_zero("weight", effect="refused"),
        activations_have_one_scale("refused"),
        weights_leave_out_the_least,
        bias_has_the_scale_of_the_product,
    )
}
