"""compress sparsify"""

from __future__ import annotations

from typing import Any

from .grammar import options


@options.command("sparsify", short_help="Set weights to zero, and fine-tune.")
@options.network
@options.settings("sparsify")
@options.data
@options.teacher
@options.output
@options.common
def command(**values: Any) -> None:
    """Set the least important weights to zero; shapes stay. `compress pack` makes the exported file smaller for it.

    Zeros bring bytes to download, not speed: ONNX Runtime multiplies by them as by any weight.

    \b
    Example:
      compress sparsify out/base --sparsity 0.9 --data digits --epochs 10 --teacher out/base -o out/sparse
      compress export out/sparse --pack -o out/files
      compress sparsify out/base --granularity n:m --n 2 --m 4 -o out/two-of-four
    """
    from ..sparsify import Sparsify
    from .session import run_stage

    run_stage(Sparsify, "sparsify", values)
