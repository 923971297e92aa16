"""compress train"""

from __future__ import annotations

from typing import Any

from .grammar import options


@options.command("train", short_help="Train a network from its source.")
@options.network
@options.settings("train")
@options.data
@options.output
@options.common
def command(**values: Any) -> None:
    """Train a network on the train split and write it as an artifact.

    \b
    Example:
      compress train resnet20:width=32 --data digits --epochs 8 -o out/base
      compress train net.py:build --data photos/ --input-shape 3,64,64 --epochs 90 --augment flip,crop -o out/base
    """
    from ..training.loop import Training
    from .session import run_stage

    run_stage(Training, "train", values)
