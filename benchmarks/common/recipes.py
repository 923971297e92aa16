"""Runs of recipes whose reports are read again where they are there already."""

from __future__ import annotations

from pathlib import Path

from compress.cli.session import Options, progress_bars
from compress.pipeline import run
from compress.recipe import Recipe
from compress.report import Report, read


def reported(recipe: Recipe, output: Path) -> Report:
    """Return the report of a recipe in ``output``; a finished run is read, an interrupted one goes on."""
    if not (output / "report.json").exists():
        with progress_bars(Options()) as progress:
            run(recipe, output, progress=progress)
    return read(output)
