"""compress analyze"""

from __future__ import annotations

from collections import Counter
from typing import Any

import click

from .grammar import options

_MOST_ROWS = 500


@options.command("analyze", short_help="Count what each layer costs.")
@options.network
@options.data
@click.option(
    "--target",
    type=click.Choice(options.TARGETS),
    help="Check an ONNX file against what this engine can run in integers, instead of counting.",
)
@options.common
def command(target: str | None, **values: Any) -> None:
    """Parameters, multiply-adds, activations, memory traffic and receptive field per layer, and what was not counted.

    With --target, every tensor of the ONNX file that the engine would refuse, compute wrongly or run slowly; exit code
    1 for the first two.

    \b
    Example:
      compress analyze resnet20 --input-shape 3,32,32
      compress analyze net.onnx --json
      compress analyze model.onnx --target tensorrt
    """
    from rich.table import Table
    from rich.text import Text

    from ..cost.count import cost
    from ..integers.plan import plan
    from ..quantize.detect import detected
    from .session import Options

    call = Options(**values)
    if target is not None:
        _check_rules(call, target)
        return
    network = call.open(call.load_data())
    planned = None
    if network.encodings:
        chosen = network.target or detected().target
        planned = plan(network.model, network.example_inputs, network.encodings, chosen)
    counted = cost(network.model, network.example_inputs, planned)
    table = Table(
        "layer", "operation", "output", "parameters", "multiply-adds", "bit operations", "activation bytes",
        "memory access bytes", "receptive field",
        title=f"{call.specification()}, for one sample", title_justify="left",
    )  # fmt: skip
    shown = counted.layers if call.verbose else counted.layers[:_MOST_ROWS]
    for layer in shown:
        table.add_row(
            Text(layer.layer or "(network)"), layer.operation, "x".join(map(str, layer.output_shape[1:])),
            f"{layer.params:,}", f"{layer.macs:,}", f"{layer.bit_operations:,}", f"{layer.activation_bytes:,}",
            f"{layer.memory_access_bytes:,}",
            "-" if layer.receptive_field is None else str(layer.receptive_field),
        )  # fmt: skip
    call.console.print(table)
    if len(shown) < len(counted.layers):
        call.console.print(f"... and {len(counted.layers) - len(shown):,} more (-v tells all)")
    call.console.print(
        f"in all: {counted.params:,} parameters ({counted.size_bytes:,} bytes), {counted.macs:,} multiply-adds, "
        f"{counted.bit_operations:,} bit operations"
    )
    uncounted: Counter[tuple[str, str]] = Counter()
    for entry in counted.uncounted:
        uncounted[entry.operation, entry.reason] += entry.count
    for (operation, reason), count in uncounted.items():
        call.console.print(Text(f"not counted: {count} x {operation}: {reason}"))
    call.tell(counted.to_json())


def _check_rules(call: Any, target: str) -> None:
    from dataclasses import asdict

    from rich.table import Table
    from rich.text import Text

    from ..errors import GateFailed
    from ..siblings import export

    file = call.specification()
    violations = export.rules.check(file, target)
    table = Table(
        "effect", "tensor", "node", "rule", "found", "expected", title=f"{file}: {target}", title_justify="left"
    )
    for violation in violations:
        table.add_row(*(Text(text) for text in (
            violation.effect, violation.tensor, violation.node, violation.rule, violation.actual, violation.expected,
        )))  # fmt: skip
    call.console.print(table if violations else Text(f"{file}: keeps to all rules of {target}"))
    call.tell({"target": target, "violations": [asdict(violation) for violation in violations]})
    broken = sum(violation.effect != "slow" for violation in violations)
    if broken:
        raise GateFailed(f"{file}: {broken} tensors break rules of {target}; export the network again for it")
