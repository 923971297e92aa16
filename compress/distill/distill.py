"""The stage Distill: a student learns from a teacher's outputs and from the labels."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..core.settings import setting
from ..errors import InvalidInput
from ..stage import Config, Context, Edit, Objective, Result, evaluation_copy
from ..tasks.task import Batch, Task
from ..training.loop import TaskLoss, Training, compiled, fit, tuned


@dataclass(frozen=True)
class Distillation:
    """The objective ``weight * match to the teacher's outputs + (1 - weight) * the loss of the labels`` of a task."""

    teacher: nn.Module
    task: Task
    weight: float

    def __call__(self, model: nn.Module, batch: Batch) -> Tensor:
        inputs = self.task.read(batch)
        self.teacher.to(inputs[0].device)
        with torch.no_grad():
            expected = self.teacher(*inputs)
        outputs = model(*inputs)
        matched = self.task.match(outputs, expected)
        if self.task.loss is None or self.task.self_supervised:
            return matched
        return self.weight * matched + (1 - self.weight) * self.task.loss(outputs, batch)


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
    frozen = evaluation_copy(teacher).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return Distillation(compiled(frozen, training), task, training.teacher_weight)


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
    """Train the network as a student of ``context.teacher``; its architecture stays."""

    training: Training = setting(Training(), "How; its temperature and teacher_weight weigh the teacher.")

    def apply(self, model: nn.Module, context: Context) -> Result:
        """A trained copy of ``model``.

        Raises:
            InvalidInput: no teacher, no training data, or networks with different outputs.
        """
        if context.teacher is None:
            raise InvalidInput("distill: it needs a teacher; give --teacher a network as --model takes it")
        student = evaluation_copy(model)
        history = fine_tune(student, context.of(model), self.training, activity="distill", checkpoint="distill.ckpt")
        edit = Edit("", "weights", "student", "distilled student", kind="weights")
        return Result(student, (edit,), history=tuple(history))
