"""compress analyze"""

from __future__ import annotations

from typing import Any

import click

from . import options


@click.command("analyze", short_help="Count what each layer costs.")
@options.network
@options.data
@options.common
def command(**values: Any) -> None:
    """Parameters, multiply-adds, activations, memory traffic and receptive field per layer, and what was not counted.

    \b
    Example:
      compress analyze resnet20 --input-shape 3,32,32
      compress analyze net.onnx --json -
    """
    from rich.table import Table
    from rich.text import Text

    from ..cost import cost
    from .session import Options

    given = Options(**values)
    network = given.open(given.load_data())
    counted = cost(network.model, network.example_inputs)
    table = Table(
        "layer", "operation", "output", "parameters", "multiply-adds", "activation bytes", "memory access bytes",
        "receptive field",
        title=f"{given.specification()}, for one sample", title_justify="left",
    )  # fmt: skip
    for layer in counted.layers:
        table.add_row(
            Text(layer.layer or "(network)"), layer.operation, "x".join(map(str, layer.output_shape[1:])),
            f"{layer.params:,}", f"{layer.macs:,}", f"{layer.activation_bytes:,}", f"{layer.memory_access_bytes:,}",
            "-" if layer.receptive_field is None else str(layer.receptive_field),
        )  # fmt: skip
    given.console.print(table)
    given.console.print(
        f"in all: {counted.params:,} parameters ({counted.size_bytes:,} bytes), {counted.macs:,} multiply-adds"
    )
    for entry in counted.uncounted:
        given.console.print(Text(f"not counted: {entry.count} x {entry.operation}: {entry.reason}"))
    given.tell(counted.to_json())
