"""compress share"""

from __future__ import annotations

from typing import Any

import click

from . import options


@options.command("share", short_help="Let weights share few values, from codebooks.")
@options.network
@click.option("--bits", type=int, default=5, show_default=True, help="Of a code: a codebook has 2^bits values.")
@click.option("--linear-bits", type=int, help="In linear layers; as --bits where it is left out.")
@click.option(
    "--scope",
    type=click.Choice(["layer", "channel"]),
    default="layer",
    show_default=True,
    help="A codebook for each layer, or for each output channel.",
)
@click.option(
    "--start",
    type=click.Choice(["linear", "density", "random"]),
    default="linear",
    show_default=True,
    help="Where k-means starts.",
)
@options.exclude
@options.data
@options.teacher
@options.training(epochs=0, learning_rate=1e-3, optimizer="adamw", weight_decay=0.0)
@options.output
@options.common
def command(
    bits: int,
    linear_bits: int | None,
    scope: str,
    start: str,
    exclude: tuple[str, ...],
    teacher: str | None,
    **values: Any,
) -> None:
    """Replace weights by codes into small tables, found by k-means and trained with --epochs.

    After sparsify and before export --pack this is Deep Compression: zeros stay zero, codes are entropy-coded, and what
    travels is a fraction of the file. On the device weights are floats again: the speed is that of float32.

    \b
    Example:
      compress sparsify out/base --sparsity 0.9 --data digits --epochs 10 --teacher out/base -o out/sparse
      compress share out/sparse --bits 4 --data digits --epochs 2 --teacher out/base -o out/shared
      compress export out/shared --pack -o out/files
    """
    from ..share import Share
    from .session import Options, apply_stage, configured, training_of

    training = training_of(values)
    stage = configured(
        Share,
        bits=bits,
        linear_bits=linear_bits,
        scope=scope,
        start=start,
        exclude=exclude,
        training=training if training.epochs else None,
    )
    apply_stage(Options(**values), stage, "share", teacher=teacher, needs_data=training.epochs > 0)
