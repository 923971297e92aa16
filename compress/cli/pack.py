"""compress pack"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from . import options


@click.command("pack", short_help="Pack an exported file for the download.")
@click.argument("file", type=options.PATH)
@click.option("-o", "--output", type=options.PATH, help="Where to write; FILE.packed if left out.")
@click.option("--overwrite", is_flag=True, help="Replace what is there.")
@options.common
def command(file: Path, **values: Any) -> None:
    """Store an ONNX file without its zeros, compressed; `compress unpack` restores it bit for bit.

    It is smaller to download and to store. Unpacked, on the device, it has its full size again.

    \b
    Example:
      compress pack out/files/model.onnx -o model.onnx.packed
    """
    from dataclasses import asdict

    from rich.text import Text

    from ..packing import pack
    from .session import Options

    given = Options(**values)
    packed = pack(file, given.output or file.with_name(f"{file.name}.packed"), overwrite=given.overwrite)
    given.console.print(
        f"to download: {packed.packed_bytes:,} bytes, {packed.ratio:.2f}x smaller; "
        f"unpacked, on disk and in memory: {packed.size_bytes:,} bytes"
    )
    for name, count in packed.codings.items():
        given.console.print(f"  {count} tensors: {name}")
    given.console.print(Text(f"written: {packed.path}"))
    given.tell({**asdict(packed), "ratio": packed.ratio})
