"""compress remove-blocks"""

from __future__ import annotations

from typing import Any

import click

from . import options


@options.command("remove-blocks", short_help="Remove whole residual blocks, and fine-tune.")
@options.network
@click.option("--count", type=int, help="Blocks to remove.")
@click.option("--macs", type=float, help="Divide the multiply-adds by this, as 1.5.")
@click.option(
    "--criterion",
    type=click.Choice(["accuracy", "similarity", "magnitude"]),
    help="Which go first; by default accuracy, and similarity without labelled validation samples.",
)
@click.option("--samples", type=int, default=512, show_default=True, help="Of the data, to measure the blocks on.")
@options.exclude
@options.data
@options.teacher
@options.training(epochs=0)
@options.output
@options.common
def command(
    count: int | None,
    macs: float | None,
    criterion: str | None,
    samples: int,
    exclude: tuple[str, ...],
    teacher: str | None,
    **values: Any,
) -> None:
    """Remove whole residual blocks: the network gets shallower; each block that goes is an identity.

    \b
    Example:
      compress remove-blocks out/base --count 2 --data digits -o out/shallow
      compress remove-blocks out/base --macs 1.5 --data digits --epochs 10 --teacher out/base -o out/shallow
    """
    from ..prune import RemoveBlocks
    from .session import Options, apply_stage, configured, training_of

    training = training_of(values)
    stage = configured(
        RemoveBlocks,
        count=count,
        macs=macs,
        criterion=criterion,
        samples=samples,
        exclude=exclude,
        training=training if training.epochs else None,
    )
    apply_stage(Options(**values), stage, "remove_blocks", teacher=teacher, needs_data=training.epochs > 0)
