"""compress report"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from .grammar import options


@options.command("report", short_help="Show a run's report, and draw its page again.")
@click.argument("network", required=False)
@click.option("--model", help="The folder of a run, where it is not the first argument.")
@click.option("-o", "--output", type=options.PATH, help="Write the page here, not into the folder.")
@options.common
def command(output: Path | None, **values: Any) -> None:
    """Print a run's report, and write report.html from its report.json.

    \b
    Example:
      compress report out/demo
      compress report out/demo --json | jq .summary
    """
    from rich.text import Text

    from ..files.outputs import write_text
    from ..report import read, render, terminal, write
    from .session import Options

    call = Options(**values)
    folder = Path(call.specification())
    report = read(folder)
    if output is None:
        _, page = write(report, folder if folder.is_dir() else folder.parent)
    else:
        page = output
        write_text(page, render(report), overwrite=call.overwrite)
    call.console.print(terminal(report))
    call.console.print(Text(f"written: {page}"))
    call.tell(report)
