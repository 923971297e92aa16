"""Criteria of the loss: gradients of a few batches, gone through one by one in memory that does not grow."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ...errors import InvalidInput
from ...stage import Context
from ...training.gradients import differentiable
from ..channels.labels import Site
from .samples import BATCH, sample_batches

GRADIENT_BATCH = 8
"""Samples to a gradient. The mean gradient of a trained network is near zero, that of few samples is not; and the more
draws of labels there are, the less the estimate of the curvature spreads.
"""


def loss_scores(
    model: nn.Module,
    tensors: Mapping[str, Tensor],
    sites: Collection[Site],
    context: Context,
    batches: int,
    *,
    criterion: str,
    of_batch: Callable[[Tensor, Tensor, int], Tensor],
    drawn: bool = False,
) -> dict[Site, Tensor]:
    """The scores of the slices at each site, float64 on the CPU, averaged over samples; ``model`` in evaluation mode.

    Args:
        tensors: the parameters and buffers of ``model`` that ``sites`` name.
        batches: of 32 samples, whose gradients are taken in smaller ones.
        criterion: what messages call it.
        of_batch: of a weight, the gradient of the cross entropy of a batch and a dimension: (weight.shape[axis],).
        drawn: take the labels from the network's own prediction, and in place of the gradient its square times the
            batch's size, which estimates the diagonal of the Gauss-Newton matrix.

    Raises:
        InvalidInput: no data, no labels, or a network that does not return logits (N, classes, ...).
    """
    names = list(dict.fromkeys(name for name, _ in sites))
    totals = {site: torch.zeros(tensors[site[0]].shape[site[1]], dtype=torch.float64) for site in sites}
    draws = torch.Generator().manual_seed(context.seed)
    seen = 0
    with differentiable([tensors[name] for name in names]):
        for inputs, labels in sample_batches(context, criterion, batches * BATCH // GRADIENT_BATCH, GRADIENT_BATCH):
            logits = _logits(model, inputs, criterion)
            if drawn:
                labels = _drawn(logits, draws)
            elif labels is None:
                raise InvalidInput(
                    f"prune: criterion {criterion} needs labels, and the samples have none; give --data with labels, "
                    "or take the criterion obd or activation_mean"
                )
            loss = _loss(logits, labels, criterion)
            gradients = torch.autograd.grad(loss, [tensors[name] for name in names], allow_unused=True)
            count = len(inputs[0])
            for name, gradient in zip(names, gradients, strict=True):
                if gradient is None:
                    continue
                taken = gradient.double().square() * labels.numel() if drawn else gradient
                for site in (site for site in totals if site[0] == name):
                    totals[site] += count * of_batch(tensors[name], taken, site[1]).cpu()
            seen += count
    return {site: total / seen for site, total in totals.items()}


def _logits(model: nn.Module, inputs: tuple[Tensor, ...], criterion: str) -> Tensor:
    try:
        output = model(*inputs)
    except Exception as error:
        first_line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InvalidInput(
            f"prune: criterion {criterion}: the network fails on a batch of {len(inputs[0])} samples: {first_line}"
        ) from error
    if not isinstance(output, Tensor) or output.ndim < 2 or output.shape[1] < 2:
        got = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise InvalidInput(
            f"prune: criterion {criterion} is of a classifier that returns logits (N, classes), got {got}; "
            "take a criterion of weights or activations"
        )
    if not bool(torch.isfinite(output).all()):
        raise InvalidInput(f"prune: criterion {criterion}: the network's output is not finite (NaN or infinity)")
    return output


def _drawn(logits: Tensor, generator: torch.Generator) -> Tensor:
    """A label for each prediction, drawn by its probabilities: (N,), or (N, ...) where there are positions."""
    probabilities = logits.detach().double().cpu().softmax(1).movedim(1, -1)
    flat = probabilities.reshape(-1, probabilities.shape[-1])
    drawn = torch.multinomial(flat, 1, generator=generator)
    return drawn.view(probabilities.shape[:-1]).to(logits.device)


def _loss(logits: Tensor, labels: Tensor, criterion: str) -> Tensor:
    try:
        loss = cross_entropy(logits, labels)
    except (RuntimeError, IndexError, ValueError) as error:
        raise InvalidInput(
            f"prune: criterion {criterion}: labels of shape {tuple(labels.shape)} do not fit logits of shape "
            f"{tuple(logits.shape)}: {str(error).strip().splitlines()[0]}"
        ) from error
    return loss
