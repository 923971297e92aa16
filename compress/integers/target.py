"""Targets: which integers an engine wants for a tensor whose encoding is known. No graph.

A target is an engine on a kind of processor. What each wants stands in the engine's file (``runtimes/engines``), as
literals that are read here without importing the engine.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, TypeAdapter, ValidationError

from ..core.complaint import first_complaint
from ..errors import InvalidInput
from ..siblings import runtimes
from .encoding import Encoding, Integer, IntegerParameters

if TYPE_CHECKING:
    TargetName = str
else:
    TargetName = Literal[tuple(runtimes.facts.targets())]
"""The name of a target. As the type of a setting it admits those that engines state, and a schema lists them."""

Interface = Literal["float32", "int8", "uint8"]

_ROUNDING = (
    *("symmetric", "narrow", "weight_bits", "per_channel", "per_group"),
    *("products_only", "float_depthwise", "pools_in_one_scale"),
)
"""The facts of a target that decide which values its integers have, and what becomes integers."""

# The bias joins the 32-bit accumulator: half of its range is left for the sum of products.
LARGEST_BIAS = 2.0**30


@dataclass(frozen=True)
class Target:
    """What an engine wants: activations in ``activation`` integers, weights in ``weight_bits`` about zero point 0.

    Args:
        name: of the target.
        engine: its name.
        activation: the integers of 8-bit activations.
        wide_activation: those of 16-bit activations; None where the engine has none.
        wide_products: 16-bit activations are multiplied in integers; else floats are computed between their roundings.
        symmetric: activations have zero point 0 as well.
        narrow: and leave out the lowest signed integer.
        weight_bits: at most so many, where activations are integers.
        four_bit_products: whether weights of at most 4 bits can be multiplied by integer activations.
        per_channel: weights have a scale per output channel; else one.
        per_group: weights of a grouped convolution have a scale per group, unless each channel is a group.
        products_only: only what convolutions over planes and linear layers of vectors read becomes integers, and only
            for them; what else reads it gets floats.
        float_depthwise: depthwise convolutions stay in float.
        pools_in_one_scale: an average of windows has the scale of what it averages.
        fuses_sums: a convolution that only a sum reads adds to it before it rounds: its own rounding falls away.
        integer_bias: the bias of a product in integers is int32; else it stays in float.
        integer_numbers: a number that is added to integers, or multiplied with them, is stored as an integer; else it
            stays in float.
        casts_weights: stored weights that the engine converts to float at load are written as Cast and Mul, which it
            folds; else as DequantizeLinear.
        half_networks: a network whose weights are all float16 is computed in float16 throughout; else such weights are
            stored so and converted to float.
        rounds_floats: the engine takes float weights between integers for integers that were forgotten, and rounds
            them, unless the file prevents it.
        bit_operators: products of 1- and 2-bit weights become operators of their own.
        x86_kernels: convolutions want channels in the multiples that ONNX Runtime's kernels for x86 take.
        interfaces: the types that inputs and outputs can have; the first is the default.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    name: str
    engine: str
    activation: Integer
    wide_activation: Integer | None = None
    wide_products: bool = False
    symmetric: bool = False
    narrow: bool = False
    weight_bits: int = 8
    four_bit_products: bool = False
    per_channel: bool = True
    per_group: bool = False
    products_only: bool = False
    float_depthwise: bool = False
    pools_in_one_scale: bool = False
    fuses_sums: bool = False
    integer_bias: bool = False
    integer_numbers: bool = True
    casts_weights: bool = False
    half_networks: bool = False
    rounds_floats: bool = False
    bit_operators: bool = False
    x86_kernels: bool = False
    interfaces: tuple[Interface, ...] = ("float32",)

    def rounds_as(self, other: Target) -> bool:
        """Whether the integers of both have the same values, whatever types hold them."""
        return all(getattr(self, fact) == getattr(other, fact) for fact in _ROUNDING)

    def activation_type(self, encoding: Encoding) -> Integer:
        """The integers that an activation with this encoding becomes.

        Raises:
            InvalidInput: the engine has none that wide.
        """
        if encoding.bits <= 8:
            return self.activation
        require_bits(self, 8, encoding.bits)
        assert self.wide_activation is not None, "it was asked for"
        return self.wide_activation

    def activation_parameters(self, encoding: Encoding) -> IntegerParameters:
        """Scale and zero point of an activation, one for the tensor; a range from 0 gets the least integer for 0."""
        dtype = self.activation_type(encoding)
        return encoding.parameters(dtype, symmetric=self.symmetric or dtype == "int16", narrow=self.narrow)

    def rounds_bias(self, read: Encoding | None) -> bool:
        """Whether the bias of a product that reads an activation with this encoding becomes an integer."""
        return self.integer_bias and read is not None and read.bits <= 8

    def weight_parameters(
        self,
        encoding: Encoding,
        input_scale: float | None = None,
        bias: NDArray[np.float32] | None = None,
        groups: int = 1,
    ) -> IntegerParameters:
        """Scale and zero point 0 of a weight, per output channel, or per block of one.

        The integer bias has the scale ``input_scale * weight scale``. In a channel whose weights are nearly all zero
        that is so small that the bias would not fit in 32 bits, so the scale of such a channel is raised until it does.

        Args:
            input_scale: of the integers that the weight is multiplied by; None where they are floats.
            bias: that becomes an integer, if any.
            groups: of the convolution whose weight it is.
        """
        bits = encoding.bits if input_scale is None else min(encoding.bits, self.weight_bits)
        if not self.per_channel:
            lows, highs = (min(encoding.low),) * len(encoding.low), (max(encoding.high),) * len(encoding.high)
            encoding = replace(encoding, low=lows, high=highs)
        elif self.per_group and 1 < groups < len(encoding.low):
            lows_of, highs_of = (np.reshape(ends, (groups, -1)) for ends in (encoding.low, encoding.high))
            each = lows_of.shape[1]
            lows, highs = tuple(np.repeat(lows_of.min(1), each)), tuple(np.repeat(highs_of.max(1), each))
            encoding = replace(encoding, low=lows, high=highs)
        parameters = replace(encoding, bits=bits).parameters("int8", symmetric=True, narrow=True)
        if bias is None or input_scale is None:
            return parameters
        least = np.abs(bias.astype(np.float64)) / (LARGEST_BIAS * input_scale)
        scale = np.maximum(parameters.scale.astype(np.float64), least).astype(np.float32)
        return replace(parameters, scale=scale)


