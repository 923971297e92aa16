"""How much a channel matters: pure functions of weights, gradients, curvature and activations, one score per slice.

A *slice* is what one index of a dimension of a tensor holds: a filter of a convolution along dimension 0, all weights
that read one input channel along dimension 1. Scores are float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Annotated, Literal, get_args

import torch
from pydantic import AfterValidator, PlainSerializer, WithJsonSchema
from torch import Tensor

CriterionName = Literal[
    "l1", "l2", "bn_scale", "fpgm", "lamp", "taylor", "obd", "apoz", "activation_mean", "discrimination", "random"
]
CustomCriterion = Callable[[Tensor, int], Tensor]
"""``criterion(weight, axis)``: the scores of the slices of a weight along a dimension, (weight.shape[axis],)."""


def _known(criterion: str | CustomCriterion) -> str | CustomCriterion:
    if isinstance(criterion, str) and criterion not in get_args(CriterionName) and ":" not in criterion:
        names = ", ".join(get_args(CriterionName))
        raise ValueError(f"expected one of {names}, or file.py:function of your own, got {criterion!r}")
    return criterion


def criterion_name(criterion: str | CustomCriterion) -> str:
    """The words for a criterion: its name, ``file.py:function``, or module and name of a callable.

    >>> criterion_name("taylor"), criterion_name(fpgm)
    ('taylor', 'compress.prune.criteria:fpgm')
    """
    if isinstance(criterion, str):
        return criterion
    name = getattr(criterion, "__qualname__", type(criterion).__qualname__)
    return f"{getattr(criterion, '__module__', type(criterion).__module__)}:{name}"


Criterion = Annotated[
    str | CustomCriterion,
    AfterValidator(_known),
    PlainSerializer(criterion_name, return_type=str, when_used="json"),
    WithJsonSchema({"anyOf": [{"enum": list(get_args(CriterionName))}, {"type": "string", "pattern": ":"}]}),
]
"""A criterion's name, ``file.py:function`` (or ``package.module:function``) of the user's, or a callable in Python."""

Normalization = Literal["mean", "max", "gaussian", "none"]
Aggregate = Literal["mean", "max", "sum", "first"]

NORMALIZATIONS: Mapping[str, Normalization] = {
    "l1": "mean",
    "l2": "mean",
    "fpgm": "mean",
    "lamp": "mean",
    "bn_scale": "none",
    "activation_mean": "mean",
    "discrimination": "mean",
    "taylor": "none",
    "obd": "none",
    "apoz": "none",
    "random": "none",
}
"""How the scores of a criterion compare between layers where nothing else is asked for: estimates of a change of the
loss and shares as they are, magnitudes by what is usual in their layer. LAMP's own normalization comes after it.
"""


def slices(tensor: Tensor, axis: int) -> Tensor:
    """The slices of ``tensor`` along ``axis``, flat and in float64: (tensor.shape[axis], elements of a slice)."""
    return tensor.detach().double().movedim(axis, 0).reshape(tensor.shape[axis], -1)


def filter_norms(weight: Tensor, axis: int, order: Literal[1, 2]) -> Tensor:
    """The norm of each slice of ``weight`` along ``axis``: (weight.shape[axis],).

    ``sum(|w|)`` for order 1, as Li et al., "Pruning Filters for Efficient ConvNets" (2017), section 3.1, and
    ``sqrt(sum(w^2))`` for order 2, computed in float64.

    >>> filter_norms(torch.tensor([[3.0, -4.0], [0.0, 1.0]]), 0, 2).tolist()
    [5.0, 1.0]
    """
    flat = slices(weight, axis)
    return flat.abs().sum(1) if order == 1 else flat.square().sum(1).sqrt()


def scales(gamma: Tensor) -> Tensor:
    """``|gamma|`` of a normalization, (C,): Liu et al., "Learning Efficient Convolutional Networks through Network
    Slimming" (2017), section 3.
    """
    return gamma.detach().double().abs()


def fpgm(weight: Tensor, axis: int) -> Tensor:
    """The sum of the Euclidean distances of each slice to all others of the layer, (weight.shape[axis],).

    The lowest is nearest to the geometric median of the filters, so that the others can stand in for it: He et al.,
    "Filter Pruning via Geometric Median for Deep Convolutional Neural Networks Acceleration" (2019), section 3.

    >>> fpgm(torch.tensor([[0.0], [1.0], [4.0]]), 0).tolist()
    [5.0, 4.0, 7.0]
    """
    flat = slices(weight, axis)
    return torch.cdist(flat, flat).fill_diagonal_(0).sum(1)


def lamp(magnitudes: Tensor) -> Tensor:
    """Squared magnitudes, (n,), each divided by the sum of those that are at least as large: in [0, 1].

    Lee et al., "Layer-adaptive Sparsity for the Magnitude-based Pruning" (2021), section 2, with the squared norms of
    channels where the paper has squared weights. The largest of a layer gets 1, so that no layer is emptied, and the
    order within a layer stays that of the magnitudes. Of equal ones the earlier counts as the smaller.

    >>> lamp(torch.tensor([1.0, 3.0, 0.0])).tolist()
    [0.25, 1.0, 0.0]
    """
    ascending, order = torch.sort(magnitudes.double(), stable=True)
    surviving = ascending.flip(0).cumsum(0).flip(0)
    shares = torch.where(surviving > 0, ascending / surviving, torch.zeros_like(ascending))
    return torch.empty_like(shares).scatter_(0, order, shares)


def taylor(weight: Tensor, gradient: Tensor, axis: int) -> Tensor:
    """``(sum(g * w))^2`` of each slice, (weight.shape[axis],), for the gradient ``g`` of the loss of one batch.

    The squared first-order change of the loss when the slice is set to zero: Molchanov et al., "Importance Estimation
    for Neural Network Pruning" (2019), equation 8 (the joint contribution of a filter, not equation 9, the sum over its
    weights); the paper averages it over batches.
    """
    return (slices(weight, axis) * slices(gradient, axis)).sum(1).square()


def obd(weight: Tensor, curvature: Tensor, axis: int) -> Tensor:
    """``sum(h * w^2) / 2`` of each slice, (weight.shape[axis],), for the diagonal ``h`` of the Hessian of the loss.

    The second-order change of the loss at a minimum, when the slice is set to zero: LeCun et al., "Optimal Brain
    Damage" (1989), the saliency of step 4 of the procedure in section 2, summed over the weights of a channel.
    """
    return 0.5 * (slices(curvature, axis) * slices(weight, axis).square()).sum(1)


def apoz(activations: Tensor, dim: int) -> Tensor:
    """The average percentage of zeros of each channel, as a share in [0, 1], (activations.shape[dim],): Hu et al.,
    "Network Trimming: A Data-Driven Neuron Pruning Approach towards Efficient Deep Architectures" (2016), equation 1.

    The more zeros the less a channel matters: its importance is one minus this.
    """
    return (activations.detach() == 0).movedim(dim, 0).reshape(activations.shape[dim], -1).double().mean(1)


def activation_mean(activations: Tensor, dim: int) -> Tensor:
    """The mean absolute activation of each channel, (activations.shape[dim],): the mean activation of Molchanov et
    al., "Pruning Convolutional Neural Networks for Resource Efficient Inference" (2017), section 2.2, of magnitudes.
    """
    return activations.detach().abs().movedim(dim, 0).reshape(activations.shape[dim], -1).mean(1, dtype=torch.float64)


def relative(scores: Tensor) -> Tensor:
    """Scores divided by their mean, so that layers of different scale compare; all ones where the mean is zero.

    >>> relative(torch.tensor([1.0, 3.0])).tolist()
    [0.5, 1.5]
    """
    mean = scores.mean()
    return scores / mean if mean > 0 else scores.new_ones(scores.shape)


def normalized(scores: Tensor, how: Normalization) -> Tensor:
    """The scores of a layer, (n,), made comparable with those of others.

    ``mean``: divided by their mean; ``max``: by their maximum; ``gaussian``: less their mean, divided by their standard
    deviation, all zeros where that is zero; ``none``: as they are.

    >>> normalized(torch.tensor([1.0, 3.0]), "gaussian").tolist()
    [-1.0, 1.0]
    """
    if how == "mean":
        return relative(scores)
    if how == "max":
        largest = scores.max()
        return scores / largest if largest > 0 else scores.new_ones(scores.shape)
    if how == "gaussian":
        spread = float(scores.std(correction=0))
        # Equal scores have a spread of a rounding error.
        flat = math.isclose(spread, 0, abs_tol=1e-12 * float(scores.abs().max()))
        return scores.new_zeros(scores.shape) if flat else (scores - scores.mean()) / spread
    return scores


def aggregated(scores: Tensor, how: Aggregate) -> Tensor:
    """Scores of the coupled layers of a group, (layers, units), as one per unit, (units,).

    ``mean``, ``max``, ``sum`` (Fang et al., "DepGraph: Towards Any Structural Pruning" (2023), section 3.3, of squared
    norms) or that of the ``first`` layer.
    """
    if how == "mean":
        return scores.mean(0)
    if how == "max":
        return scores.amax(0)
    return scores.sum(0) if how == "sum" else scores[0]
