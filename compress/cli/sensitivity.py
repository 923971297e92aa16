"""compress sensitivity"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from .grammar import options

if TYPE_CHECKING:
    from rich.table import Table

    from ..prune.sensitivity import Sensitivity


@options.command("sensitivity", short_help="Prune or round each layer alone, and measure what it costs.")
@options.network
@options.settings("sensitivity")
@options.data
@options.output
@options.common
def command(**values: Any) -> None:
    """Prune each group of coupled layers alone, without fine-tuning, and measure validation accuracy.

    Writes sensitivity.json, which prune --select sensitivity=FOLDER reads, and sensitivity.svg. With --stage quantize,
    each layer alone is stored in fewer bits; quantize --scan reads that, and trade_off.json and .svg tell what accuracy
    can be had for how many bytes. Such a scan that is interrupted goes on where it was.

    \b
    Example:
      compress sensitivity out/base --data digits -o out/sensitivity
      compress prune out/base --macs 3 --select sensitivity=out/sensitivity -o out/pruned
      compress sensitivity out/base --stage quantize --data digits -o out/scan
      compress quantize out/base --size 6 --scan out/scan --data digits -o out/mixed
    """
    from ..errors import InvalidInput
    from ..scan import SensitivityScan
    from ..stage import Context
    from .session import Options, configured, progress_bars, settings_of, typed

    asked = settings_of("sensitivity", values, SensitivityScan)
    call = Options(**values)
    config = configured(SensitivityScan, **asked)
    other = "prune" if config.stage == "quantize" else "quantize"
    shared = ("samples", "exclude")
    spare = next((name for name in asked.get(other, {}) if other == "quantize" or name not in shared), None)
    if spare is not None:
        raise InvalidInput(f"{typed(spare)}: it is of --stage {other}; leave it out, or give that")
    if config.stage == "quantize":
        from .precision_scan import scan_precisions

        scan_precisions(call, config.quantize, **asked.get("prune", {}))
        return
    scan = config.prune
    assert call.output is not None, "it has --output"
    call.claim_output()
    if call.data is None:
        raise InvalidInput("sensitivity: it needs data to measure accuracy on; give --data")
    data = call.load_data()
    network = call.open(data)
    with progress_bars(call) as progress:
        context = Context(network.example_inputs, data, seed=call.seed, progress=progress, task=call.wanted_task)
        measured = scan.measure(network.model, context)
    _write(measured, call.output, call.overwrite)
    call.console.print(_table(measured))
    call.console.print(f"written: {call.output}")
    call.tell(measured)


def _write(scan: Sensitivity, output: Path, overwrite: bool) -> None:
    """Both files, in a folder that appears whole."""
    from ..files.outputs import write_folder
    from ..report.figures.heat_map import heat_map

    most = max((max(scan.losses(group)) for group in scan.groups), default=0.0)
    figure = heat_map(
        [(" + ".join(group.layers), scan.losses(group)) for group in scan.groups],
        [f"-{ratio:.0%}" for ratio in scan.ratios],
        f"{scan.score.drop_unit} of validation {scan.score.name} lost when one group is pruned",
        f"{scan.score} before, {scan.samples:,} samples, criterion {scan.criterion}, not fine-tuned",
        most,
    )
    texts = {"sensitivity.json": scan.model_dump_json(indent=1) + "\n", "sensitivity.svg": figure}
    write_folder(output, texts, overwrite=overwrite)


def _table(scan: Sensitivity) -> Table:
    from rich.table import Table
    from rich.text import Text

    title = (
        f"{scan.score.drop_unit} lost of {scan.score} {scan.score.name} ({scan.samples:,} validation samples), "
        "one group pruned at a time"
    )
    table = Table("layers", "channels", *(f"-{ratio:.0%}" for ratio in scan.ratios), title=title, title_justify="left")
    for group in scan.groups:
        lost = (f"{loss:.2f}" for loss in scan.losses(group))
        table.add_row(Text(" + ".join(group.layers)), str(group.width), *lost)
    return table
