"""Means and deviations of channels: measured on samples, known from batch norms, or derived over activations."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.fx import Node
from torch.nn.modules.batchnorm import _BatchNorm

from ..fold import CONVOLUTIONS, COPIES, DROPOUTS
from ..graph.trace import Graph, argument, trace
from ..integers.placement import clip_bounds
from ..stage import Context, Edit

aten = torch.ops.aten

_MEANS = frozenset({aten.avg_pool2d.default, aten.adaptive_avg_pool2d.default, aten.mean.dim})


@dataclass(frozen=True)
class Moments:
    """The mean and the standard deviation of each channel (C,), in float64; no deviation where it is not known."""

    mean: Tensor
    deviation: Tensor | None

    def scaled(self, scale: Tensor) -> Moments:
        """The moments of the values times ``scale`` (C,)."""
        return Moments(self.mean * scale, None if self.deviation is None else self.deviation * scale.abs())

    def lowered(self, shift: Tensor) -> Moments:
        """The moments of the values less ``shift`` (C,)."""
        return Moments(self.mean - shift, self.deviation)


class ChannelStatistics:
    """Running mean, deviation and largest value of each channel along ``dim``, in float64."""

    def __init__(self, dim: int) -> None:
        self.dim = dim
        self.count = 0
        self.highest: Tensor | None = None
        self._sums: Tensor | None = None

    def observe(self, values: Tensor) -> None:
        """Take in ``values`` with channels along ``dim``."""
        rows = values.detach().movedim(self.dim, 0).flatten(1).double()
        sums, highest = torch.stack([rows.sum(1), rows.square().sum(1)]), rows.amax(1)
        self.count += rows.shape[1]
        self._sums = sums if self._sums is None else self._sums + sums
        self.highest = highest if self.highest is None else torch.maximum(self.highest, highest)

    @property
    def moments(self) -> Moments:
        """The mean and the deviation of all values seen."""
        assert self._sums is not None, "nothing was observed"
        mean, square = self._sums / self.count
        return Moments(mean, (square - mean.square()).clamp_min(0).sqrt())


def batch_norm_moments(model: nn.Module, context: Context) -> dict[str, tuple[str, Moments]]:
    """For each weight of a layer that a batch norm follows: the batch norm's name, and the moments of what comes out.

    A batch norm yields channels with the mean beta and the deviation ``|gamma|``, as it was trained (Nagel et al.,
    2019, section 4.2.1).

    Raises:
        InvalidInput: the network cannot be traced on the example inputs.
    """
    graph = trace(model, context.example_inputs)
    norms: dict[str, tuple[str, Moments]] = {}
    for node in graph.calls(aten.batch_norm.default):
        moments, source = _of_batch_norm(graph, node), argument(node, "input")
        if moments is not None and source.target in CONVOLUTIONS | {aten.linear.default}:
            name = graph.tensor_name(argument(source, "weight"))
            if name is not None:
                norms[name] = graph.layer(node), moments
    return norms


def folded_moments(known: Mapping[str, tuple[str, Moments]], edits: tuple[Edit, ...]) -> dict[str, Moments]:
    """Those of ``known`` whose batch norm, and nothing else, was folded into the weight: what comes out has them."""
    folded = {f"{edit.layer}.{edit.what}".lstrip("."): edit.after for edit in edits if edit.kind == "weights"}
    return {name: moments for name, (norm, moments) in known.items() if folded.get(name) == f"folded with {norm}"}


def _of_batch_norm(graph: Graph, node: Node) -> Moments | None:
    module = graph.model.get_submodule(graph.layer(node))
    if not isinstance(module, _BatchNorm) or module.running_mean is None or argument(node, "training"):
        return None
    gamma, beta = graph.tensor(argument(node, "weight")), graph.tensor(argument(node, "bias"))
    ones = torch.ones_like(module.running_mean, dtype=torch.float64)
    return Moments(
        ones * 0 if beta is None else beta.detach().double(), ones if gamma is None else gamma.detach().double().abs()
    )


def clipped(moments: Moments, low: float, high: float) -> Moments | None:
    """The moments of a normal distribution clipped to ``low`` to ``high``, either of which may be infinite.

    Nagel et al., "Data-Free Quantization through Weight Equalization and Bias Correction" (2019), appendix C; for a
    ReLU their equation 19. None where the deviation is not known.
    """
    mean, deviation = moments.mean, moments.deviation
    if deviation is None:
        return None
    deviation = deviation.clamp_min(1e-30)
    ends = []
    for bound in (low, high):
        if math.isinf(bound):
            density = torch.zeros_like(mean)
            ends.append((density, density + float(bound > 0), density))
        else:
            standard = (bound - mean) / deviation
            density = torch.exp(-standard.square() / 2) / math.sqrt(2 * math.pi)
            ends.append((density, torch.special.ndtr(standard), standard * density))
    (density_low, below_low, edge_low), (density_high, below_high, edge_high) = ends
    inside = below_high - below_low
    slope = density_low - density_high
    first = mean * inside + deviation * slope
    square = (
        mean.square() * inside + 2 * mean * deviation * slope + deviation.square() * (inside + edge_low - edge_high)
    )
    for bound, mass in ((low, below_low), (high, 1 - below_high)):
        if not math.isinf(bound):
            first = first + bound * mass
            square = square + bound**2 * mass
    return Moments(first, (square - first.square()).clamp_min(0).sqrt())


def derived(graph: Graph, known: Mapping[str, Moments]) -> dict[str, Moments]:
    """The moments of the values of as many nodes as they can be derived for, channels along dimension 1.

    Activations that clip are derived in closed form, sums as if their terms were independent and normal.

    Args:
        known: those of layers, by the name of the weight.
    """
    of_nodes: dict[str, Moments] = {}
    for node in graph.calls():
        moments = _derive(graph, node, known, of_nodes)
        if moments is not None:
            of_nodes[node.name] = moments
    return of_nodes


def _derive(graph: Graph, node: Node, known: Mapping[str, Moments], moments: Mapping[str, Moments]) -> Moments | None:
    if node.target in CONVOLUTIONS | {aten.linear.default}:
        if node.target is aten.linear.default and node.meta["val"].ndim != 2:
            return None
        return known.get(graph.tensor_name(argument(node, "weight")) or "")
    if node.target is aten.batch_norm.default:
        return _of_batch_norm(graph, node)
    sources = [moments.get(read.name) for read in _reads(node)]
    if not sources or any(source is None for source in sources):
        return None
    first, *others = (source for source in sources if source is not None)
    if (bounds := clip_bounds(node)) is not None:
        return clipped(first, *bounds)
    if node.target in COPIES or (node.target in DROPOUTS and not argument(node, "train")):
        return first
    if node.target in _MEANS or _drops_ones(node):
        return Moments(first.mean, first.deviation if _drops_ones(node) else None)
    if node.target in (aten.add.Tensor, aten.add_.Tensor) and len(others) == 1 and argument(node, "alpha") == 1:
        return _sum(first, others[0])
    if node.target is aten.cat.default and argument(node, "dim") == 1:
        deviations = [part.deviation for part in (first, *others) if part.deviation is not None]
        whole = torch.cat(deviations) if len(deviations) == len(sources) else None
        return Moments(torch.cat([first.mean, *(other.mean for other in others)]), whole)
    return None


def _sum(first: Moments, second: Moments) -> Moments | None:
    if first.mean.shape != second.mean.shape:
        return None
    known = first.deviation is not None and second.deviation is not None
    deviation = torch.hypot(first.deviation, second.deviation) if known else None  # type: ignore[arg-type]
    return Moments(first.mean + second.mean, deviation)


def _reads(node: Node) -> Iterator[Node]:
    for argument_ in node.args:
        yield from (
            item
            for item in (argument_ if isinstance(argument_, (list, tuple)) else [argument_])
            if isinstance(item, Node)
        )


def _drops_ones(node: Node) -> bool:
    """Whether ``node`` takes away the dimensions after the channels, all of size 1."""
    if node.target not in (aten.flatten.using_ints, aten.view.default, aten.reshape.default, aten.squeeze.dims):
        return False
    before, after = node.args[0].meta["val"].shape, node.meta["val"].shape  # type: ignore[union-attr]
    return len(after) == 2 and after[1] == before[1] and math.prod(before[2:]) == 1
