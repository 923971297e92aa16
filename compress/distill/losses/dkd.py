"""Decoupled soft targets: Zhao et al. (2022)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import kl_div, log_softmax

from ...core.settings import setting
from ...errors import InvalidInput
from ...tasks.built_in.classification import logits_of
from ...tasks.task import Batch, Task
from . import Loss, Pairing, Seen


class Dkd(Loss):
    """Soft targets in two parts: how sure the teacher is of the right class, and how it ranks all others.

    Zhao et al., "Decoupled Knowledge Distillation" (2022), equation 7: ``alpha * TCKD + beta * NCKD``, with the factor
    ``T^2`` of soft targets. It needs a task of classes.
    """

    alpha: float = setting(1.0, "Of the part of the right class.", ge=0, le=1e6)
    beta: float = setting(8.0, "Of the part of all other classes; the paper has 1 to 10.", ge=0, le=1e6)

    def term(self, pairing: Pairing) -> nn.Module:
        """:func:`decoupled` of the logits and the labels."""
        task, outputs = pairing.task, (pairing.student.outputs, pairing.teacher.outputs)
        if task.classes is None or task.self_supervised:
            raise InvalidInput(
                f"loss {self.name}: it needs the class of each sample, and the task {task.name} has none; take logits"
            )
        shapes = [tuple(each.shape[1:]) if isinstance(each, Tensor) else None for each in outputs]
        if shapes[0] != shapes[1] or shapes[0] is None or len(shapes[0]) != 1 or shapes[0][0] < 2:
            raise InvalidInput(
                f"loss {self.name}: expected logits of the same classes from both, got {shapes[0]} for a sample from "
                f"the student and {shapes[1]} from the teacher; take a loss of features"
            )
        return Decoupled(task, self.alpha, self.beta, pairing.temperature)


class Decoupled(nn.Module):
    """:func:`decoupled` of what a student and its teacher gave for a batch with classes."""

    def __init__(self, task: Task, alpha: float, beta: float, temperature: float) -> None:
        super().__init__()
        self.task, self.alpha, self.beta, self.temperature = task, alpha, beta, temperature

    def forward(self, student: Seen, teacher: Seen, batch: Batch) -> Tensor:
        """The loss of what both gave for a batch."""
        assert self.task.classes is not None, "it was asked for when this was made"
        mine, theirs = logits_of(student.outputs).float(), logits_of(teacher.outputs).float()
        classes = self.task.classes(batch).to(mine.device).long()
        return decoupled(mine, theirs, classes, self.alpha, self.beta, self.temperature)


def decoupled(
    student: Tensor, teacher: Tensor, classes: Tensor, alpha: float, beta: float, temperature: float
) -> Tensor:
    """``T^2 (alpha KL(b_t || b_s) + beta KL(q_t || q_s))``, the mean over samples, of logits (N, classes); a scalar.

    ``b`` are the softened probabilities of the right class and of all others together, ``q`` those of each other class
    among the others.
    """
    right = torch.zeros_like(student, dtype=torch.bool).scatter_(1, classes[:, None], True)
    (mine, my_others), (theirs, their_others) = (_parts(each / temperature, right) for each in (student, teacher))
    target = kl_div(mine, theirs, reduction="batchmean", log_target=True)
    others = kl_div(my_others, their_others, reduction="batchmean", log_target=True)
    return (alpha * target + beta * others) * temperature**2


def _parts(logits: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """Logarithms of probabilities: (N, 2) of the right class and the others, (N, classes - 1) of each of the others."""
    logs = log_softmax(logits, dim=1)
    others = logits[~right].view(len(logits), -1)
    both = torch.stack([logs[right], logs[~right].view(len(logits), -1).logsumexp(1)], dim=1)
    return both, log_softmax(others, dim=1)
