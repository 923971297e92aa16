"""A depthwise and a pointwise convolution in the place of one over all channels.

Chollet, "Xception: Deep Learning with Depthwise Separable Convolutions" (2017), without an activation between them
(section 4.7), so that they are a convolution whose kernel is, for each input channel, of low rank. The best ones are
found by least squares on what the layer read and yielded: for each input channel the singular vectors of its kernel in
the metric of its own patches to begin with (as in Jaderberg, Vedaldi and Zisserman, "Speeding up Convolutional Neural
Networks with Low Rank Expansions" (2014), section 2), then the pointwise weights and the depthwise ones in turn.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn

from ...core.settings import setting
from ..observed import Observed, refit
from . import Substitution

ROUNDS = 8
"""Of refitting one of the two layers after the other, at most."""
ENOUGH = 1e-3
"""Where a round improves the error by a smaller share than this, it was the last."""
MOST_WEIGHTS = 6144
"""Of the depthwise layer, that are refitted together: the normal equations take 0.3 GB at this size."""


class DepthwiseSeparable(Substitution):
    """A depthwise convolution of each input channel, then a 1x1 convolution (Chollet, "Xception", 2017)."""

    multiplier: int = setting(
        1, "Depthwise filters of each input channel: more of them come closer to the layer, and cost more.", ge=1, le=64
    )

    def obstacle(self, layer: nn.Module) -> str | None:
        """It is grouped already, or has no spatial extent."""
        assert isinstance(layer, nn.Conv2d)
        if layer.groups != 1:
            return f"its channels are in {layer.groups} groups already"
        if layer.weight[0, 0].numel() == 1:
            return "its kernel is 1x1"
        return None

    def build(self, layer: nn.Module) -> nn.Sequential:
        """``depthwise`` and ``pointwise``."""
        assert isinstance(layer, nn.Conv2d)
        between = layer.in_channels * self.multiplier
        depthwise = nn.Conv2d(
            layer.in_channels, between, layer.kernel_size, layer.stride, layer.padding, layer.dilation,  # type: ignore[arg-type]
            layer.in_channels, bias=False, padding_mode=layer.padding_mode,
        )  # fmt: skip
        pointwise = nn.Conv2d(between, layer.out_channels, 1)
        return nn.Sequential(OrderedDict(depthwise=depthwise, pointwise=pointwise)).to(layer.weight)

    def initialize(self, substitute: nn.Module, layer: nn.Module, observed: Observed) -> None:
        """By alternating least squares from the singular vectors of each channel's kernel."""
        assert isinstance(layer, nn.Conv2d)
        depthwise, pointwise = substitute.get_submodule("depthwise"), substitute.get_submodule("pointwise")
        assert isinstance(depthwise, nn.Conv2d) and isinstance(pointwise, nn.Conv2d)
        equations = observed.equations(layer)
        moments = equations.xx[0] - torch.outer(equations.x[0], equations.x[0]) / equations.count
        products = equations.xr[0] - torch.outer(equations.x[0], equations.r[0]) / equations.count
        kernel = layer.weight.detach().double().flatten(2)
        filters, mixing = alternated(kernel, moments, products, observed.weights, self.multiplier)
        with torch.no_grad():
            depthwise.weight.copy_(filters.reshape(depthwise.weight.shape))
            pointwise.weight.copy_(mixing.reshape(pointwise.weight.shape))
            assert pointwise.bias is not None
            pointwise.bias.zero_()
        refit(pointwise, observed.read_by(depthwise))


