"""compress remove-blocks"""

from __future__ import annotations

from typing import Any

from .grammar import options


@options.command("remove-blocks", short_help="Remove whole residual blocks, and fine-tune.")
@options.network
@options.settings("remove_blocks")
@options.data
@options.teacher
@options.output
@options.common
def command(**values: Any) -> None:
    """Remove whole residual blocks: the network gets shallower; each block that goes is an identity.

    \b
    Example:
      compress remove-blocks out/base --count 2 --data digits -o out/shallow
      compress remove-blocks out/base --macs 1.5 --data digits --epochs 10 --teacher out/base -o out/shallow
    """
    from ..prune import RemoveBlocks
    from .session import run_stage

    run_stage(RemoveBlocks, "remove_blocks", values)
