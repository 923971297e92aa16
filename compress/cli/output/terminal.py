"""The terminal: tables and lines whose words come from files, names and messages, shown and never obeyed."""

from __future__ import annotations

import os
from collections.abc import Iterable

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.table import Table

from ...siblings import runtimes
from .tables import fitted

ENDLESS = 10_000
"""Columns of a pipe or a file, which nobody sees the edge of: no line is broken there."""


class Terminal(Console):
    """A console that reads no markup and no emoji codes, and writes control characters in texts as their codes.

    Tables take the form that fits its width; see :mod:`compress.cli.output.tables`.
    """

    def __init__(self, *, stderr: bool = False, quiet: bool = False) -> None:
        super().__init__(stderr=stderr, quiet=quiet, highlight=False, markup=False, emoji=False)
        if not self.is_terminal and "COLUMNS" not in os.environ:
            self.width = ENDLESS
        self._printable = runtimes.ending.printable

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """The segments of ``renderable``; the console's own control codes are apart from their texts."""
        options = options or self.options
        parts = fitted(renderable, self, options) if type(renderable) is Table else (renderable,)
        for part in parts:
            for segment in super().render(part, options):
                yield segment if segment.control else Segment(self._printable(segment.text), segment.style)
