"""Soft targets: how far a student's classes are from its teacher's."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import kl_div, log_softmax


def soft_target_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """The divergence of the softened student from the softened teacher, a scalar.

    ``T^2 * KL(softmax(teacher / T) || softmax(student / T))``, the mean over the batch, of logits (N, classes): Hinton,
    Vinyals and Dean, "Distilling the Knowledge in a Neural Network" (2015), section 2; the factor ``T^2`` keeps its
    gradient's size beside that of the hard targets.
    """
    soft_student = log_softmax(student.float() / temperature, dim=1)
    soft_teacher = log_softmax(teacher.float() / temperature, dim=1)
    return kl_div(soft_student, soft_teacher, reduction="batchmean", log_target=True) * temperature**2
