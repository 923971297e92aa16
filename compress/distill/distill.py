"""The stage Distill: a student learns from a teacher's logits and from the labels."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ..core.settings import setting
from ..errors import InvalidInput
from ..stage import Config, Context, Edit, Objective, Result, evaluation_copy
from ..tasks.classification import class_scores
from ..training.loop import Training, compiled, fit, logits_of
from .losses import soft_target_loss


@dataclass(frozen=True)
class Distillation:
    """The objective ``weight * soft targets + (1 - weight) * cross-entropy`` with ``teacher``'s logits."""

    teacher: nn.Module
    temperature: float
    weight: float
    label_smoothing: float = 0.0

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        self.teacher.to(x.device)
        with torch.no_grad():
            teacher_logits = self.teacher(x)
        logits = class_scores(model(x), y, "distillation")
        if not isinstance(teacher_logits, Tensor) or logits.shape != teacher_logits.shape:
            got = tuple(teacher_logits.shape) if isinstance(teacher_logits, Tensor) else type(teacher_logits).__name__
            raise InvalidInput(
                f"distillation: the student's logits have shape {tuple(logits.shape)}, the teacher's {got}; "
                "give a teacher of the same classes"
            )
        logits, teacher_logits = logits_of(logits), logits_of(teacher_logits)
        soft = soft_target_loss(logits, teacher_logits, self.temperature)
        hard = cross_entropy(logits, y.long(), label_smoothing=self.label_smoothing)
        return self.weight * soft + (1 - self.weight) * hard


def objective_for(teacher: nn.Module | None, training: Training) -> Objective | None:
    """The loss that a fine-tuning uses: distillation where there is a teacher, else None (cross-entropy)."""
    if teacher is None:
        return None
    frozen = evaluation_copy(teacher).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    guide = compiled(frozen, training)
    return Distillation(guide, training.temperature, training.teacher_weight, training.label_smoothing)


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
        if context.data is None:
            raise InvalidInput("distill: it needs data to train on; give --data")
        student = evaluation_copy(model)
        history = fit(
            student,
            context.data,
            self.training,
            objective=objective_for(context.teacher, self.training),
            seed=context.seed,
            checkpoint=Path(context.checkpoints, "distill.ckpt") if context.checkpoints else None,
            progress=context.progress,
            task="distill",
        )
        return Result(
            student, (Edit("", "weights", "student", "distilled student", kind="weights"),), history=tuple(history)
        )
