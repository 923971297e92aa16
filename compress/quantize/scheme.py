"""Schemes: how many bits weights and activations get, as rows of one table."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from ..errors import InvalidInput
from ..integers.encoding import Encoding, Kind
from .ranges.observers import WeightCalibration, weight_ranges

SchemeName = Literal[
    "int8", "w4a8", "w8a16", "w8", "w4", "fp16", "bf16",
    "binary", "abc", "horq", "bwn", "w1a8", "ternary", "ttq", "w2a8", "w2a2", "w4a4", "pow2", "inq",
]  # fmt: skip
Weights = Literal["binary", "bases", "ternary", "trained ternary", "steps", "powers of two"]
Schedule = Literal["together", "inputs first", "incremental"]
"""How training goes: all at once; first with rounded inputs and float weights, then with both rounded (Bi-Real Net,
ReActNet); or by fixing more and more of the weights (INQ)."""


@dataclass(frozen=True)
class Scheme:
    """The widths of weights and activations.

    Args:
        weight_bits: of every weight of a convolution or linear layer.
        activation_bits: of what they read; None leaves activations in float.
        block: neighbouring input features of a linear layer that share a scale; None: a scale per output channel, as
            convolutions always have.
        kind: of the stored weights; ``levels`` are few values, which weights are trained for.
        weights: how those levels are found.
        inputs: how a layer rounds what it reads to few values; see :func:`compress.rounding.inputs.rounding_of`. With
            ``activation_bits``, tensors are encoded instead, as for int8.
        schedule: of their training.
        gain: what ONNX Runtime on a CPU makes of it, in one line.
    """

    weight_bits: int
    activation_bits: int | None
    block: int | None = None
    kind: Kind = "integer"
    weights: Weights | None = None
    inputs: str | None = None
    schedule: Schedule = "together"
    gain: str = ""

    @property
    def stored(self) -> str:
        """The type of the stored weights: "int8", "int4", "float16", "2-bit codes"."""
        if self.kind == "levels":
            return f"{self.weight_bits}-bit codes"
        return f"int{self.weight_bits}" if self.kind == "integer" else self.kind

    def weight_encoding(
        self, name: str, weight: Tensor, calibration: WeightCalibration = "minmax", *, per_channel: bool = True
    ) -> Encoding:
        """The encoding of a weight with output channels first.

        A matrix (channels, features) gets a range per block where the scheme has blocks.

        Args:
            calibration: how ranges follow from the values.
            per_channel: where it is false, all channels and blocks have one range.

        Raises:
            InvalidInput: a value is too large for float16.
        """
        assert self.kind != "levels", f"{name}: levels are found by training"
        weight = weight.detach().float()
        if self.kind != "integer":
            if self.kind == "float16" and float(weight.abs().max()) > torch.finfo(torch.float16).max:
                raise InvalidInput(f"quantize: {name} has values beyond 65504, too large for float16; use bf16")
            return Encoding((float(weight.min()),), (float(weight.max()),), bits=16, kind=self.kind)
        block = self.block if weight.ndim == 2 else None
        if block is None:
            rows = weight.flatten(1)
        else:
            spare = -weight.shape[1] % block
            rows = functional.pad(weight, (0, spare), mode="constant").reshape(-1, block)
        low, high = weight_ranges(rows if per_channel else rows.reshape(1, -1), calibration, bits=self.weight_bits)
        low, high = low.expand(len(rows)), high.expand(len(rows))
        return Encoding(tuple(low.tolist()), tuple(high.tolist()), self.weight_bits, True, 0, block)


SCHEMES: dict[SchemeName, Scheme] = {
    "int8": Scheme(8, 8, gain="a quarter of the bytes; convolutions and matrix products run in integers"),
    "w4a8": Scheme(4, 8, gain="an eighth of the bytes on disk; unpacked to int8 at load: the speed and memory of int8"),
    "w8a16": Scheme(
        8,
        16,
        gain="a quarter of the bytes; no speed: ONNX Runtime has no 16-bit products and computes in float between "
        "roundings, slower than float32 (for engines with 16x8 bits)",
    ),
    "w8": Scheme(
        8,
        None,
        gain="a quarter of the bytes on disk; convolutions run as in float32, linear layers on the bytes themselves "
        "(MatMulNBits, which rounds its input to 8 bits block by block)",
    ),
    "w4": Scheme(
        4,
        None,
        block=32,
        gain="a seventh of the bytes on disk; convolutions run as in float32, linear layers on the bytes themselves "
        "(MatMulNBits, which rounds its input to 8 bits block by block)",
    ),
    "fp16": Scheme(16, None, kind="float16", gain="half the bytes on disk; converted at load, runs as float32 does"),
    "bf16": Scheme(16, None, kind="bfloat16", gain="half the bytes on disk; converted at load, runs as float32 does"),
    "binary": Scheme(
        1,
        None,
        kind="levels",
        weights="binary",
        inputs="signs",
        schedule="inputs first",
        gain="a 32nd of the bytes; XNOR and popcount in the engine bitwise, the speed of float32 elsewhere",
    ),
    "abc": Scheme(
        3,
        None,
        kind="levels",
        weights="bases",
        inputs="signs 3",
        schedule="inputs first",
        gain="an eighth of the bytes (3 of 32 bits, packed in 4); nine XNOR convolutions in the engine bitwise",
    ),
    "horq": Scheme(
        1,
        None,
        kind="levels",
        weights="binary",
        inputs="residual signs 2",
        schedule="inputs first",
        gain="a 32nd of the bytes; two XNOR convolutions for each in the engine bitwise",
    ),
    "bwn": Scheme(1, None, kind="levels", weights="binary", gain="a 32nd of the bytes; runs as float32 does"),
    "w1a8": Scheme(1, 8, kind="levels", weights="binary", gain="a 32nd of the bytes on disk; the speed of int8"),
    "ternary": Scheme(2, None, kind="levels", weights="ternary", gain="a 16th of the bytes; runs as float32 does"),
    "ttq": Scheme(2, None, kind="levels", weights="trained ternary", gain="a 16th of the bytes; runs as float32 does"),
    "w2a8": Scheme(2, 8, kind="levels", weights="steps", gain="a 16th of the bytes on disk; the speed of int8"),
    "w2a2": Scheme(
        2,
        None,
        kind="levels",
        weights="steps",
        inputs="2 bits",
        gain="a 16th of the bytes; AND and popcount in the engine bitwise, the speed of float32 elsewhere",
    ),
    "w4a4": Scheme(
        4, None, kind="levels", weights="steps", inputs="4 bits", gain="an eighth of the bytes; runs as float32 does"
    ),
    "pow2": Scheme(
        4, None, kind="levels", weights="powers of two", gain="an eighth of the bytes; runs as float32 does"
    ),
    "inq": Scheme(
        4,
        None,
        kind="levels",
        weights="powers of two",
        schedule="incremental",
        gain="an eighth of the bytes; runs as float32 does",
    ),
}


def scheme_of(weights: Iterable[Encoding], activations: Iterable[Encoding]) -> SchemeName | None:
    """The scheme that made these encodings, or None where layers have different ones.

    Args:
        weights: of the weights.
        activations: of the values.
    """
    stored = {(encoding.kind, encoding.bits) for encoding in weights}
    read: set[int | None] = {encoding.bits for encoding in activations}
    names: list[SchemeName] = [
        name
        for name, scheme in SCHEMES.items()
        if scheme.kind != "levels"
        and stored == {(scheme.kind, scheme.weight_bits)}
        and (read or {None}) == {scheme.activation_bits}
    ]
    return names[0] if names else None
