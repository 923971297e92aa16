"""The rules of each target, one row each.

ONNX Runtime: "Quantize ONNX models" and the selectors of its QDQ transformer. TensorRT: developer guide, "Working with
quantized types", and its ONNX opset guide. LiteRT: "8-bit quantization specification". OpenVINO: "Low precision
transformations". ncnn: "Post training quantization tools".
"""

from __future__ import annotations

from collections.abc import Mapping

from compress.quantize.flavour import FlavourName

from .patterns import (
    clipping_is_rounding,
    no_integer_operators,
    opset_between,
    products_run_in_integers,
    sums_are_whole,
)
from .tensorrt import (
    averages_read_integers,
    channels_are_output_channels,
    four_bits_are_packed,
    products_are_whole,
    scales_fit_the_tensor,
)
from .tensors import (
    Rule,
    activations_have_one_scale,
    bias_has_the_scale_of_the_product,
    bias_is_float,
    pairs_fit_16_bits,
    scales_are_positive,
    types_are,
    weights_leave_out_the_least,
    zero_points_are_zero,
)

_OPENVINO: tuple[Rule, ...] = (
    scales_are_positive,
    types_are("activation", "uint8", "int8", effect="slow"),
    types_are("weight", "int8", "int4", effect="slow"),
    zero_points_are_zero("weight", effect="slow"),
    activations_have_one_scale,
    sums_are_whole,
)

_ORT: tuple[Rule, ...] = (
    scales_are_positive,
    types_are("weight", "int8", "int4", effect="slow"),
    zero_points_are_zero("weight", effect="slow"),
    bias_has_the_scale_of_the_product,
    clipping_is_rounding,
    products_run_in_integers,
)

RULES: Mapping[FlavourName, tuple[Rule, ...]] = {
    "ort-x86": (
        *_ORT,
        types_are("activation", "uint8", effect="slow"),
        types_are("weight", "int8", "int4", effect="slow"),
    ),
    "ort-avx2": (
        *_ORT,
        types_are("activation", "uint8", effect="slow"),
        types_are("weight", "int8", "int4", effect="slow"),
        pairs_fit_16_bits,
    ),
    "ort-arm": (
        *_ORT,
        types_are("activation", "int8", effect="slow"),
        types_are("weight", "int8", "int4", effect="slow"),
    ),
    "tensorrt": (
        opset_between(13, 25),
        no_integer_operators,
        scales_are_positive,
        types_are("activation", "int8", effect="refused"),
        types_are("weight", "int8", "int4", effect="refused"),
        zero_points_are_zero("activation", "weight", effect="refused"),
        activations_have_one_scale,
        scales_fit_the_tensor,
        channels_are_output_channels,
        four_bits_are_packed,
        bias_is_float,
        products_are_whole,
        sums_are_whole,
        averages_read_integers,
    ),
    "litert": (
        scales_are_positive,
        types_are("activation", "int8", "int16", effect="refused"),
        types_are("weight", "int8", "int4", effect="refused"),
        zero_points_are_zero("weight", effect="refused"),
        activations_have_one_scale,
        weights_leave_out_the_least,
        bias_has_the_scale_of_the_product,
    ),
    "openvino": _OPENVINO,
    "openvino-avx2": (*_OPENVINO, pairs_fit_16_bits),
    "ncnn": (
        scales_are_positive,
        types_are("activation", "int8", effect="refused"),
        types_are("weight", "int8", effect="refused"),
        zero_points_are_zero("activation", "weight", effect="refused"),
        activations_have_one_scale,
        weights_leave_out_the_least,
        bias_is_float,
    ),
}
