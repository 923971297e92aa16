"""Pupil: a student, with all that its distillation trains and remembers, as one module for the training loop."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..core.edit import Edit
from ..data.batch import mapped
from ..tasks.task import Batch, Outputs, Task
from .features import Seen, survey, tapped
from .losses import FeatureLoss, Loss, Pairing


@dataclass(frozen=True, eq=False)
class Watched:
    """A network that is only looked at, and what its layers returned last. Copies of a pupil share it."""

    network: nn.Module
    features: dict[str, Tensor] = field(default_factory=dict)

    def __deepcopy__(self, memo: dict[int, Any]) -> Watched:
        return self

    def see(self, inputs: tuple[Tensor, ...]) -> Seen:
        """What it gives for inputs, without gradients."""
        self.network.to(inputs[0].device)
        with torch.no_grad():
            outputs = self.network(*inputs)
        return Seen(outputs, dict(self.features))


class Lesson(nn.Module):
    """What one network of a pupil learns from another one: the weighted sum of losses.

    Args:
        student: the number of the network that learns.
        teacher: the number of the other one.
        share: of this lesson among those of the student.
    """

    def __init__(self, student: int, teacher: int, share: float, losses: Sequence[Loss], pairing: Pairing) -> None:
        super().__init__()
        self.student, self.teacher, self.share = student, teacher, share
        self.weights = [loss.weight for loss in losses]
        self.layers = [pair for loss in losses if isinstance(loss, FeatureLoss) for pair in loss.pairs(pairing)]
        self.terms = nn.ModuleList(loss.term(pairing) for loss in losses)

    def forward(self, student: Seen, teacher: Seen, batch: Batch) -> Tensor:
        """The loss of what the two gave for a batch."""
        terms = [weight * term(student, teacher, batch) for weight, term in zip(self.weights, self.terms, strict=True)]
        return torch.stack(terms).sum()


@dataclass(frozen=True)
class Blend:
    """How what is learnt from teachers and from labels is summed: ``weight`` of the one, the rest of the other."""

    task: Task
    weight: float

    def __call__(self, taught: Tensor, outputs: Outputs, batch: Batch) -> Tensor:
        """The sum; where the task has no labels, what is learnt from teachers alone."""
        if self.task.loss is None or self.task.self_supervised:
            return taught
        return self.weight * taught + (1 - self.weight) * self.task.loss(outputs, batch)


class Pupil(nn.Module):
    """A student with what its distillation trains: its peers, if they learn too, and the adapters of its losses.

    Called with inputs alone it is the student. With ``batch`` it returns the loss, a scalar, for which it has to be
    within :meth:`attentive`.

    Args:
        learners: the student, and networks that are trained with it.
        watched: teachers that stay as they are.
        lessons: who learns from whom; learners have the first numbers, then come the teachers.
    """

    def __init__(
        self, learners: Sequence[nn.Module], watched: Sequence[nn.Module], lessons: Sequence[Lesson], blend: Blend
    ) -> None:
        super().__init__()
        self.learners, self.lessons, self.blend = nn.ModuleList(learners), nn.ModuleList(lessons), blend
        self.features: list[dict[str, Tensor]] = [{} for _ in learners]
        self.watched = [Watched(network) for network in watched]
        # Losses stay out of what torch.compile makes of a forward pass; here, as the compiler takes long to import.
        self._loss = torch.compiler.disable(Pupil.loss)

    @classmethod
    def of(
        cls,
        student: nn.Module,
        teachers: Sequence[nn.Module],
        losses: Sequence[Loss],
        blend: Blend,
        *,
        example_inputs: tuple[Tensor, ...],
        temperature: float,
        shares: Sequence[float] = (),
        edits: tuple[Edit, ...] = (),
        mutual: bool = False,
    ) -> Pupil:
        """A pupil whose student learns from each teacher, and where it is mutual each network from all others.

        Args:
            losses: between each two of them.
            shares: of the teachers; left out, all alike.
            edits: those that made the student of the first teacher.

        Raises:
            InvalidInput: a loss cannot serve the task or these networks.
        """
        networks = [student, *teachers]
        surveys = [survey(network, example_inputs) for network in networks]
        weights = [1.0, *(shares or [1.0] * len(teachers))]
        lessons = []
        for learner in range(len(networks) if mutual else 1):
            others = [number for number in range(len(networks)) if number != learner]
            whole = sum(weights[number] for number in others)
            for number in others:
                (mine, shapes), (theirs, their_shapes) = surveys[learner], surveys[number]
                made_of = edits if (learner, number) == (0, 1) else ()
                pairing = Pairing(blend.task, temperature, mine, theirs, shapes, their_shapes, edits=made_of)
                lessons.append(Lesson(learner, number, weights[number] / whole, losses, pairing))
        return cls(networks if mutual else [student], [] if mutual else teachers, lessons, blend)

    @property
    def _lessons(self) -> list[Lesson]:
        return [each for each in self.lessons if isinstance(each, Lesson)]

    @contextmanager
    def attentive(self) -> Iterator[None]:
        """Within: what the layers return that its losses look at is read."""
        stores = [*self.features, *(each.features for each in self.watched)]
        networks = [*self.learners, *(each.network for each in self.watched)]
        with ExitStack() as stack:
            for number, (network, store) in enumerate(zip(networks, stores, strict=True)):
                mine = {pair.student for each in self._lessons if each.student == number for pair in each.layers}
                theirs = {pair.teacher for each in self._lessons if each.teacher == number for pair in each.layers}
                stack.enter_context(tapped(network, sorted(mine | theirs), store))
            yield

    def forward(self, *inputs: Tensor, batch: Batch = None) -> Any:
        """The student's outputs, or the loss on a batch whose inputs these are."""
        if batch is None:
            outputs = self.learners[0](*inputs)
            self.features[0].clear()
            return outputs
        seen = [
            Seen(learner(*inputs), dict(features))
            for learner, features in zip(self.learners, self.features, strict=True)
        ]
        seen += [each.see(inputs) for each in self.watched]
        for features in (*self.features, *(each.features for each in self.watched)):
            features.clear()
        return self._loss(self, seen, batch)

    def loss(self, seen: Sequence[Seen], batch: Batch) -> Tensor:
        """The sum, over the networks that learn, of what they learn from their teachers and from the labels."""
        total = []
        for number in range(len(self.learners)):
            taught = [
                each.share * each(seen[number], _constant(seen[each.teacher]), batch)
                for each in self._lessons
                if each.student == number
            ]
            total.append(self.blend(torch.stack(taught).sum(), seen[number].outputs, batch))
        return torch.stack(total).sum()


def _constant(seen: Seen) -> Seen:
    """The same without gradients."""
    return Seen(mapped(seen.outputs, Tensor.detach), mapped(dict(seen.features), Tensor.detach))


@dataclass(frozen=True)
class Lecture:
    """The objective of a pupil's training: its own loss."""

    task: Task

    def __call__(self, model: nn.Module, batch: Batch) -> Tensor:
        loss: Tensor = model(*self.task.read(batch), batch=batch)
        return loss
