"""The curvature that Optimal Brain Damage needs, estimated from gradients."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..data import Data
from ..data.batch import part_of
from ..errors import InvalidInput
from ..tasks.scoring import informative_loss
from ..tasks.task import Task


def fisher_diagonal(
    model: nn.Module, names: Sequence[str], data: Data, task: Task, samples: int, seed: int = 0
) -> dict[str, Tensor]:
    """The mean over ``samples`` of the train split of each weight's squared gradient, by parameter name, float32.

    The gradients are those of the task's loss; of a task without labels, for targets drawn from the network's own
    prediction. The diagonal of the empirical Fisher information: it stands for the Hessian's at a minimum of a
    log-likelihood (Theis et al., "Faster gaze prediction with dense networks and Fisher pruning", 2018, section 2.2,
    equation 5, with one gradient per sample). The network is in evaluation mode, and is left as it was.

    Raises:
        InvalidInput: the train split has no samples, or the task does not fit them.
    """
    draws = torch.Generator().manual_seed(seed)
    model.eval()
    parameters = [model.get_parameter(name) for name in names]
    sums = [torch.zeros_like(parameter) for parameter in parameters]
    seen = 0
    for batch in data.split("train").batches(1, shuffle_seed=(seed, 0)):
        count = len(task.read(batch)[0])
        for place in range(count):  # a user's loader yields batches of its own size
            one = part_of(batch, count, slice(place, place + 1))
            loss = informative_loss(task, model(*task.read(one)), one, draws)
            gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
            for total, gradient in zip(sums, gradients, strict=True):
                if gradient is not None:
                    total += gradient.detach().square()
            seen += 1
            if seen == samples:
                break
        if seen == samples:
            break
    if not seen:
        raise InvalidInput(f"data {data.name}: the train split is empty; criterion obd needs samples")
    return {name: total / seen for name, total in zip(names, sums, strict=True)}
