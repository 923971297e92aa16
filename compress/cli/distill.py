"""compress distill"""

from __future__ import annotations

from typing import Any

from .grammar import options


@options.command("distill", short_help="Train a student with a teacher's help.")
@options.network
@options.settings("distill")
@options.data
@options.teacher
@options.output
@options.common
def command(**values: Any) -> None:
    """Train a network (the student) on the labels and on a teacher's soft targets.

    \b
    Example:
      compress distill resnet20:width=8 --teacher out/base --data digits --epochs 10 -o out/student
    """
    from ..distill import Distill
    from .session import run_stage

    run_stage(Distill, "distill", values)
