"""The curvature that Optimal Brain Damage needs, estimated from gradients."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..data import Data
from ..errors import InvalidInput
from ..stage import Objective


def fisher_diagonal(
    model: nn.Module, names: Sequence[str], data: Data, objective: Objective, samples: int, seed: int = 0
) -> dict[str, Tensor]:
    """The mean over ``samples`` of the train split of each weight's squared gradient, by parameter name, float32.

    The diagonal of the empirical Fisher information: it stands for the Hessian's at a minimum of a log-likelihood
    (Theis et al., "Faster gaze prediction with dense networks and Fisher pruning", 2018, section 2.2, equation 5, with
    one gradient per sample). The network is in evaluation mode, and is left as it was.

    Raises:
        InvalidInput: the train split has no labels or no samples.
    """
    model.eval()
    parameters = [model.get_parameter(name) for name in names]
    sums = [torch.zeros_like(parameter) for parameter in parameters]
    seen = 0
    for x, y in data.split("train").batches(1, shuffle_seed=(seed, 0)):
        if y is None:
            raise InvalidInput(f"data {data.name}: criterion obd needs labels, and the train split has none")
        # A user's loader yields batches of its own size.
        for one, label in zip(torch.split(x, 1), torch.split(y, 1), strict=True):
            gradients = torch.autograd.grad(objective(model, one, label), parameters, allow_unused=True)
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
