"""A convolution or linear layer as a matrix product of rows: what its weight is multiplied by at each output position.

With the rows at hand a layer runs on any choice of positions, whatever its stride, padding, dilation and groups.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.fx import Node
from torch.nn.functional import pad

from ....graph.trace import argument

aten = torch.ops.aten

LEAST_ROWS, ROWS_PER_INPUT = 16384, 4
LARGEST_BYTES = 2**29


@dataclass(frozen=True)
class Rows:
    """``inputs`` (groups, P, in / groups * kernel) and ``targets`` (P, out) of P output positions."""

    inputs: Tensor
    targets: Tensor

    def __len__(self) -> int:
        return len(self.targets)

    def window(self, start: int, count: int) -> Rows:
        """``count`` rows from ``start`` on, which go on with the first after the last."""
        end = start + count
        if end <= len(self):
            return Rows(self.inputs[:, start:end], self.targets[start:end])
        inputs = torch.cat([self.inputs[:, start:], self.inputs[:, : end - len(self)]], 1)
        return Rows(inputs, torch.cat([self.targets[start:], self.targets[: end - len(self)]]))

    def times(self, weight: Tensor) -> Tensor:
        """The products (P, out) with a weight (out, in / groups, *kernel)."""
        groups, _, width = self.inputs.shape
        if groups == 1:
            return self.inputs[0] @ weight.reshape(-1, width).T
        products = torch.bmm(self.inputs, weight.reshape(groups, -1, width).transpose(1, 2))
        return products.transpose(0, 1).reshape(products.shape[1], -1)

    def gradient(self, of_products: Tensor, weight: Tensor) -> Tensor:
        """The derivative in a weight, of its shape, where ``of_products`` (P, out) is that in :meth:`times` it."""
        groups = len(self.inputs)
        if groups == 1:
            return (of_products.T @ self.inputs[0]).view_as(weight)
        parts = of_products.reshape(len(of_products), groups, -1)
        return torch.bmm(parts.permute(1, 2, 0), self.inputs).reshape(weight.shape)


def sampled_rows(
    node: Node,
    inputs: Sequence[Tensor],
    targets: Sequence[Tensor],
    generator: torch.Generator,
    count: int | None = None,
) -> Rows:
    """Rows of the layer ``node`` at positions chosen at random, in random order.

    Args:
        inputs: what the layer reads, batch by batch: (N, C, H, W), (N, C, L) or (..., in).
        targets: what it shall yield, of the shape of its output.
        count: of the rows, by default several times the inputs of an output, within bounds.
    """
    parts = [windows(node, x) for x in inputs]
    per_row = parts[0].width
    if count is None:
        count = max(LEAST_ROWS, ROWS_PER_INPUT * per_row)
        count = min(count, max(1, LARGEST_BYTES // (4 * per_row * parts[0].groups)))
    total = sum(part.count for part in parts)
    count = min(count, total)
    chosen = torch.randperm(total, generator=generator)[:count]
    rows = inputs[0].new_empty((parts[0].groups, count, per_row))
    wanted = targets[0].new_empty((count, parts[0].outputs(targets[0]).shape[1]))
    start = 0
    for part, target in zip(parts, targets, strict=True):
        places = ((chosen >= start) & (chosen < start + part.count)).nonzero()[:, 0]
        index = chosen[places] - start
        start += part.count
        rows[:, places] = part.at(index)
        wanted[places] = part.outputs(target)[index]
    return Rows(rows, wanted)


@dataclass(frozen=True)
class Windows:
    """All windows of one batch: ``view`` (N, groups, C / groups, Ho, Wo, kh, kw), which holds no copy of the values.

    Of a ``linear`` layer (..., in) each vector counts as a sample with a single window.
    """

    view: Tensor
    linear: bool

    @property
    def groups(self) -> int:
        """The groups of the convolution."""
        return self.view.shape[1]

    @property
    def width(self) -> int:
        """How many inputs one output is computed from: channels of a group times the kernel's size."""
        _, _, channels, _, _, high, wide = self.view.shape
        return channels * high * wide

    @property
    def count(self) -> int:
        """The number of output positions in all samples together."""
        return self.view.shape[0] * self.view.shape[3] * self.view.shape[4]

    def at(self, index: Tensor) -> Tensor:
        """The rows (groups, P, width) at positions counted through (N, Ho, Wo)."""
        height, width = self.view.shape[3:5]
        sample, place = index // (height * width), index % (height * width)
        rows = self.view[sample, :, :, place // width, place % width]  # (P, groups, C / groups, kh, kw)
        return rows.flatten(2).transpose(0, 1)

    def outputs(self, y: Tensor) -> Tensor:
        """An output of the layer as (positions, out)."""
        return y.reshape(self.count, -1) if self.linear else y.flatten(2).transpose(1, 2).reshape(self.count, -1)


def windows(node: Node, x: Tensor) -> Windows:
    """What the convolution or linear layer ``node`` multiplies at each position of its output, given its input."""
    if node.target is aten.linear.default:
        return Windows(x.reshape(-1, 1, x.shape[-1], 1, 1, 1, 1), linear=True)
    weight = node.args[1]
    assert isinstance(weight, Node)
    kernel = list(weight.meta["val"].shape[2:])
    spatial = len(kernel)
    stride, dilation = (_each(argument(node, name), spatial) for name in ("stride", "dilation"))
    x = pad(x, _padding(argument(node, "padding"), kernel, dilation))
    for place in range(spatial):
        reach = dilation[place] * (kernel[place] - 1) + 1
        x = x.unfold(2 + place, reach, stride[place])[..., :: dilation[place]]
    if spatial == 1:  # (N, C, L, k), as an image of one row
        x = x.unsqueeze(2).unsqueeze(4)
    groups = argument(node, "groups")
    return Windows(x.reshape(x.shape[0], groups, -1, *x.shape[2:]) if groups > 1 else x.unsqueeze(1), linear=False)


def _each(value: int | Sequence[int], spatial: int) -> list[int]:
    sizes = [value] if isinstance(value, int) else list(value)
    return sizes * spatial if len(sizes) == 1 else sizes


def _padding(value: str | int | Sequence[int], kernel: list[int], dilation: list[int]) -> list[int]:
    """As :func:`torch.nn.functional.pad` takes it: the last dimension first."""
    padding: list[int] = []
    for place in reversed(range(len(kernel))):
        if value == "same":  # the odd one goes to the end
            total = dilation[place] * (kernel[place] - 1)
            padding += [total // 2, total - total // 2]
        else:
            each = 0 if isinstance(value, str) else _each(value, len(kernel))[place]
            padding += [each, each]
    return padding
