"""Knowledge distillation: a stage of its own, and the way every other stage fine-tunes when there is a teacher."""

from .distill import Distill, Distillation, objective_for
from .losses import soft_target_loss

__all__ = ["Distill", "Distillation", "objective_for", "soft_target_loss"]
