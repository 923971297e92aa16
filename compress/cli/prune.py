"""compress prune"""

from __future__ import annotations

from typing import Any

from .grammar import options


@options.command("prune", short_help="Remove channels, and fine-tune.")
@options.network
@options.settings("prune")
@options.device
@options.data
@options.teacher
@options.output
@options.common
def command(**values: Any) -> None:
    """Remove whole channels: the network gets smaller layers, and stays what it was otherwise. Give one target.

    \b
    Example:
      compress prune out/base --ratio 0.5 -o out/pruned
      compress prune out/base --macs 4 --data digits --epochs 10 --teacher out/base -o out/pruned
      compress prune out/base --latency 2 --round-to measured --latency-precision int8 -o out/fast
      compress prune out/base --macs 3 --select sensitivity --data digits --steps 4 --epochs 20 -o out/pruned
    """
    from ..prune import Prune
    from .session import run_stage

    run_stage(Prune, "prune", values)
