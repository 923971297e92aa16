"""compress check"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from .grammar import options


@options.command("check", short_help="Run exported files in their engines against what they must give.")
@click.argument("folder", type=options.PATH)
@options.listed("--engine", "engines", help="Only files for these engines.")
@click.option("--threads", type=options.THREADS, default=1, show_default=True)
@click.option(
    "--agreement",
    type=options.Finite(0, 100),
    default=99.0,
    show_default=True,
    help="Least top-1 agreement of a file in integers with its simulation, in percent.",
)
@options.common
def command(folder: Path, engines: tuple[str, ...], threads: int, agreement: float, **values: Any) -> None:
    """Run every file of an exported folder on its stored samples, and compare with what its network gave.

    Exit code 1 where one does not pass: a wrong output, too little agreement, an engine that is missing, no samples.
    python -m runtimes check FOLDER does the same on a device that has neither torch nor this command.

    \b
    Example:
      compress export out/int8 --format all --data digits -o out/files
      compress check out/files
    """
    from rich.table import Table
    from rich.text import Text

    from ..errors import GateFailed
    from ..siblings import runtimes
    from .session import Options

    call = Options(**values)
    gate = runtimes.checks.gate
    table = Table(*gate.COLUMNS, title=str(folder), title_justify="left")
    checks = []
    for checked in gate.check_folder(folder, engines=engines, threads=threads, agreement=agreement):
        checks.append(checked)
        table.add_row(*(Text(cell) for cell in gate.row(checked)))
    call.console.print(table)
    for checked in checks:
        for note in gate.notes(checked):
            call.console.print(Text(f"  {checked.entry.file}: {note}"))
    call.tell({"files": [gate.to_json(checked) for checked in checks]})
    failed = [checked for checked in checks if not checked.passed]
    if failed:
        failures = "; ".join(f"{checked.entry.file}: {', '.join(checked.reasons)}" for checked in failed)
        raise GateFailed(f"{folder}: {len(failed)} of {len(checks)} files do not pass: {failures}")
