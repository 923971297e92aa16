"""The table of what a quantized network got back in precision."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from ...core.restoration import Restoration, amount


def restored_table(restored: Restoration) -> Table:
    """One row for each group, in the order in which they were restored, and what the network loses from then on."""
    unit = restored.unit
    table = Table(
        "restored", "to", "layers in float", f"gave back {unit}", f"loses {unit}",
        title=restored.told(), title_justify="left",
    )  # fmt: skip
    table.add_row("nothing", "", "", "", amount(restored.before))
    for group in restored.groups:
        layers = ", ".join(group.layers[:3]) + (f" and {len(group.layers) - 3} more" if len(group.layers) > 3 else "")
        table.add_row(
            Text(group.named), group.precision, Text(layers or "-"), amount(group.gave_back), amount(group.lost)
        )
    return table
