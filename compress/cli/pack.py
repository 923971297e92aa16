"""compress pack"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .grammar import options

if TYPE_CHECKING:
    from rich.table import Table

    from ..packing import Packed


@options.command("pack", short_help="Pack an exported file for the download.")
@click.argument("file", type=options.PATH)
@click.option("-o", "--output", type=options.PATH, help="Where to write; FILE.packed if left out.")
@options.common
def command(file: Path, **values: Any) -> None:
    """Store an ONNX file without the values that repeat, compressed; `compress unpack` restores it bit for bit.

    It is smaller to download and to store. Unpacked, on the device, it has its full size again, and in memory codes of
    weights become the floats that they stand for: the three sizes are told apart. With -v, every tensor is told.

    \b
    Example:
      compress pack out/files/model.onnx -o model.onnx.packed
    """
    from dataclasses import asdict

    from rich.text import Text

    from ..packing import pack
    from .session import Options

    call = Options(**values)
    packed = pack(file, call.output or file.with_name(f"{file.name}.packed"), overwrite=call.overwrite)
    call.console.print(_sizes(packed))
    for name, count in packed.codings.items():
        call.console.print(f"  {count} tensors: {name}")
    if call.verbose:
        call.console.print(_tensors(packed))
    call.console.print(Text(f"written: {packed.path}"))
    call.tell({**asdict(packed), "ratio": packed.ratio})


def _sizes(packed: Packed) -> Table:
    from rich.table import Table

    table = Table("", "bytes", "", title="sizes", title_justify="left")
    table.columns[1].justify = "right"
    table.add_row("to download", f"{packed.packed_bytes:,}", f"{packed.ratio:.2f}x smaller than the file")
    table.add_row("on disk, unpacked", f"{packed.size_bytes:,}", "the file, bit for bit")
    if packed.memory_bytes is not None:
        least = "at least " if packed.memory_at_least else ""
        table.add_row("in memory", f"{least}{packed.memory_bytes:,}", "weights, as an engine holds them")
    return table


def _tensors(packed: Packed) -> Table:
    from rich.table import Table

    table = Table("tensor", "bytes", "packed", "coding", "compressors", title="tensors", title_justify="left")
    for column in table.columns[1:3]:
        column.justify = "right"
    for one in packed.tensors:
        cells = f"{one.size_bytes:,}", f"{one.packed_bytes:,}", one.coding, ", ".join(one.compressors)
        table.add_row(one.name or "-", *cells)
    return table
