"""compress regularize"""

from __future__ import annotations

from typing import Any

from .grammar import options


@options.command("regularize", short_help="Train so that pruning finds channels that hardly matter.")
@options.network
@options.settings("regularize")
@options.data
@options.teacher
@options.output
@options.common
def command(**values: Any) -> None:
    """Train a network with a penalty on its channels. It keeps its shape; prune then cuts the channels near zero.

    \b
    Example:
      compress regularize out/base --method slimming --data digits --epochs 10 -o out/slim
      compress prune out/slim --criterion bn_scale --select global --ratio 0.6 -o out/pruned
      compress regularize out/base --method soft --ratio 0.5 --data digits --epochs 10 -o out/soft
    """
    from ..prune.regularize import Regularize
    from .session import run_stage

    run_stage(Regularize, "regularize", values)
