"""compress doctor"""

from __future__ import annotations

from typing import Any

import click

from .grammar import options


@options.command("doctor", short_help="Tell what this machine can run, and what is missing.")
@click.option("--model", help="Also try to open this network.")
@options.common
def command(**values: Any) -> None:
    """Engines, packages and facts of this machine that decide how files run.

    \b
    Example:
      compress doctor
      compress doctor --json | jq .engines
    """
    from rich.table import Table
    from rich.text import Text

    from .. import deploy
    from ..integers.target import TARGETS
    from ..quantize.detect import detected
    from ..siblings import export, runtimes
    from .session import Options

    call = Options(**values)
    engines = {}
    table = Table("engine", "version", "state", title="engines", title_justify="left")
    for name in runtimes.facts.engines():
        version, reason = runtimes.runtime.available(name)
        known = runtimes.facts.describe(name)
        formats = [form.name for form in export.facts.formats().values() if form.engine == name]
        engines[name] = {
            "title": known.title,
            "version": version,
            "reason": reason,
            "formats": formats,
            "targets": list(known.targets),
            "unproven": known.unproven,
        }
        state = "ready" if version else reason or "missing"
        table.add_row(name, version or "-", Text(f"{state}; unproven: {known.unproven}" if known.unproven else state))
    call.console.print(table)
    machine, versions = deploy.machine(), deploy.versions()
    here = detected()
    machine["target"] = f"{here.target} ({here.reason})"
    clipped = [name for name in TARGETS if runtimes.processor.warning(name)]
    machine["computed otherwise than on their device"] = clipped
    for title, facts in (("packages", versions), ("machine", machine)):
        shown = Table("", "", title=title, title_justify="left", show_header=False)
        for key, value in facts.items():
            shown.add_row(key, Text("not told by the system" if value in (None, (), [], {}) else str(value)))
        call.console.print(shown)
    call.tell({"engines": engines, "packages": versions, "machine": machine})
