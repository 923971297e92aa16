"""The stage Distill: a student learns from a teacher's outputs and from the labels."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import field_validator
from torch import Tensor, nn

from ..core.parts import Listed
from ..core.settings import setting
from ..errors import InvalidInput
from ..stage import Config, Context, Edit, Objective, Result, evaluation_copy
from ..tasks.task import Batch, Task
from ..training.loop import TaskLoss, Training, compiled, fit, tuned
from .losses import LOSSES, AnyLoss
from .losses.logits import Logits
from .pupil import Blend, Lecture, Pupil, Watched


@dataclass(frozen=True)
class Distillation:
    """The objective ``weight * match to the teacher's outputs + (1 - weight) * the loss of the labels`` of a task."""

    teacher: nn.Module
    task: Task
    weight: float

    def __call__(self, model: nn.Module, batch: Batch) -> Tensor:
        inputs = self.task.read(batch)
        expected = Watched(self.teacher).see(inputs).outputs
        outputs = model(*inputs)
        return Blend(self.task, self.weight)(self.task.match(outputs, expected), outputs, batch)


def objective_for(task: Task, teacher: nn.Module | None, training: Training) -> Objective:
    """The loss that a fine-tuning uses: distillation where there is a teacher, else the loss of the task.

    Raises:
        InvalidInput: there is neither, or the training smooths labels that the task does not have.
    """
    task = tuned(task, training)
    if teacher is None:
        if task.loss is None:
            raise InvalidInput(f"training: the task {task.name} has no loss, and there is no teacher; give --teacher")
        return TaskLoss(task)
    return Distillation(compiled(_frozen(teacher), training), task, training.teacher_weight)


def fine_tune(
    model: nn.Module, context: Context, training: Training, *, activity: str, checkpoint: str, **options: Any
) -> list[dict[str, float]]:
    """Train ``model`` in place towards the context's teacher, if any, and the labels; a record per epoch.

    Args:
        context: of the network before it was changed, see :meth:`compress.stage.Context.of`.
        activity: what messages and the progress call it.
        checkpoint: the name of the checkpoint in the context's folder for them.
        options: of :func:`compress.training.loop.fit`.

    Raises:
        InvalidInput: there is no data to train on, or as :func:`fit` and :func:`objective_for`.
    """
    if context.data is None:
        raise InvalidInput(f"{activity}: it needs data to train on; give --data")
    task = context.task_of(model)
    options.setdefault("objective", objective_for(task, context.teacher, training))
    return fit(
        model,
        context.data,
        training,
        task,
        seed=context.seed,
        checkpoint=Path(context.checkpoints, checkpoint) if context.checkpoints else None,
        progress=context.progress,
        activity=activity,
        **options,
    )


class Distill(Config):
    """Train the network as a student of the context's teachers; its architecture stays."""

    losses: Annotated[tuple[AnyLoss, ...], Listed] = setting(
        (Logits(),),
        "What the student learns from a teacher, as a weighted sum: losses of outputs (logits, dkd) or of features, "
        "whose layers are named behind colons, as hint:layer2=layer3:weight=2.",
        flag="--loss",
        common=True,
        metavar="NAMES",
    )
    training: Training = setting(Training(), "How; its temperature and teacher_weight weigh the teacher.")

    @field_validator("losses")
    @classmethod
    def _some(cls, losses: tuple[AnyLoss, ...]) -> tuple[AnyLoss, ...]:
        if not losses:
            raise ValueError(f"expected at least one of {', '.join(LOSSES.names)}; to learn from labels alone, train")
        return losses

    def apply(self, model: nn.Module, context: Context) -> Result:
        """A trained copy of ``model``.

        Raises:
            InvalidInput: no teacher, no training data, or a loss that cannot serve the networks or the task.
        """
        student = evaluation_copy(model)
        context = context.of(model)
        pupil = self.pupil(student, context)
        with pupil.attentive():
            history = fine_tune(
                pupil,
                context,
                self.training,
                activity="distill",
                checkpoint="distill.ckpt",
                objective=Lecture(pupil.blend.task),
            )
        edit = Edit("", "weights", "student", "distilled student", kind="weights")
        return Result(student, (edit,), history=tuple(history))

    def trial(self, context: Context) -> Objective:
        """The loss of a single step, for a network that is thrown away."""

        def loss(model: nn.Module, batch: Batch) -> Tensor:
            pupil = self.pupil(model, context).to(next(iter(context.read(batch))).device)
            with pupil.attentive():
                return Lecture(pupil.blend.task)(pupil, batch)

        return loss

    def pupil(self, student: nn.Module, context: Context) -> Pupil:
        """``student``, which is to be trained in place, with all that is trained with it.

        Raises:
            InvalidInput: as :meth:`apply`.
        """
        if context.teacher is None:
            raise InvalidInput("distill: it needs a teacher; give --teacher a network as --model takes it")
        if context.data is None:
            raise InvalidInput("distill: it needs data to train on; give --data")
        training = self.training
        with torch.random.fork_rng():
            torch.manual_seed(context.seed)  # of adapters
            return Pupil.of(
                student,
                [_frozen(context.teacher)],
                self.losses,
                Blend(tuned(context.task_of(student), training), training.teacher_weight),
                example_inputs=context.example_inputs,
                temperature=training.temperature,
                edits=context.edits,
            )


def _frozen(teacher: nn.Module) -> nn.Module:
    """A copy to look at, its weights ordered as convolutions are fast with."""
    return evaluation_copy(teacher).to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]
