"""How far outputs are from those of a reference, seen batch by batch: of each output, and of the parts of it that its
largest values would drown."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..siblings import runtimes


@dataclass
class _Channels:
    """Of the slices along one dimension: their largest value, power, and power of the difference."""

    peaks: Tensor
    signal: Tensor
    noise: Tensor

    @classmethod
    def of(cls, actual: Tensor, expected: Tensor, axis: int) -> _Channels:
        values, error = (x.transpose(0, axis).flatten(1) for x in (expected, actual - expected))
        return cls(values.abs().amax(1), values.square().sum(1), error.square().sum(1))

    def add(self, other: _Channels) -> None:
        self.peaks = torch.maximum(self.peaks, other.peaks)
        self.signal, self.noise = self.signal + other.signal, self.noise + other.noise

    @property
    def drowned(self) -> NDArray[np.bool_]:
        return runtimes.checks.parts.drowned(self.peaks.numpy())


@dataclass
class OutputNoise:
    """Of one output: its power, and that of the difference from what it should be; of the whole and each channel."""

    signal: float = 0.0
    noise: float = 0.0
    channels: dict[int, _Channels | None] = field(default_factory=dict)
    """By dimension; None where the number of channels is not the same in all batches."""

    def see(self, actual: Tensor, expected: Tensor) -> None:
        """Take in the output for a batch, and what it should be, of the same shape."""
        mine, theirs = (x.detach().cpu().double() for x in (actual, expected))
        self.signal += float(theirs.square().sum())
        self.noise += float((mine - theirs).square().sum())
        if not theirs.numel():
            return
        for axis in runtimes.checks.parts.channel_axes(theirs.ndim):
            seen, known = _Channels.of(mine, theirs, axis), self.channels.get(axis)
            if axis not in self.channels:
                self.channels[axis] = seen
            elif known is not None and len(known.peaks) == len(seen.peaks):
                known.add(seen)
            else:
                self.channels[axis] = None

    @property
    def of_parts(self) -> tuple[tuple[float, float], ...]:
        """The powers of signal and noise, of the whole and of each part that it drowns."""
        parts = [(self.signal, self.noise)]
        for channels in self.channels.values():
            small = None if channels is None else channels.drowned
            if channels is not None and small is not None and small.any():
                chosen = torch.from_numpy(small)
                parts.append((float(channels.signal[chosen].sum()), float(channels.noise[chosen].sum())))
        return tuple(parts)

    @property
    def snr_db(self) -> float:
        """The signal to noise ratio of the whole."""
        return decibels(self.signal, self.noise)

    @property
    def worst_snr_db(self) -> float:
        """The lowest signal to noise ratio, of the whole and of its parts."""
        return min(decibels(signal, noise) for signal, noise in self.of_parts)


@dataclass
class Noise:
    """Of all outputs, in their order."""

    outputs: list[OutputNoise] = field(default_factory=list)

    def see(self, actual: Sequence[Tensor], expected: Sequence[Tensor]) -> None:
        """Take in the outputs for a batch, and what they should be, of the same shapes."""
        self.outputs = self.outputs or [OutputNoise() for _ in expected]
        for output, mine, theirs in zip(self.outputs, actual, expected, strict=True):
            output.see(mine, theirs)

    @property
    def ratio(self) -> float:
        """The power of the noise by that of the signal, the mean over outputs and their parts, each counted alike."""
        ratios = [noise / max(signal, 1e-300) for each in self.outputs for signal, noise in each.of_parts]
        return math.inf if any(map(math.isnan, ratios)) else sum(ratios) / max(1, len(ratios))

    @property
    def worst_snr_db(self) -> float:
        """The lowest signal to noise ratio in dB of an output or of a part of one; infinite where there is none."""
        return min((output.worst_snr_db for output in self.outputs), default=math.inf)


def decibels(signal: float, noise: float) -> float:
    """The ratio of two powers in dB; infinite without noise, and minus infinity where the noise is not finite.

    >>> decibels(100.0, 1.0), decibels(1.0, 0.0), decibels(1.0, math.nan)
    (20.0, inf, -inf)
    """
    if noise == 0:
        return math.inf
    if math.isnan(noise) or math.isinf(noise) or signal == 0:
        return -math.inf
    return 10 * math.log10(signal / noise)
