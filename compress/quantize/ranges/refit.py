"""Encodings of weights whose values have changed since they were encoded, as by a training of the user's own."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional

from ...errors import InvalidInput
from ...integers.encoding import Encoding
from .observers import weight_ranges

LEVEL_TOLERANCE = 1e-4
"""How far a value may be from one of its channel's levels, in parts of the largest of them."""


def refit(encoding: Encoding, weight: Tensor, name: str) -> Encoding:
    """The encoding of ``weight`` in the bits, blocks and type of ``encoding``, which is of its earlier values.

    Each channel (or block, or the tensor where all have one range) gets the range that rounds its values with the least
    squared error, or keeps the one that it has where that rounds them at least as well. So weights that were trained
    on the integers of ``encoding`` keep these. Of shorter floats only the extremes are told anew.

    Args:
        weight: in the shape of the earlier one.
        name: of the weight, for messages.

    Raises:
        InvalidInput: the weight is stored in few levels and has other values; or one is too large for float16.
    """
    weight = weight.detach().float().cpu()
    if encoding.kind == "levels":
        _require_levels(encoding, weight, name)
        return encoding
    if encoding.kind != "integer":
        if encoding.kind == "float16" and float(weight.abs().max()) > torch.finfo(torch.float16).max:
            raise InvalidInput(f"{name} has values beyond 65504, too large for the float16 that it is stored in")
        return replace(encoding, low=(float(weight.min()),), high=(float(weight.max()),))
    rows, bits, count = _rows(encoding, weight), encoding.bits, len(encoding.low)
    if len({*zip(encoding.low, encoding.high, strict=True)}) == 1:  # one range for all of them
        rows = rows.reshape(1, -1)
    kept = torch.tensor(encoding.low[: len(rows)]), torch.tensor(encoding.high[: len(rows)])
    measured = weight_ranges(rows, "mse", bits=bits)
    keep = _errors(rows, *kept, bits) <= _errors(rows, *measured, bits)
    low, high = (torch.where(keep, old, new).expand(count) for old, new in zip(kept, measured, strict=True))
    return replace(encoding, low=tuple(low.tolist()), high=tuple(high.tolist()))


def _rows(encoding: Encoding, weight: Tensor) -> Tensor:
    """The values of ``weight``, a row for each range of ``encoding``; the last block of a channel ends in zeros."""
    if encoding.axis is None:
        return weight.reshape(1, -1)
    rows = weight.movedim(encoding.axis, 0).flatten(1)
    if encoding.block is None:
        return rows
    return functional.pad(rows, (0, -rows.shape[1] % encoding.block)).reshape(-1, encoding.block)


def _errors(rows: Tensor, low: Tensor, high: Tensor, bits: int) -> Tensor:
    """The sum of squared errors of each row, rounded about zero point 0 in the range of its ends."""
    most = 2 ** (bits - 1) - 1
    scale = (torch.maximum(-low, high) / most).clamp_min(torch.finfo(torch.float32).tiny)[:, None]
    errors: Tensor = ((rows / scale).round_().clamp_(-most, most).mul_(scale) - rows).square_().sum(1)
    return errors


def _require_levels(encoding: Encoding, weight: Tensor, name: str) -> None:
    table = torch.from_numpy(encoding.table())
    for row, levels in zip(weight.flatten(1), table, strict=True):
        apart = (row[:, None] - levels).abs().min(1).values
        if bool((apart > LEVEL_TOLERANCE * levels.abs().max()).any()):
            raise InvalidInput(
                f"{name} has values beside the {len(levels)} that its {encoding.stored} stand for, and these cannot be "
                "measured anew: they are trained with the weights"
            )
