"""compress fold"""

from __future__ import annotations

from typing import Any

from .grammar import options


@options.command("fold", short_help="Fold batch norms into their neighbours.")
@options.network
@options.data
@options.output
@options.common
def command(**values: Any) -> None:
    """Fold batch normalization into the convolution or linear layer beside it; the outputs stay.

    \b
    Example:
      compress fold resnet20 --weights net.safetensors --input-shape 3,32,32 -o out/folded
    """
    from ..fold import Fold
    from .session import Options, apply_stage

    apply_stage(Options(**values), Fold(), "fold")
