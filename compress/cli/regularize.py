"""compress regularize"""

from __future__ import annotations

from typing import Any

import click

from . import options


@options.command("regularize", short_help="Train so that pruning finds channels that hardly matter.")
@options.network
@click.option(
    "--method",
    type=click.Choice(["slimming", "group_slimming", "group_lasso", "growing", "soft"]),
    default="slimming",
    show_default=True,
)
@click.option("--strength", type=float, help="Factor of the penalty, as 1e-4; not for soft.")
@click.option("--ratio", type=float, help="Share of the channels to make unimportant, for growing and soft.")
@options.exclude
@options.data
@options.teacher
@options.training(epochs=10)
@options.output
@options.common
def command(
    method: str,
    strength: float | None,
    ratio: float | None,
    exclude: tuple[str, ...],
    teacher: str | None,
    **values: Any,
) -> None:
    """Train a network with a penalty on its channels. It keeps its shape; prune then cuts the channels near zero.

    \b
    Example:
      compress regularize out/base --method slimming --data digits --epochs 10 -o out/slim
      compress prune out/slim --criterion bn_scale --select global --ratio 0.6 -o out/pruned
      compress regularize out/base --method soft --ratio 0.5 --data digits --epochs 10 -o out/soft
    """
    from ..prune.regularize import Regularize
    from .session import Options, apply_stage, configured, training_of

    stage = configured(
        Regularize,
        method=method,
        strength=strength,
        ratio=ratio,
        exclude=exclude,
        training=training_of(values),
    )
    apply_stage(Options(**values), stage, "regularize", teacher=teacher, needs_data=True)
