"""Task: what a batch means. Nothing else in the project knows what stands in a batch or in what a network returns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

import torch
from torch import Tensor, nn

from .difference import drawn_difference, relative_difference

Batch: TypeAlias = Any
"""What a split of the data yields: tensors in any nesting, samples first in each; lists with an entry per sample."""
Outputs: TypeAlias = Any
"""What a network returns: a tensor, or tensors in any nesting."""
Inputs: TypeAlias = Callable[[Batch], tuple[Tensor, ...]]
"""Reads the network's inputs, in the order of ``forward``, out of a batch."""


class Score(Protocol):
    """A figure over all batches of a split; a :class:`torchmetrics.Metric` whose ``update`` reads batches is one."""

    higher_is_better: bool | None

    def reset(self) -> None:
        """Forget what was seen."""

    def update(self, outputs: Outputs, batch: Batch) -> None:
        """See what the network returned for a batch; outputs are on the CPU."""

    def compute(self) -> float | Tensor:
        """The figure over all that was seen."""
        ...


@dataclass(frozen=True)
class Task:
    """How batches and outputs are read: the inputs, a loss, a match to another network, scores.

    Args:
        name: for people ("classification").
        inputs: of a batch, in the order of ``forward``; None: as :class:`compress.tasks.reading.Reading` tells by what
            the network takes.
        loss: of outputs and a batch, a scalar; None: nothing is trained on labels, and training matches the outputs of
            the teacher, or of the network as it was before.
        match: how far a student's outputs are from its teacher's, a scalar; it needs no labels.
        scores: makers of scores by name; the first is what tables, curves, scans and gates show.
        unit: of the first score, as "%"; with a space where one belongs before it, as " dB".
        drawn: a scalar whose gradients have the curvature of the loss as their second moments: the loss for targets
            that are drawn from the network's own prediction.
        fits: raises :class:`compress.InvalidInput`, its message begun by the text, unless outputs and batch are of this
            task; None: any are.
        tuned: the same task with a share of label smoothing and a temperature of soft targets; None: it has neither.
        classes: of a batch, the class of each sample, (N,) integers, for what tells classes apart; None: it has none.
        drop: what a network loses that had the first of two values of the first score and has the second one, on a
            scale where losses add up; None: their difference.
        drop_unit: of that.
        bound: the same task measured against a reference network; None: what it is measured against is known.
        placed: labels say where in an image something is, so that what moves pixels would have to move them.
        self_supervised: the loss is the match to a reference network, so that a teacher takes its place.
    """

    name: str = "task"
    inputs: Inputs | None = None
    loss: Callable[[Outputs, Batch], Tensor] | None = None
    match: Callable[[Outputs, Outputs], Tensor] = relative_difference
    scores: Mapping[str, Callable[[], Score]] = field(default_factory=dict)
    unit: str = ""
    drawn: Callable[[Outputs, torch.Generator], Tensor] = drawn_difference
    fits: Callable[[Outputs, Batch, str], None] | None = None
    tuned: Callable[[float, float], Task] | None = None
    classes: Callable[[Batch], Tensor] | None = None
    drop: Callable[[float, float], float] | None = None
    drop_unit: str = "points"
    bound: Callable[[nn.Module], Task] | None = None
    placed: bool = False
    self_supervised: bool = False

    @property
    def score(self) -> str | None:
        """The name of the first score; None where there is none."""
        return next(iter(self.scores), None)

    @property
    def higher_is_better(self) -> bool:
        """Whether more of the first score is better; so where it does not say."""
        name = self.score
        return name is None or self.scores[name]().higher_is_better is not False

    def dropped(self, before: float, after: float) -> float:
        """What a network loses whose first score was ``before`` and is ``after``; less than 0 where it gains."""
        if self.drop is not None:
            return self.drop(before, after)
        return before - after if self.higher_is_better else after - before

    def read(self, batch: Batch) -> tuple[Tensor, ...]:
        """The inputs of a batch."""
        assert self.inputs is not None, "a task is resolved for a network before batches are read"
        return self.inputs(batch)

    def against(self, reference: nn.Module) -> Task:
        """The task measured against ``reference``, where it has no labels to be measured against."""
        return self if self.bound is None else self.bound(reference)
