"""Encoding: how the values of one tensor become integers, said without any engine's dialect.

An encoding keeps the *range* of real values that the integers span. What an engine wants (uint8 with zero point 0 after
a ReLU, symmetric int8, ...) is derived from it by :meth:`Encoding.parameters`, so that one calibration serves all.
Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference" (2017),
equation 1: ``real = scale * (integer - zero_point)``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

Integer = Literal["uint8", "int8", "uint16", "int16", "int4"]
Kind = Literal["integer", "float16", "bfloat16", "levels"]
T = TypeVar("T", bound=np.generic)


@dataclass(frozen=True)
class IntegerParameters:
    """``real = scale * (integer - zero_point)``; scale float32 and zero point int64, of shape () or (channels,).

    With ``block``, (channels * blocks,): channel by channel, for so many neighbours along the last dimension of a
    matrix (channels, features); the last block of a channel may be shorter.
    """

    scale: NDArray[np.float32]
    zero_point: NDArray[np.int64]
    low: int
    high: int
    block: int | None = None

    def quantize(self, real: NDArray[np.floating[Any]], axis: int | None = None) -> NDArray[np.int64]:
        """Integers nearest to ``real`` (ties to even), clamped to low..high."""
        scale, zero_point = self._along(axis, real.shape)
        integers: NDArray[np.int64] = np.clip(np.rint(real / scale) + zero_point, self.low, self.high).astype(np.int64)
        return integers

    def dequantize(self, integers: NDArray[np.integer[Any]], axis: int | None = None) -> NDArray[np.float32]:
        """The real values that ``integers`` stand for."""
        scale, zero_point = self._along(axis, integers.shape)
        return ((integers - zero_point) * scale).astype(np.float32)

    def largest(self, other: IntegerParameters) -> IntegerParameters:
        """These, with the larger scale of both wherever they differ."""
        return replace(self, scale=np.maximum(self.scale, other.scale))

    def _along(self, axis: int | None, shape: tuple[int, ...]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        if axis is None:
            return self.scale, self.zero_point
        if self.block is not None:
            return self._spread(self.scale, shape), self._spread(self.zero_point, shape)
        along = [1] * len(shape)
        along[axis] = -1
        return self.scale.reshape(along), self.zero_point.reshape(along)

    def _spread(self, values: NDArray[T], shape: tuple[int, ...]) -> NDArray[T]:
        """One of ``values`` for each element of a matrix of this shape."""
        assert self.block is not None
        return np.repeat(values.reshape(shape[0], -1), self.block, axis=1)[:, : shape[1]]


@dataclass(frozen=True)
class Encoding:
    """The quantization of one tensor.

    Args:
        low: smallest real value that must be representable, one for the tensor or one per channel along ``axis``.
        high: largest, likewise.
        bits: width of the integers, or of the floats.
        symmetric: zero point 0 in signed integers, as weights have.
        axis: the channel dimension of ``low`` and ``high``; None for one range for the whole tensor.
        block: of a matrix (channels, features): so many neighbouring features share a range, and ``low`` and ``high``
            have one for each block, channel by channel.
        kind: ``integer``, or the shorter float that the tensor is stored in; floats have no scale. ``levels``: the
            tensor takes few values.
        levels: those values, in units of the channel: channel c holds ``levels[r][code] * high[c]``, where r is c, or 0
            if all channels have the same row. A code takes ``bits`` bits.
        restored: of a weight: it is stored so, and restored to floats where it is loaded; what reads it computes in
            floats, whatever else it reads.
    """

    low: tuple[float, ...]
    high: tuple[float, ...]
    bits: int = 8
    symmetric: bool = False
    axis: int | None = None
    block: int | None = None
    kind: Kind = "integer"
    levels: tuple[tuple[float, ...], ...] | None = None
    restored: bool = False

    @property
    def stored(self) -> str:
        """The type of the stored values: "int8", "int4", "float16", "1-bit codes"."""
        if self.kind == "levels":
            return f"{self.bits}-bit codes"
        return f"int{self.bits}" if self.kind == "integer" else self.kind

    def parameters(self, dtype: Integer, *, symmetric: bool | None = None, narrow: bool = False) -> IntegerParameters:
        """Scale and zero point in ``dtype``; the range is widened to hold 0, which must be exact (padding is 0).

        Args:
            symmetric: overrides the encoding's own, for engines that know nothing else.
            narrow: leave out the lowest signed integer, so that -127..127 is symmetric about 0 (weights).
        """
        assert self.kind == "integer", f"a tensor stored in {self.kind} has no integers"
        signed = not dtype.startswith("u")
        symmetric = self.symmetric if symmetric is None else symmetric
        low = np.minimum(np.asarray(self.low, np.float64), 0)
        high = np.maximum(np.asarray(self.high, np.float64), 0)
        least, most = (-(2 ** (self.bits - 1)), 2 ** (self.bits - 1) - 1) if signed else (0, 2**self.bits - 1)
        least += int(narrow and signed)
        tiny = float(np.finfo(np.float32).tiny) * 2**24
        if symmetric and signed:
            scale = np.maximum(np.maximum(-low, high) / most, tiny)
            zero_point = np.zeros(scale.shape, np.int64)
        else:
            scale = np.maximum((high - low) / (most - least), tiny)
            zero_point = np.clip(np.rint(least - low / scale), least, most).astype(np.int64)
        scale32 = scale.astype(np.float32)
        if self.axis is None:
            return IntegerParameters(scale32[0], zero_point[0], least, most)
        return IntegerParameters(scale32, zero_point, least, most, self.block)

    def table(self) -> NDArray[np.float32]:
        """The values that each channel can take: (channels, levels)."""
        assert self.levels is not None, f"a tensor stored in {self.kind} has no levels"
        rows = np.asarray(self.levels, np.float32)
        values: NDArray[np.float32] = rows * np.asarray(self.high, np.float32)[:, None]
        return values

    def codes(self, real: NDArray[np.floating[Any]]) -> NDArray[np.uint8]:
        """The code of the level nearest to each value of ``real`` (channels, ...), the lower one of two."""
        nearest = np.empty(real.shape, np.uint8)
        for channel, row in enumerate(self.table()):
            order = np.argsort(row, kind="stable")
            middles = (row[order][1:].astype(np.float64) + row[order][:-1]) / 2
            nearest[channel] = order[np.searchsorted(middles, real[channel])]
        return nearest

    def decoded(self, codes: NDArray[np.integer[Any]]) -> NDArray[np.float32]:
        """The real values that ``codes`` (channels, ...) stand for."""
        return np.stack([row[channel] for row, channel in zip(self.table(), codes, strict=True)])

    def in_integers(self, bits: int | None = None) -> Encoding | None:
        """The encoding as integers about zero point 0 that holds every level exactly, if there is one of 8 bits.

        Args:
            bits: of the integers; as few as they need where it is left out.
        """
        assert self.levels is not None, f"a tensor stored in {self.kind} has no levels"
        rows = np.asarray(self.levels, np.float64)
        unit = float(np.abs(rows[rows != 0]).min(initial=1.0))
        steps = rows / unit
        most = int(np.rint(np.abs(steps).max()))
        if most > 127 or np.any(steps != np.rint(steps)):
            return None
        bits = bits or next(bits for bits in range(2, 9) if most < 2 ** (bits - 1))
        high = tuple(abs(factor) * unit * (2 ** (bits - 1) - 1) for factor in self.high)
        return Encoding(tuple(-x for x in high), high, bits, True, self.axis)

    def ranges(self, shape: tuple[int, ...]) -> int:
        """How many ranges the encoding of a tensor of this shape has."""
        if self.axis is None:
            return 1
        return shape[self.axis] * (1 if self.block is None else -(-shape[-1] // self.block))

    def to_json(self) -> dict[str, Any]:
        """A mapping of plain values."""
        record: dict[str, Any] = {
            "low": list(self.low),
            "high": list(self.high),
            "bits": self.bits,
            "symmetric": self.symmetric,
            "axis": self.axis,
        }
        if self.block is not None:
            record["block"] = self.block
        if self.kind != "integer":
            record["kind"] = self.kind
        if self.levels is not None:
            record["levels"] = [list(row) for row in self.levels]
        if self.restored:
            record["restored"] = True
        return record

    @staticmethod
    def from_json(record: Mapping[str, Any]) -> Encoding:
        """The encoding that :meth:`to_json` wrote."""
        fixed = {"low": tuple(record["low"]), "high": tuple(record["high"])}
        if record.get("levels") is not None:
            fixed["levels"] = tuple(tuple(row) for row in record["levels"])
        return Encoding(**{**record, **fixed})
