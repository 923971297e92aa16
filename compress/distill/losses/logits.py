"""Soft targets: Hinton, Vinyals and Dean (2015)."""

from __future__ import annotations

from torch import Tensor, nn

from ...tasks.task import Batch, Task
from . import Loss, Pairing, Seen


class Logits(Loss):
    """How far the student's outputs are from the teacher's, as the task measures it.

    Of classes it is ``T^2`` times the divergence of the softened student from the softened teacher: Hinton, Vinyals and
    Dean, "Distilling the Knowledge in a Neural Network" (2015), section 2. Every other task has a match of its own.
    """

    def term(self, pairing: Pairing) -> nn.Module:
        """The match of the task."""
        return Match(pairing.task)


class Match(nn.Module):
    """The match of a task between a student's outputs and its teacher's, a scalar."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.task = task

    def forward(self, student: Seen, teacher: Seen, batch: Batch) -> Tensor:
        """The loss of what both gave for a batch."""
        return self.task.match(student.outputs, teacher.outputs)
