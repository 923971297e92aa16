"""How much a weight matters: pure functions of tensors of one shape."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

Criterion = Literal["magnitude", "movement", "obd"]


def magnitude(weight: Tensor) -> Tensor:
    """``|w|``: Han et al., "Learning both Weights and Connections for Efficient Neural Networks" (2015), section 3."""
    return weight.detach().abs()


def movement(weight: Tensor, gradient: Tensor) -> Tensor:
    """``-w * dL/dw``, what a step adds to a weight's score: high where the weight moves away from zero.

    Sanh, Wolf and Rush, "Movement Pruning: Adaptive Sparsity by Fine-Tuning" (2020), section 4, up to the constant
    learning rate of the scores.
    """
    return -weight.detach() * gradient.detach()


def saliency(weight: Tensor, hessian: Tensor) -> Tensor:
    """``0.5 * h * w^2``, the loss that removing a weight costs to second order at a minimum.

    LeCun, Denker and Solla, "Optimal Brain Damage" (1990), section 2, for the diagonal ``hessian``; here the
    empirical Fisher diagonal stands for it, the mean of squared gradients.
    """
    return 0.5 * hessian.detach() * weight.detach().square()
