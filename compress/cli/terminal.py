"""The terminal: tables and lines whose words come from files, names and messages, shown and never obeyed."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from ..siblings import runtimes


class Terminal(Console):
    """A console that reads no markup and no emoji codes, and writes control characters in texts as their codes."""

    def __init__(self, *, stderr: bool = False, quiet: bool = False) -> None:
        super().__init__(stderr=stderr, quiet=quiet, highlight=False, markup=False, emoji=False)
        self._printable = runtimes.ending.printable

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """The segments of ``renderable``; the console's own control codes are apart from their texts."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(self._printable(segment.text), segment.style)
