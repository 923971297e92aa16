"""compress sensitivity"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from . import options

if TYPE_CHECKING:
    from rich.table import Table

    from ..prune.sensitivity import Sensitivity


@options.command("sensitivity", short_help="Prune or round each layer alone, and measure what it costs.")
@options.network
@click.option(
    "--of",
    "kind",
    type=click.Choice(["prune", "quantize"]),
    default="prune",
    show_default=True,
    help="Remove channels of each layer, or store its weights in 4 and 8 bits.",
)
@click.option("--ratios", default="0.25,0.5,0.75,0.9", show_default=True, help="Shares of the channels to remove.")
@click.option("--samples", type=int, default=1024, show_default=True, help="Of the validation split, the first ones.")
@click.option("--criterion", default="l2", show_default=True, help="Which channels go first, as prune has it.")
@click.option(
    "--around",
    type=click.Choice(["float", "int8"]),
    default="float",
    show_default=True,
    help="Of quantize: what the other layers are in.",
)
@click.option(
    "--sensitivity",
    "by",
    type=click.Choice(["snr", "top1", "hessian"]),
    default="snr",
    show_default=True,
    help="Of quantize: what the trade-off is chosen by; hessian measures the curvature of the loss instead.",
)
@options.exclude
@options.data
@options.output
@options.common
def command(
    kind: str, ratios: str, samples: int, criterion: str, around: str, by: str, exclude: tuple[str, ...], **values: Any
) -> None:
    """Prune each group of coupled layers alone, without fine-tuning, and measure validation accuracy.

    Writes sensitivity.json, which prune --select sensitivity=FOLDER reads, and sensitivity.svg. With --of quantize,
    each layer alone is stored in fewer bits; quantize --scan reads that, and trade_off.json and .svg tell what accuracy
    can be had for how many bytes. Such a scan that is interrupted goes on where it was.

    \b
    Example:
      compress sensitivity out/base --data digits -o out/sensitivity
      compress prune out/base --macs 3 --select sensitivity=out/sensitivity -o out/pruned
      compress sensitivity out/base --of quantize --data digits -o out/scan
      compress quantize out/base --size 6 --scan out/scan --data digits -o out/mixed
    """
    from ..errors import InvalidInput
    from ..prune.sensitivity import Scan
    from ..stage import Context
    from .session import Options, configured, progress_bars

    given = Options(**values)
    if kind == "quantize":
        from .precision_scan import scan_precisions

        scan_precisions(given, samples=samples, around=around, by=by, exclude=exclude)
        return
    try:
        shares = tuple(float(part) for part in ratios.split(","))
    except ValueError as error:
        raise InvalidInput(f"--ratios {ratios}: expected shares with commas, as 0.25,0.5") from error
    scan = configured(Scan, criterion=criterion, ratios=shares, samples=samples, exclude=exclude)
    assert given.output is not None, "it has --output"
    given.claim_output()
    if given.data is None:
        raise InvalidInput("sensitivity: it needs data to measure accuracy on; give --data")
    data = given.load_data()
    network = given.open(data)
    with progress_bars(given) as progress:
        found = scan.measure(network.model, Context(network.example_inputs, data, seed=given.seed, progress=progress))
    _write(found, given.output, given.overwrite)
    given.console.print(_table(found))
    given.console.print(f"written: {given.output}")
    given.tell(found)


def _write(found: Sensitivity, output: Path, overwrite: bool) -> None:
    """Both files, in a folder that appears whole."""
    from ..outputs import write_folder
    from ..report.heat_map import heat_map

    most = max((max(found.losses(group)) for group in found.groups), default=0.0)
    figure = heat_map(
        [(" + ".join(group.layers), found.losses(group)) for group in found.groups],
        [f"-{ratio:.0%}" for ratio in found.ratios],
        "Points of validation top-1 lost when one group is pruned",
        f"{found.top1:.2f} % before, {found.samples:,} samples, criterion {found.criterion}, not fine-tuned",
        most,
    )
    texts = {"sensitivity.json": found.model_dump_json(indent=1) + "\n", "sensitivity.svg": figure}
    write_folder(output, texts, overwrite=overwrite)


def _table(found: Sensitivity) -> Table:
    from rich.table import Table
    from rich.text import Text

    title = (
        f"points lost of {found.top1:.2f} % top-1 ({found.samples:,} validation samples), one group pruned at a time"
    )
    table = Table("layers", "channels", *(f"-{ratio:.0%}" for ratio in found.ratios), title=title, title_justify="left")
    for group in found.groups:
        lost = (f"{loss:.2f}" for loss in found.losses(group))
        table.add_row(Text(" + ".join(group.layers)), str(group.width), *lost)
    return table
