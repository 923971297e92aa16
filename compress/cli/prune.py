"""compress prune"""

from __future__ import annotations

from typing import Any

import click

from . import options


@click.command("prune", short_help="Remove channels, and fine-tune.")
@options.network
@click.option("--ratio", type=float, help="Share of the channels to remove, as 0.5.")
@click.option("--macs", type=float, help="Divide the multiply-adds by this, as 4.")
@click.option("--parameters", type=float, help="Divide the number of parameters by this.")
@click.option("--size", type=float, help="Divide the bytes of the stored weights by this.")
@click.option("--latency", type=float, help="Divide the latency by this, measured in the engine on this machine.")
@click.option(
    "--criterion",
    default="l2",
    show_default=True,
    help="l1, l2, bn_scale, fpgm, lamp, random; with --data taylor, obd, apoz, activation_mean; or file.py:function.",
)
@click.option(
    "--scope",
    type=click.Choice(["layer", "global", "sensitivity"]),
    default="layer",
    show_default=True,
    help="What layers share: the same part of each, the lowest scores of all, or the accuracy that each alone costs.",
)
@click.option("--sensitivity", type=options.PATH, help="What compress sensitivity wrote, for that scope.")
@click.option("--steps", type=int, default=1, show_default=True, help="Prune in so many steps, fine-tuned in between.")
@click.option(
    "--round-to",
    default="8",
    show_default=True,
    help="Widths are multiples of this; measured takes those that are fast in the engine.",
)
@click.option(
    "--measured-in",
    "precision",
    type=click.Choice(["float", "int8"]),
    default="float",
    show_default=True,
    help="What will be deployed, where latencies are measured.",
)
@click.option("--threads", type=int, default=1, show_default=True, help="Of the engine, where latencies are measured.")
@click.option("--limit", "limits", multiple=True, help="The largest share that layers may lose, as layer1.*=0.3.")
@click.option("--minimum", type=int, default=1, show_default=True, help="Channels that every layer keeps.")
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
