"""Contrastive representation distillation: Tian, Krishnan and Isola (2020)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid, normalize

from ...core.settings import setting
from ...tasks.task import Batch, Task
from ..features import channels_of, embedding
from . import FeatureLoss, LayerPair, Layers, Pairing, Seen

NO_CLASS = -1
"""In the memory, of samples without one."""


class Crd(FeatureLoss):
    """Student and teacher agree on a sample more than on any two samples: a contrast with many negatives.

    Tian, Krishnan and Isola, "Contrastive Representation Distillation" (2020), section 3.1, in both directions.
    Features are averaged over positions and projected by a linear layer each. Negatives are the other samples of the
    batch and of a memory of earlier batches, in the order in which they came; where the task has classes, those of the
    same class are left out. The paper draws them from a memory with one place for each sample of the data instead.
    As its authors do, similarities are normalized by their mean in the first batch.
    """

    weight: float = setting(0.8, "Times the loss, in the sum of all; the paper's.", ge=0, le=1e9)
    temperature: float = setting(0.07, "Of the similarities; the paper's.", gt=0, le=100)
    size: int = setting(128, "Of the vectors that are compared.", ge=1, le=2**16)
    memory: int = setting(
        1024, "Samples of earlier batches that are negatives; 0 for those of the batch alone.", ge=0, le=2**20
    )
    layers: Layers = setting("last", "As of every loss of features.")

    def term(self, pairing: Pairing) -> nn.Module:
        """The contrast of each pair of layers."""
        made = [Contrast(pair, pairing.task, self.size, self.temperature, self.memory) for pair in self.pairs(pairing)]
        return Contrasts(made)


class Contrasts(nn.Module):
    """The mean of several contrasts, a scalar."""

    def __init__(self, terms: Sequence[nn.Module]) -> None:
        super().__init__()
        self.terms = nn.ModuleList(terms)

    def forward(self, student: Seen, teacher: Seen, batch: Batch) -> Tensor:
        """The loss of what both gave for a batch."""
        return torch.stack([term(student, teacher, batch) for term in self.terms]).mean()


class Contrast(nn.Module):
    """The contrast of two layers, with its projections and its memory.

    Args:
        size: of the projected vectors.
        memory: places for vectors of earlier samples.
    """

    def __init__(self, pair: LayerPair, task: Task, size: int, temperature: float, memory: int) -> None:
        super().__init__()
        self.pair, self.task, self.temperature = pair, task, temperature
        self.of_student = nn.Linear(channels_of(pair.student_shape), size)
        self.of_teacher = nn.Linear(channels_of(pair.teacher_shape), size)
        self.students: Tensor
        self.teachers: Tensor
        self.classes: Tensor
        self.stored: Tensor
        self.means: Tensor
        self.register_buffer("students", torch.zeros(memory, size))
        self.register_buffer("teachers", torch.zeros(memory, size))
        self.register_buffer("classes", torch.full((memory,), NO_CLASS))
        self.register_buffer("stored", torch.zeros((), dtype=torch.long))
        self.register_buffer("means", torch.zeros(2))

    def forward(self, student: Seen, teacher: Seen, batch: Batch) -> Tensor:
        """The loss of what both gave for a batch, whose samples are remembered then."""
        mine = normalize(self.of_student(embedding(student.features[self.pair.student])).float(), dim=1)
        theirs = normalize(self.of_teacher(embedding(teacher.features[self.pair.teacher])).float(), dim=1)
        known = self.task.classes is not None and not self.task.self_supervised
        classes = self.task.classes(batch).to(mine.device).long() if known and self.task.classes else None
        filled = min(int(self.stored), len(self.students))
        of_memory = [each[:filled].clone() for each in (self.students, self.teachers, self.classes)]
        ours = mine.new_full((len(mine),), NO_CLASS, dtype=torch.long) if classes is None else classes
        every = torch.cat([ours, of_memory[2]])
        negative = torch.ones(len(mine), len(every), dtype=torch.bool, device=mine.device)
        negative[:, : len(mine)].fill_diagonal_(False)
        if classes is not None:
            negative &= classes[:, None] != every[None]
        my_others, their_others = torch.cat([mine, of_memory[0]]), torch.cat([theirs, of_memory[1]])
        if not self.means.any():
            self.means.copy_(torch.stack([self._mean(mine, their_others), self._mean(theirs, my_others)]))
        loss = contrast(mine, theirs, their_others, negative, self.temperature, self.means[0].clone())
        loss = loss + contrast(theirs, mine, my_others, negative, self.temperature, self.means[1].clone())
        if self.training:
            self._remember(mine.detach(), theirs.detach(), ours)
        return loss

    def _mean(self, anchors: Tensor, others: Tensor) -> Tensor:
        """The mean of the exponentials of similarities."""
        return (anchors.detach() @ others.detach().T / self.temperature).exp().mean()

    def _remember(self, mine: Tensor, theirs: Tensor, classes: Tensor) -> None:
        """Put the samples of a batch in the place of the oldest ones."""
        memory = len(self.students)
        if not memory:
            return
        places = (self.stored + torch.arange(len(mine), device=mine.device)[-memory:]) % memory
        self.students[places], self.teachers[places] = mine[-memory:], theirs[-memory:]
        self.classes[places] = classes[-memory:]
        self.stored += len(mine)


def contrast(
    anchors: Tensor, positives: Tensor, others: Tensor, negative: Tensor, temperature: float, mean: Tensor
) -> Tensor:
    """``-log h(a, p) - sum over negatives of log(1 - h(a, o))``, the mean over anchors, a scalar.

    ``h(a, b) = e^s / (e^s + K mean)`` with ``s = a b / temperature``, for ``K`` negatives of the anchor.

    Args:
        anchors: (N, D), of the norm 1. Likewise ``positives`` (N, D) and ``others`` (P, D).
        negative: (N, P), which of the others are negatives of an anchor.
        mean: of ``e^s`` over any two samples, by which similarities are normalized.
    """
    shift = (negative.sum(1).clamp_min(1) * mean).log()
    of_positives = (anchors * positives).sum(1) / temperature - shift
    of_others = anchors @ others.T / temperature - shift[:, None]
    agreed = logsigmoid(of_positives)
    told_apart = (logsigmoid(-of_others) * negative).sum(1)
    return -(agreed + told_apart).mean()
