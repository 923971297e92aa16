"""compress prune"""

from __future__ import annotations

from typing import Any

import click

from . import options


@click.command("prune", short_help="Remove channels, and fine-tune.")
@options.network
@click.option("--ratio", type=float, help="Share of the channels to remove, as 0.5.")
@click.option("--macs", type=float, help="Divide the multiply-adds by this, as 4.")
@click.option("--criterion", type=click.Choice(["l1", "l2", "bn_scale"]), default="l2", show_default=True)
@click.option(
    "--scope",
    type=click.Choice(["layer", "global"]),
    default="layer",
    show_default=True,
    help="Where channels compete.",
)
@click.option("--round-to", type=int, default=8, show_default=True, help="Widths are multiples of this.")
@options.exclude
@options.data
@options.teacher
@options.training(epochs=0)
@options.output
@options.common
def command(
    ratio: float | None,
    macs: float | None,
    criterion: str,
    scope: str,
    round_to: int,
    exclude: tuple[str, ...],
    teacher: str | None,
    **values: Any,
) -> None:
    """Remove whole channels: the network gets smaller layers, and stays what it was otherwise.

    \b
    Example:
      compress prune out/base --ratio 0.5 -o out/pruned
      compress prune out/base --macs 4 --data digits --epochs 10 --teacher out/base -o out/pruned
    """
    from ..prune import Prune
    from .session import Options, apply_stage, configured, training_of

    training = training_of(values)
    stage = configured(
        Prune,
        ratio=ratio,
        macs=macs,
        criterion=criterion,
        scope=scope,
        round_to=round_to,
        exclude=exclude,
        training=training if training.epochs else None,
    )
    apply_stage(Options(**values), stage, "prune", teacher=teacher, needs_data=training.epochs > 0)
