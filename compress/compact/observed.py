"""What a layer reads and yields on calibration samples, and layers that are fitted to it by least squares."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from ..core.least_squares import LeastSquares, patches

ROWS_PER_WEIGHT, LEAST_ROWS = 32, 16384
"""Positions of a fit for each weight of an output, and at least, where there are so many."""
RIDGE = 1e-6
"""The pull towards the weights that a layer has, relative to the mean square of its inputs."""


@dataclass(frozen=True)
class Observed:
    """What a layer reads, and what is wanted there, batch by batch.

    Args:
        inputs: (N, C, H, W) each.
        outputs: (N, O, H', W') each, for the batches of ``inputs``.
    """

    inputs: Sequence[Tensor]
    outputs: Sequence[Tensor]

    @cached_property
    def weights(self) -> Tensor:
        """(O,) what a squared error of each output channel counts: one over its variance, 0 where it is constant.

        A batch norm behind the layer scales every channel to the same variance, and a channel that varies little
        matters as much as any other.
        """
        rows = torch.cat([_by_channel(output) for output in self.outputs], 1).double()
        variance = rows.var(1, correction=0)
        tiny = 1e-12 * variance.max().clamp_min(1e-30)
        return torch.where(variance > tiny, 1 / variance.clamp_min(1e-30), torch.zeros_like(variance))

    def read_by(self, layer: nn.Module) -> Observed:
        """What a layer behind ``layer`` reads, towards the same outputs."""
        with torch.no_grad():
            return Observed([layer(x) for x in self.inputs], self.outputs)

    def part(self, channels: slice) -> Observed:
        """The same inputs towards some of the output channels."""
        return Observed(self.inputs, [output[:, channels] for output in self.outputs])

    def error(self, layer: nn.Module) -> float:
        """The mean squared error of what ``layer`` gives, each channel relative to its variance."""
        total, count = 0.0, 0
        with torch.no_grad():
            for x, wanted in zip(self.inputs, self.outputs, strict=True):
                squares = _by_channel(layer(x) - wanted).double().square().sum(1)
                total += float((squares * self.weights).sum())
                count += wanted[:, 0].numel()
        varying = int((self.weights > 0).sum())
        error = total / max(1, count * varying)
        return error if math.isfinite(error) else math.inf

    def equations(self, layer: nn.Conv2d, residual: bool = False) -> LeastSquares:
        """The normal equations of a convolution with the geometry of ``layer``, at random positions.

        Args:
            residual: towards what the weights of ``layer`` leave over, instead of the whole outputs.
        """
        equations = LeastSquares(centred=True)
        positions = sum(output[:, 0].numel() for output in self.outputs)
        wanted = max(LEAST_ROWS, ROWS_PER_WEIGHT * layer.weight[0].numel())
        generator = torch.Generator().manual_seed(0)
        for x, output in zip(self.inputs, self.outputs, strict=True):
            if residual:
                with torch.no_grad():
                    output = output - layer(x)
            count = output[:, 0].numel()
            at = torch.randperm(count, generator=generator)[: math.ceil(wanted * count / positions)].to(x.device)
            rows = patches(layer, x, tuple(output.shape[2:]), at).transpose(0, 1)
            values = output.movedim(1, -1).flatten(0, -2)[at]
            equations.add(rows, values.reshape(len(at), layer.groups, -1).transpose(0, 1))
        return equations


def _by_channel(output: Tensor) -> Tensor:
    return output.transpose(0, 1).flatten(1)


def refit(layer: nn.Conv2d, observed: Observed, error: Callable[[], float] | None = None) -> None:
    """Set weight and bias of a convolution that has a bias, in place, to what gives the observed outputs best.

    They stay as they are where that makes ``error``, by default that of the layer, larger.
    """
    measure = error or (lambda: observed.error(layer))
    kept = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
    before = measure()
    delta, shift = observed.equations(layer, residual=True).solve(RIDGE)
    assert layer.bias is not None, "a substitute's last layer has a bias"
    with torch.no_grad():
        layer.weight += delta.mT.flatten(0, 1).reshape(layer.weight.shape).to(layer.weight)
        layer.bias += shift.flatten().to(layer.bias)
    if not measure() <= before:
        layer.load_state_dict(kept)
