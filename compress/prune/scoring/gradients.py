"""Criteria of the loss: gradients of a few batches, gone through one by one in memory that does not grow."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

import torch
from torch import Tensor, nn

from ...errors import InvalidInput, first_line
from ...stage import Context
from ...tasks.difference import float_tensors
from ...tasks.scoring import informative_loss
from ...tasks.task import Batch, Outputs, Task
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
        of_batch: of a weight, the gradient of the task's loss of a batch and a dimension: (weight.shape[axis],). Of a
            task without labels, the targets are drawn from the network's own prediction.
        drawn: draw the targets so in any case, and take in place of the gradient its square times the batch's size,
            which estimates the diagonal of the Gauss-Newton matrix.

    Raises:
        InvalidInput: no data, or batches and outputs that the task does not fit.
    """
    task: Task | None = None
    names = list(dict.fromkeys(name for name, _ in sites))
    totals = {site: torch.zeros(tensors[site[0]].shape[site[1]], dtype=torch.float64) for site in sites}
    draws = torch.Generator().manual_seed(context.seed)
    seen = 0
    with differentiable([tensors[name] for name in names]):
        for inputs, batch in sample_batches(context, criterion, batches * BATCH // GRADIENT_BATCH, GRADIENT_BATCH):
            task = task or context.task_of(model)  # samples that do not fit are refused before
            outputs = _outputs(model, inputs, criterion)
            loss = _loss(task, outputs, None if drawn else batch, draws, criterion)
            gradients = torch.autograd.grad(loss, [tensors[name] for name in names], allow_unused=True)
            count = len(inputs[0])
            for name, gradient in zip(names, gradients, strict=True):
                if gradient is None:
                    continue
                taken = gradient.double().square() * count if drawn else gradient
                for site in (site for site in totals if site[0] == name):
                    totals[site] += count * of_batch(tensors[name], taken, site[1]).cpu()
            seen += count
    return {site: total / seen for site, total in totals.items()}


def _outputs(model: nn.Module, inputs: tuple[Tensor, ...], criterion: str) -> Outputs:
    try:
        outputs = model(*inputs)
    except Exception as error:
        raise InvalidInput(
            f"prune: criterion {criterion}: the network fails on a batch of {len(inputs[0])} samples: "
            f"{first_line(error)}"
        ) from error
    if not all(bool(torch.isfinite(output).all()) for output in float_tensors(outputs)):
        raise InvalidInput(f"prune: criterion {criterion}: the network's output is not finite (NaN or infinity)")
    return outputs


def _loss(task: Task, outputs: Outputs, batch: Batch | None, draws: torch.Generator, criterion: str) -> Tensor:
    """The loss of a batch, or where that is None for targets drawn from the network's own prediction."""
    try:
        return task.drawn(outputs, draws) if batch is None else informative_loss(task, outputs, batch, draws)
    except (InvalidInput, RuntimeError, IndexError, ValueError) as error:
        raise InvalidInput(f"prune: criterion {criterion}: {first_line(error)}") from error
