"""Least squares in one pass over samples: normal equations of convolutions and linear layers, and their solution."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.nn.modules.conv import _ConvNd


@dataclass
class LeastSquares:
    """Streaming normal equations of ``residual = X delta + shift``, for G groups at once, in float64.

    Args:
        centred: with a shift (a bias), which the ridge leaves free.
    """

    centred: bool
    count: int = 0
    xx: Tensor = field(default_factory=lambda: torch.zeros(()))
    xr: Tensor = field(default_factory=lambda: torch.zeros(()))
    x: Tensor = field(default_factory=lambda: torch.zeros(()))
    r: Tensor = field(default_factory=lambda: torch.zeros(()))

    def add(self, rows: Tensor, residuals: Tensor) -> None:
        """Take in rows (G, P, inputs) and residuals (G, P, outputs)."""
        rows, residuals = rows.double(), residuals.double()
        self.count += rows.shape[1]
        self.xx = self.xx + rows.mT @ rows
        self.xr = self.xr + rows.mT @ residuals
        self.x = self.x + rows.sum(1)
        self.r = self.r + residuals.sum(1)

    def solve(self, ridge: float) -> tuple[Tensor, Tensor]:
        """``delta`` (G, inputs, outputs) and ``shift`` (G, outputs), which is 0 where not centred."""
        xx, xr = self.xx, self.xr
        if self.centred:
            xx = xx - self.x[:, :, None] * self.x[:, None, :] / self.count
            xr = xr - self.x[:, :, None] * self.r[:, None, :] / self.count
        diagonal = xx.diagonal(dim1=-2, dim2=-1)
        regularized = xx + torch.diag_embed(ridge * diagonal.mean(-1, keepdim=True).expand_as(diagonal))
        factor, failed = torch.linalg.cholesky_ex(regularized)
        if bool(failed.any()):
            delta = torch.linalg.lstsq(regularized, xr, driver="gelsd").solution
        else:
            delta = torch.cholesky_solve(xr, factor)
        shift = torch.zeros_like(self.r)
        if self.centred:
            shift = (self.r - (self.x[:, None, :] @ delta)[:, 0]) / self.count
        return delta, shift


def patches(module: _ConvNd, x: Tensor, sizes: Sequence[int], at: Tensor) -> Tensor:
    """What a convolution of ``x`` (N, C, ...) multiplies its weights with at some outputs: (P, groups, C / groups * k).

    Args:
        sizes: of the output's spatial dimensions.
        at: (P,) positions of the flattened output (N, ...) without its channels.
    """
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    padded = pad(x, module._reversed_padding_repeated_twice, mode=mode).movedim(1, -1)
    dims = len(sizes)
    sample, *places = torch.unravel_index(at.to(x.device), (len(x), *sizes))
    index = [sample.view(-1, *(1,) * dims)]
    for d, (place, kernel) in enumerate(zip(places, module.kernel_size, strict=True)):
        reach = torch.arange(kernel, device=x.device) * module.dilation[d]
        spread = place[:, None] * module.stride[d] + reach
        index.append(spread.view(-1, *(kernel if other == d else 1 for other in range(dims))))
    windows: Tensor = padded[tuple(index)].movedim(-1, 1)  # (P, C, *kernel)
    return windows.reshape(len(at), module.groups, -1)
