"""compress distill"""

from __future__ import annotations

from typing import Any

from . import options


@options.command("distill", short_help="Train a student with a teacher's help.")
@options.network
@options.data
@options.teacher
@options.training(epochs=10)
@options.output
@options.common
def command(teacher: str | None, **values: Any) -> None:
    """Train a network (the student) on the labels and on a teacher's soft targets.

    \b
    Example:
      compress distill resnet20:width=8 --teacher out/base --data digits --epochs 10 -o out/student
    """
    from ..distill import Distill
    from .session import Options, apply_stage, training_of

    stage = Distill(training=training_of(values))
    apply_stage(Options(**values), stage, "distill", teacher=teacher, needs_data=True)
