"""What zeros bring, and where: told with every result, so that nobody takes zeros for speed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .masks import Granularity


@dataclass(frozen=True)
class Gain:
    """What a pattern of zeros brings: in ``bytes`` of the stored file, and in ``speed`` by engine."""

    bytes: str
    speed: str


_PACKED = "`compress pack` stores the nonzero weights and which they are, compressed"
_DENSE = "none in ONNX Runtime on the CPU, which multiplies by zeros as by any weight"
_NOWHERE = f"{_DENSE}, nor in another engine that this program writes for"

GAINS: Mapping[Granularity, Gain] = {
    "weight": Gain(_PACKED, f"{_DENSE}; LiteRT's XNNPACK has sparse 1x1 convolutions (not measured here)"),
    "kernel": Gain(f"{_PACKED}; whole kernels are told in few bytes", _NOWHERE),
    "row": Gain(f"{_PACKED}; whole rows are told in fewer bytes", _NOWHERE),
    "block": Gain(f"{_PACKED}; whole blocks are told in few bytes", _NOWHERE),
    "n:m": Gain(
        _PACKED,
        f"{_DENSE}; TensorRT can run 2:4 on the sparse tensor cores of Ampere and later (not measured here)",
    ),
}


def note(granularity: Granularity) -> str:
    """Both gains in a line."""
    gain = GAINS[granularity]
    return f"zeros: speed: {gain.speed}; bytes: {gain.bytes}; unpacked, the file is as large as a dense one"
