"""Tables that fit: no value is cut, however narrow the terminal is.

A table that is too wide gets headings of several lines, then reasons and other prose of several lines; a table of few
rows is turned over, so that every row is a column; and a long one is printed in parts that repeat its first column.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Sequence

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType
from rich.measure import Measurement
from rich.table import Column, Table
from rich.text import Text

FEW_ROWS = 8
"""That are turned over, or told one after the other, where the table is too wide."""

PROSE = 24
"""Cells of more letters than this may be told in several lines, where they have several words."""


def fitted(table: Table, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
    """``table`` in a form no wider than the console; values that are themselves wider run on in the next line."""
    fits = _Fit(console, options)
    one = fits.table(table)
    if one is not None:
        yield one
    elif len(table.rows) <= FEW_ROWS:
        turned = fits.table(_turned(table)) if table.show_header else None
        yield from [turned] if turned is not None else _as_list(table, options.max_width)
    else:
        yield from fits.parts(table)


class _Fit:
    """What fits into the width of ``options``."""

    def __init__(self, console: Console, options: ConsoleOptions) -> None:
        self._console, self._width = console, options.max_width
        self._endless = options.update(width=10**6)

    def table(self, table: Table) -> Table | None:
        """The table, with headings and prose of several lines where one is too wide; None where that is not enough."""
        if self._room(table) >= 0:
            return table
        narrow = _with_columns(table, range(len(table.columns)))
        for column in narrow.columns:
            column.no_wrap = True
            column.header = _wrapped(_plain(column.header), max(map(_length, column.cells), default=1))
        if self._room(narrow) >= 0:
            return narrow
        prose = {i: w for i, column in enumerate(narrow.columns) if (w := _least_width(column)) is not None}
        for i, width in prose.items():
            narrow.columns[i].no_wrap, narrow.columns[i].width = False, width
        room = self._room(narrow)
        if room < 0 or not prose:
            return None
        for i, width in prose.items():
            narrow.columns[i].width = width + room // len(prose)
        return narrow

    def parts(self, table: Table) -> Iterator[RenderableType]:
        """Tables that each have the first column and as many others as fit."""
        left = list(range(1, len(table.columns)))
        while left:
            part, fewest, most = None, 0, len(left)
            while fewest < most:  # a part of fewer columns fits where one of more does
                middle = (fewest + most + 1) // 2
                fits = self._part(table, left[:middle])
                part, fewest, most = (part, fewest, middle - 1) if fits is None else (fits, middle, most)
            if part is None:
                yield from _as_list(_with_columns(table, [0, *left]), self._width)
                return
            yield part
            left = left[fewest:]

    def _part(self, table: Table, columns: Sequence[int]) -> Table | None:
        return self.table(_with_columns(table, [0, *columns]))

    def _room(self, table: Table) -> int:
        return self._width - Measurement.get(self._console, self._endless, table).maximum


def _like(table: Table) -> Table:
    """An empty table that looks like ``table``."""
    return Table(
        title=table.title,
        title_justify=table.title_justify,
        title_style=table.title_style,
        box=table.box,
        pad_edge=table.pad_edge,
        show_header=table.show_header,
    )


def _with_columns(table: Table, columns: Iterable[int]) -> Table:
    made = _like(table)
    chosen = [table.columns[i] for i in columns]
    for column in chosen:
        made.add_column(column.header, justify=column.justify, style=column.style, overflow="fold")
    for row, cells in zip(table.rows, zip(*(column.cells for column in chosen), strict=True), strict=True):
        made.add_row(*cells, style=row.style)
    return made


def _turned(table: Table) -> Table:
    """Rows as columns: the first column is the heading."""
    first, *others = table.columns
    made = _like(table)
    made.add_column(first.header)
    for cell in first.cells:
        made.add_column(_plain(cell), justify="right", overflow="fold")
    for column in others:
        made.add_row(_plain(column.header), *column.cells)
    return made


def _as_list(table: Table, width: int) -> Iterator[Text]:
    """Lines for each value, and an empty one between rows."""
    if table.title:
        yield Text(_plain(table.title), style="bold", overflow="fold")
    names = [" ".join(_plain(column.header).split()) for column in table.columns]
    margin = 4 + max(map(cell_len, names))
    for number, cells in enumerate(zip(*(column.cells for column in table.columns), strict=True)):
        if number and table.show_header:
            yield Text("")
        for name, cell in zip(names, cells, strict=True):
            lines = _wrapped(_plain(cell), width - margin).splitlines()
            if any(cell_len(line) > width - margin for line in lines):  # a long word has lines of its own
                yield Text(f"  {name}")
                yield from (Text(line, overflow="fold") for line in lines)
                continue
            for head, line in zip([f"  {name}", *[""] * len(lines)], lines or [""], strict=False):
                yield Text(f"{head:{margin}}{line}")


def _least_width(column: Column) -> int | None:
    """Of a column of prose: its longest word and some more; None for a column of values."""
    texts = [_plain(cell) for cell in column.cells]
    if not any(cell_len(text) > PROSE and " " in text for text in texts):
        return None
    words = (word for text in (*texts, _plain(column.header)) for word in text.split())
    return max(PROSE, max(map(cell_len, words), default=1))


def _wrapped(text: str, width: int) -> str:
    return "\n".join(textwrap.wrap(text, max(1, width), break_long_words=False, break_on_hyphens=False)) or text


def _plain(cell: object) -> str:
    return cell.plain if isinstance(cell, Text) else str(cell)


def _length(cell: object) -> int:
    return max(map(cell_len, _plain(cell).splitlines()), default=0)
