"""Knowledge distillation: a stage of its own, and the way every other stage fine-tunes when there is a teacher."""

from ..tasks.soft_targets import soft_target_loss
from .distill import Distill, Distillation, fine_tune, objective_for

__all__ = ["Distill", "Distillation", "fine_tune", "objective_for", "soft_target_loss"]
