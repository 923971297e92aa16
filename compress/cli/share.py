"""compress share"""

from __future__ import annotations

from typing import Any

from .grammar import options


@options.command("share", short_help="Let weights share few values, from codebooks.")
@options.network
@options.settings("share")
@options.data
@options.teacher
@options.output
@options.common
def command(**values: Any) -> None:
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
    from .session import run_stage

    run_stage(Share, "share", values)
