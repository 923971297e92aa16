"""compress unpack"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from .grammar import options


@options.command("unpack", short_help="Restore a packed file, bit for bit.")
@click.argument("file", type=options.PATH)
@click.option("-o", "--output", type=options.PATH, help="Where to write; FILE without .packed if left out.")
@options.common
def command(file: Path, **values: Any) -> None:
    """Restore the ONNX file that `compress pack` packed; a truncated or changed file is refused.

    \b
    Example:
      compress unpack model.onnx.packed -o model.onnx
    """
    from dataclasses import asdict

    from rich.text import Text

    from ..errors import InvalidInput
    from ..packing import unpack
    from .session import Options

    call = Options(**values)
    output = call.output or (file.with_suffix("") if file.suffix == ".packed" else None)
    if output is None:
        raise InvalidInput(f"unpack {file}: its name does not end in .packed; say with -o where to write")
    packed = unpack(file, output, overwrite=call.overwrite)
    call.console.print(f"restored: {packed.size_bytes:,} bytes from {packed.packed_bytes:,}, SHA-256 as it was packed")
    if packed.memory_bytes is not None:
        least = "at least " if packed.memory_at_least else ""
        call.console.print(f"in memory: {least}{packed.memory_bytes:,} bytes of weights, as an engine holds them")
    call.console.print(Text(f"written: {output}"))
    call.tell({**asdict(packed), "output": str(output)})