def bias_parameters(input_scale: float, weight: IntegerParameters) -> IntegerParameters:
    """An int32 bias, per channel: input scale times weight scale, zero point 0 (Jacob et al., 2017, equation 11)."""
    product = np.float64(input_scale) * weight.scale.astype(np.float64)
    scale = np.maximum(product, np.finfo(np.float32).tiny).astype(np.float32)
    limits = np.iinfo(np.int32)
    return IntegerParameters(scale, np.zeros(scale.shape, np.int64), int(limits.min), int(limits.max))


def read_targets() -> Mapping[str, Target]:
    """Every target by name, from what engines state.

    Raises:
        InvalidPlugin: an engine states integers that there are not, or a fact that is none.
    """
    adapter = TypeAdapter(Target)
    read: dict[str, Target] = {}
    for name, facts in runtimes.facts.targets().items():
        try:
            read[name] = adapter.validate_python(
                {"name": name, "engine": facts.engine, "interfaces": facts.interfaces, **facts.integers}
            )
        except ValidationError as error:
            raise runtimes.errors.InvalidPlugin(
                f"engine {facts.engine}: target {name}: {first_complaint(error).line('it')}"
            ) from error
    return read


TARGETS = read_targets()
"""Every target by name, as the engines state them."""


def target_named(name: str) -> Target:
    """The target called ``name``.

    Raises:
        InvalidInput: there is none.
    """
    if name not in TARGETS:
        raise InvalidInput(f"target {name!r}: expected one of {', '.join(TARGETS)}")
    return TARGETS[name]


def require_products(target: Target, weights: Iterable[Encoding]) -> None:
    """Refuse weights that the engine cannot multiply by integer activations.

    Args:
        weights: encodings of those that are.

    Raises:
        InvalidInput: they have 4 bits, and the engine wants 8.
    """
    for encoding in weights:
        if encoding.kind == "integer":
            require_bits(target, encoding.bits, 8)


def require_bits(target: Target, weights: int, activations: int) -> None:
    """Refuse products of so many bits that the engine does not have.

    Raises:
        InvalidInput: it wants other bits.
    """
    if weights <= 4 and not target.four_bit_products:
        raise InvalidInput(
            f"target {target.name}: its engine does not multiply 4-bit weights by integer activations; "
            f"quantize with --scheme int8, or w4 for the weights alone"
        )
    if activations > 8 and target.wide_activation is None:
        raise InvalidInput(f"target {target.name}: its engine has no 16-bit activations; quantize with --scheme int8")
