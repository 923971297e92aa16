"""The penalties, each as what it does to gradients and weights within a training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import InvalidInput
from ...training.loop import Training
from ...training.optimizer import learning_rate_factor
from .members import Members, Slices

NEAR_ZERO = 0.01
"""Of the mean norm that a group's units had before the training: a unit below counts as unimportant."""

INTERVAL = 10
"""Steps between two increments of a growing penalty: K_u of Wang et al. (2021), section 4.1, for CIFAR."""

GROWTH = 0.75
"""Share of the training in which a growing penalty grows; then it stays, as in their stabilizing phase."""


class Penalty:
    """A callback of :func:`compress.training.loop.fit`: leaves weights alone, and counts the units that are near zero.

    Args:
        measured: what the norm of a unit is taken over: its scales, or its filters.
        settings: tell one penalty from another: a checkpoint of other settings is refused.
    """

    def __init__(self, model: nn.Module, measured: Sequence[Members], training: Training, settings: str = "") -> None:
        self.measured = tuple(measured)
        self.training = training
        self.settings = settings
        self.thresholds = [NEAR_ZERO * float(members.norms(model).mean()) for members in measured]
        self.shares: list[float] = []

    def after_backward(self, model: nn.Module, step: int, steps: int) -> None:
        """Nothing; a penalty in subgradient form adds to the gradients here."""

    def after_step(self, model: nn.Module, average: nn.Module | None, step: int, steps: int) -> None:
        """Act on the weights, and at the end of each epoch take note of what was reached."""
        self.act(model, step, steps)
        if step // max(1, steps // self.training.epochs) > len(self.shares):
            self.end_epoch(model)
            self.shares.append(self.near_zero_percent(model))

    def act(self, model: nn.Module, step: int, steps: int) -> None:
        """Change the weights after a step, the first being 1."""

    def end_epoch(self, model: nn.Module) -> None:
        """Change the weights after an epoch."""

    def finish(self, model: nn.Module) -> None:
        """Change the weights that the training ended with."""

    def state_dict(self) -> dict[str, Any]:
        """The settings, and the shares near zero after each epoch so far, for the checkpoint."""
        return {"settings": self.settings, "shares": [*self.shares]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up the state of a checkpoint.

        Raises:
            InvalidInput: it is of a penalty with other settings.
        """
        if state["settings"] != self.settings:
            raise InvalidInput(
                "regularize: the checkpoint is of a training with another method, strength or ratio; remove it or "
                "restore them"
            )
        self.shares = [*state["shares"]]

    def near_zero(self, model: nn.Module) -> list[int]:
        """For each group, its units whose norm is below :data:`NEAR_ZERO` of the mean before the training."""
        return [
            int((members.norms(model) <= threshold).sum())
            for members, threshold in zip(self.measured, self.thresholds, strict=True)
        ]

    def near_zero_percent(self, model: nn.Module) -> float:
        """The share of units near zero (:meth:`near_zero`) among those of all groups, in percent."""
        return 100.0 * sum(self.near_zero(model)) / max(1, sum(members.units for members in self.measured))

    def step_size(self, step: int, steps: int) -> float:
        """How far a constant gradient of 1 moves a weight at ``step``: with momentum m, the learning rate / (1 - m).

        A proximal step of this size has the minimum of loss plus penalty as its fixed point. For AdamW, whose steps
        have no such size, it is the learning rate, and the strength is relative to its normalized gradients.
        """
        training = self.training
        warmup = round(training.warmup_epochs * (steps // training.epochs))
        rate = training.learning_rate * learning_rate_factor(step - 1, steps, warmup, training.lr_schedule)
        return rate / (1 - training.momentum) if training.optimizer == "sgd" else rate


class L1Scales(Penalty):
    """``strength * sum |gamma|``, its subgradient ``strength * sign(gamma)`` added to the gradients of the scales.

    Liu et al., "Learning Efficient Convolutional Networks through Network Slimming" (2017), equation 1 and section 3.
    """

    def __init__(self, model: nn.Module, scales: Sequence[Members], training: Training, strength: float) -> None:
        super().__init__(model, scales, training, f"slimming {strength}")
        self.strength = strength

    def after_backward(self, model: nn.Module, step: int, steps: int) -> None:
        """Add the subgradient, which is 0 at 0."""
        for members in self.measured:
            for part in members.slices:
                gamma = model.get_parameter(part.name)
                inside = part.spread(torch.full((members.units,), self.strength), model, 0.0)
                assert gamma.grad is not None, f"{part.name} is trained"
                gamma.grad.add_(inside * gamma.detach().sign())


class GroupNorm(Penalty):
    """``strength * sum ||w_unit||``, by its proximal step: each unit times ``max(0, 1 - step * strength / ||w||)``.

    Group lasso (Wen et al., "Learning Structured Sparsity in Deep Neural Networks", 2016, equation 4), with the layers
    that lose their channels together in one vector, as the groups of Fang et al., "DepGraph" (2023), section 3.3. On
    scales alone it is network slimming for scales that residual sums couple. Groups have no element in common, so the
    proximal step is exact (Parikh and Boyd, "Proximal Algorithms", 2014, section 6.5.1), and units reach zero.
    """

    def __init__(
        self,
        model: nn.Module,
        penalised: Sequence[Members],
        measured: Sequence[Members],
        training: Training,
        strength: float,
    ) -> None:
        kind = "scales" if penalised is measured else "filters"
        super().__init__(model, measured, training, f"group {kind} {strength}")
        self.penalised = tuple(penalised)
        self.strength = strength

    def act(self, model: nn.Module, step: int, steps: int) -> None:
        """The proximal step."""
        shrink = self.step_size(step, steps) * self.strength
        for members in self.penalised:
            norms = members.norms(model)
            members.scale(model, (1 - shrink / norms.clamp_min(torch.finfo(norms.dtype).tiny)).clamp_min(0))


class Growing(Penalty):
    """``factor / 2 * ||w_unit||^2`` on the units that shall go, with a factor that grows from 0 to ``strength``.

    Wang et al., "Neural Pruning via Growing Regularization" (2021), section 3.2 (GReg-1). The units are those of the
    lowest norm in their group before the training. The proximal form ``w / (1 + step * factor)`` is stable at any
    factor and does not pass through an optimizer's normalization; its fixed point is that of the gradient form.
    """

    def __init__(
        self,
        model: nn.Module,
        penalised: Sequence[Members],
        filters: Sequence[Members],
        training: Training,
        strength: float,
        ratio: float,
    ) -> None:
        super().__init__(model, filters, training, f"growing {strength} {ratio}")
        self.penalised = tuple(penalised)
        self.strength = strength
        self.chosen = [lowest(members, model, ratio) for members in filters]

    def act(self, model: nn.Module, step: int, steps: int) -> None:
        """Shrink the chosen units."""
        shrink = 1 / (1 + self.step_size(step, steps) * growing_factor(step, steps, self.strength))
        for members, chosen in zip(self.penalised, self.chosen, strict=True):
            members.scale(model, torch.where(chosen, shrink, 1.0))


class Soft(Penalty):
    """After each epoch the ``ratio`` of the filters of each group with the lowest norm is set to zero, and trained on.

    He et al., "Soft Filter Pruning for Accelerating Deep Convolutional Neural Networks" (2018), section 3.3: what the
    next epoch makes of a zeroed filter decides whether it is zeroed again. At the end the normalization scales and
    shifts of those units are zeroed too, so that the cut changes nothing (before, they let filters come back).
    """

    def __init__(
        self,
        model: nn.Module,
        produced: Sequence[Members],
        filters: Sequence[Members],
        training: Training,
        ratio: float,
    ) -> None:
        super().__init__(model, filters, training, f"soft {ratio}")
        self.produced = tuple(produced)
        self.ratio = ratio

    def end_epoch(self, model: nn.Module) -> None:
        """Zero the filters and their biases."""
        for members in self.measured:
            members.scale(model, torch.where(lowest(members, model, self.ratio), 0.0, 1.0))

    def finish(self, model: nn.Module) -> None:
        """Zero all that produces the units."""
        chosen = [lowest(members, model, self.ratio) for members in self.measured]
        for members, gone in zip(self.produced, chosen, strict=True):
            members.scale(model, torch.where(gone, 0.0, 1.0))


def lowest(filters: Members, model: nn.Module, ratio: float) -> Tensor:
    """True for the ``ratio`` of the units with the lowest filters, (units,), rounded, one unit always staying.

    The l2 norm of a filter is taken relative to the mean of its layer and averaged over coupled layers.
    """
    weights = [part for part in filters.slices if model.get_parameter(part.name).ndim > 1]
    score = torch.stack([_relative_norms(part, model) for part in weights or filters.slices]).mean(0)
    count = min(round(ratio * filters.units), filters.units - 1)
    chosen = torch.zeros(filters.units, dtype=torch.bool)
    chosen[score.argsort(stable=True)[:count]] = True
    return chosen


def _relative_norms(part: Slices, model: nn.Module) -> Tensor:
    norms = part.squares(model).double().sqrt().cpu()
    mean = norms.mean()
    return norms / mean if mean > 0 else torch.ones_like(norms)


def growing_factor(step: int, steps: int, strength: float) -> float:
    """The factor of a growing penalty after ``step`` of ``steps``: equal increments up to ``strength``.

    >>> [growing_factor(s, 1000, 1.0) for s in (1, 9, 10, 375, 749, 750, 1000)]
    [0.0, 0.0, 0.013333333333333334, 0.49333333333333335, 0.9866666666666667, 1.0, 1.0]
    """
    growth = max(1, round(GROWTH * steps))
    interval = min(INTERVAL, max(1, growth // 10))
    return strength * min(1.0, (step // interval) / max(1, growth // interval))
