"""What ncnn runs in integers ("Post training quantization tools")."""

from __future__ import annotations

from ..rules.tensors import (
    Rule,
    activations_have_one_scale,
    bias_is_float,
    scales_are_positive,
    types_are,
    weights_leave_out_the_least,
    zero_points_are_zero,
)

RULES: dict[str, tuple[Rule, ...]] = {
    "ncnn": (
        scales_are_positive,
        types_are("activation", "int8", effect="refused"),
        types_are("weight", "int8", effect="refused"),
        zero_points_are_zero("activation", "weight", effect="refused"),
        activations_have_one_scale("refused"),
        weights_leave_out_the_least,
        bias_is_float,
    )
}