def alternated(kernel: Tensor, moments: Tensor, products: Tensor, weights: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Depthwise filters (I, rank, K) and pointwise weights (O, I * rank) whose outputs are closest to those wanted.

    Args:
        kernel: (O, I, K) of the layer, its spatial extent flattened.
        moments: (I * K, I * K) second moments of the patches, centred.
        products: (I * K, O) moments of patches with the outputs wanted.
        weights: (O,) what a squared error of each output counts.
        rank: filters of each input channel.
    """
    channels, size = kernel.shape[1:]
    blocks = moments.view(channels, size, channels, size)
    filters = _singular(kernel * weights.sqrt()[:, None, None], blocks, rank)
    mixing = _mixing(filters, blocks, products)
    before = _unexplained(filters, mixing, products, weights)
    for _ in range(ROUNDS if filters.numel() <= MOST_WEIGHTS else 0):
        changed = _filters(mixing, blocks, products, weights, rank)
        mixed = _mixing(changed, blocks, products)
        after = _unexplained(changed, mixed, products, weights)
        if not after < before - ENOUGH * abs(before):
            break
        filters, mixing, before = changed, mixed, after
    return filters, mixing


def _singular(kernel: Tensor, blocks: Tensor, rank: int) -> Tensor:
    """For each input channel the first ``rank`` right singular vectors of its kernel in the metric of its patches."""
    own = torch.einsum("ikil->ikl", blocks)
    values, vectors = torch.linalg.eigh(own)
    roots = values.clamp_min(1e-12 * values[:, -1:].clamp_min(1e-30)).sqrt()
    metric = (vectors * roots[:, None]) @ vectors.mT
    inverse = (vectors / roots[:, None]) @ vectors.mT
    _, _, right = torch.linalg.svd(kernel.transpose(0, 1) @ metric, full_matrices=False)
    first = right[:, :rank]
    if first.shape[1] < rank:
        first = torch.cat([first, first.new_zeros(len(first), rank - first.shape[1], first.shape[2])], 1)
    found: Tensor = first @ inverse
    return found


def _mixing(filters: Tensor, blocks: Tensor, products: Tensor) -> Tensor:
    """The pointwise weights that suit the depthwise filters best."""
    channels, rank, size = filters.shape
    moments = torch.einsum("idk,ikjl,jel->idje", filters, blocks, filters).reshape(channels * rank, -1)
    wanted = torch.einsum("idk,iko->ido", filters, products.view(channels, size, -1)).flatten(0, 1)
    return _solved(moments, wanted).mT


def _filters(mixing: Tensor, blocks: Tensor, products: Tensor, weights: Tensor, rank: int) -> Tensor:
    """The depthwise filters that suit the pointwise weights best."""
    channels, size = blocks.shape[:2]
    gram = (mixing.mT @ (weights[:, None] * mixing)).view(channels, rank, channels, rank)
    moments = torch.einsum("idje,ikjl->idkjel", gram, blocks).reshape(channels * rank * size, -1)
    weighted = (weights[:, None] * mixing).view(-1, channels, rank)
    wanted = torch.einsum("oid,iko->idk", weighted, products.view(channels, size, -1)).reshape(-1, 1)
    return _solved(moments, wanted).view(channels, rank, size)


def _unexplained(filters: Tensor, mixing: Tensor, products: Tensor, weights: Tensor) -> float:
    """The weighted squared error but for a constant, where ``mixing`` is best for ``filters``."""
    channels, _, size = filters.shape
    wanted = torch.einsum("idk,iko->ido", filters, products.view(channels, size, -1)).flatten(0, 1)
    return -float((weights * (mixing.mT * wanted).sum(0)).sum())


def _solved(moments: Tensor, wanted: Tensor) -> Tensor:
    """The solution of the normal equations, with as little of a ridge as makes it stable."""
    ridge = 1e-9 * moments.diagonal().mean().clamp_min(1e-30)
    regularized = moments + ridge * torch.eye(len(moments), dtype=moments.dtype, device=moments.device)
    factor, failed = torch.linalg.cholesky_ex(regularized)
    if bool(failed):
        least: Tensor = torch.linalg.lstsq(regularized, wanted, driver="gelsd").solution
        return least
    return torch.cholesky_solve(wanted, factor)
