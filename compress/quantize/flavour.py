"""Flavours: which integers an engine wants for a tensor whose encoding is known. One small table, no graph.

``ort-x86``: ONNX Runtime on x86 with VNNI multiplies uint8 activations by int8 weights, so activations are uint8 (zero
point 0 after a ReLU, which then costs nothing) and weights symmetric int8. ``ort-avx2``: without VNNI two products are
added in 16 bits, which 8-bit weights overflow; 7-bit weights do not. ``ort-arm``: ONNX Runtime on ARM with the
dot product instructions prefers int8 for both; the zero point after a ReLU is then -128, again the least integer.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ..errors import InvalidInput
from .encoding import Encoding, Integer, IntegerParameters

FlavourName = Literal["ort-x86", "ort-avx2", "ort-arm"]

# The bias joins the 32-bit accumulator: half of its range is left for the sum of products.
LARGEST_BIAS = 2.0**30


@dataclass(frozen=True)
class Flavour:
    """What an engine wants: activations in ``activation`` integers, weights in ``weight_bits`` about zero point 0."""

    activation: Integer
    weight_bits: int = 8

    def activation_parameters(self, encoding: Encoding) -> IntegerParameters:
        """Scale and zero point of an activation, one for the tensor; a range from 0 gets the least integer for 0."""
        return encoding.parameters(self.activation, symmetric=False)

    def weight_parameters(
        self, encoding: Encoding, input_scale: float, bias: NDArray[np.float32] | None
    ) -> IntegerParameters:
        """Scale and zero point 0 of a weight, per output channel.

        The integer bias has the scale ``input_scale * weight scale``. In a channel whose weights are nearly all zero
        that is so small that the bias would not fit in 32 bits, so the scale of such a channel is raised until it does.
        """
        parameters = replace(encoding, bits=self.weight_bits).parameters("int8", symmetric=True, narrow=True)
        if bias is None:
            return parameters
        least = np.abs(bias.astype(np.float64)) / (LARGEST_BIAS * input_scale)
        scale = np.maximum(parameters.scale.astype(np.float64), least).astype(np.float32)
        return IntegerParameters(scale, parameters.zero_point, parameters.low, parameters.high)


def bias_parameters(input_scale: float, weight: IntegerParameters) -> IntegerParameters:
    """An int32 bias, per channel: input scale times weight scale, zero point 0 (Jacob et al., 2017, equation 11)."""
    product = np.float64(input_scale) * weight.scale.astype(np.float64)
    scale = np.maximum(product, np.finfo(np.float32).tiny).astype(np.float32)
    limits = np.iinfo(np.int32)
    return IntegerParameters(scale, np.zeros(scale.shape, np.int64), int(limits.min), int(limits.max))


FLAVOURS: dict[str, Flavour] = {
    "ort-x86": Flavour("uint8"),
    "ort-avx2": Flavour("uint8", weight_bits=7),
    "ort-arm": Flavour("int8"),
}


def flavour_named(name: str) -> Flavour:
    """The flavour called ``name``.

    Raises:
        InvalidInput: there is none.
    """
    if name not in FLAVOURS:
        raise InvalidInput(f"flavour {name!r}: expected one of {', '.join(FLAVOURS)}")
    return FLAVOURS[name]
