"""One substitute taught by the layer that it replaces: block-wise distillation.

Li et al., "Blockwisely Supervised Neural Architecture Search with Knowledge Distillation" (2019), section 3.2: each
block of the student learns the feature maps of its teacher's block, on the teacher's own inputs, apart from all others.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from ..compact.observed import Observed

LEARNING_RATE = 1e-3
SAMPLES = 32
"""Of a step."""
HELD_OUT = 4
"""Every fourth batch is held out, to see whether what is learnt helps."""


def teach(substitute: nn.Module, observed: Observed, steps: int, seed: int = 0) -> None:
    """Fit all weights of ``substitute`` in place to what was observed, by ``steps`` steps of Adam.

    The learning rate falls along a cosine to zero; squared errors count relative to the variance of their channel.
    Where the error on batches held out would grow, the weights stay as they were.
    """
    parameters = [parameter for parameter in substitute.parameters() if parameter.requires_grad]
    if not steps or not parameters or len(observed.inputs) < 2:
        return
    held = Observed(observed.inputs[::HELD_OUT], observed.outputs[::HELD_OUT])
    fitted = [number for number in range(len(observed.inputs)) if number % HELD_OUT]
    kept = {name: tensor.clone() for name, tensor in substitute.state_dict().items()}
    before = held.error(substitute)
    weights = observed.weights.to(parameters[0])[None, :, None, None]
    weights = weights / (weights > 0).sum().clamp_min(1)
    optimizer = torch.optim.Adam(parameters, LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    generator = torch.Generator().manual_seed(seed)
    with torch.enable_grad():
        for _ in range(steps):
            number = fitted[int(torch.randint(len(fitted), (1,), generator=generator))]
            x, wanted = observed.inputs[number], observed.outputs[number]
            chosen = torch.randperm(len(x), generator=generator)[:SAMPLES].to(x.device)
            output = substitute(x[chosen])
            loss = functional.mse_loss(output, wanted[chosen], reduction="none").mul(weights).mean((0, 2, 3)).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    if not held.error(substitute) <= before:
        substitute.load_state_dict(kept)
