"""The result of a benchmark: one JSON file in one schema, from which pages and terminals render their tables.

``benchmarks/results/NAME.json`` holds the latest published run of ``python -m benchmarks.NAME``. A file has a header
(when, where, with what), tables whose columns tell their titles, units and decimals, bars (a figure, its limit, and
whether it holds), and notes in Markdown. :func:`read` checks a file, and :func:`markdown` renders it.

A figure in the documentation comes from such a file: by ``{include}`` of what :func:`markdown` gives, or by its place,
as ``read(path).tables[0].rows[2]["p50_ms"]``.
"""

from __future__ import annotations

import math
from datetime import date
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AllowInfNan, BaseModel, ConfigDict, Field, model_validator

FOLDER = Path(__file__).resolve().parent.parent / "results"
"""Where the published results are."""

Number = Annotated[float, AllowInfNan(False)]
Cell = str | bool | int | Number | None
"""One value in a row; None where nothing was measured."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Column(_Frozen):
    """What one column of a table holds.

    Args:
        key: its name in the rows; with its unit, as "p50_ms".
        title: its heading.
        unit: shown behind every value, as "ms", "%", "x".
        decimals: of numbers; None shows integers with separators of thousands and floats in four digits.
    """

    key: str = Field(pattern=r"^[a-z0-9_]+$")
    title: str
    unit: str = ""
    decimals: int | None = Field(default=None, ge=0, le=9)


class Table(_Frozen):
    """Rows of values by the keys of their columns; a key that a row lacks counts as None."""

    title: str = ""
    columns: tuple[Column, ...] = Field(min_length=1)
    rows: tuple[dict[str, Cell], ...]
    notes: tuple[str, ...] = ()
    """Sentences in Markdown, shown under the table."""

    @model_validator(mode="after")
    def _rows_fit(self) -> Table:
        keys = [column.key for column in self.columns]
        if len(set(keys)) < len(keys):
            raise ValueError(f"columns: expected different keys, got {keys}")
        for index, row in enumerate(self.rows):
            if unknown := sorted(set(row) - set(keys)):
                raise ValueError(f"rows[{index}]: expected keys of columns, got {', '.join(unknown)}")
        return self


class Bar(_Frozen):
    """A figure that a claim stands or falls by.

    Args:
        what: what was measured, as "slowest file beside float".
        value: what came out.
        limit: what it has to reach.
        side: whether ``value`` has to be at least or at most ``limit``.
    """

    what: str
    value: Number
    limit: Number
    side: Literal["at least", "at most"]
    unit: str = ""

    @property
    def holds(self) -> bool:
        return self.value >= self.limit if self.side == "at least" else self.value <= self.limit


class Machine(_Frozen):
    """Where it ran; None and empty where the system does not tell."""

    processor: str | None = None
    architecture: str = ""
    instruction_sets: tuple[str, ...] = ()
    """Those that decide how fast int8 and half precision run, as Linux names them."""
    cores: int | None = None
    system: str = ""


class Results(_Frozen):
    """All that a benchmark found, and under what conditions."""

    schema_version: Literal[1] = 1
    name: str = Field(pattern=r"^[a-z0-9_]+$")
    """Of the benchmark: ``python -m benchmarks.NAME``."""
    title: str
    """What is claimed or asked, in one sentence."""
    command: str
    """The line that printed it, with its options."""
    day: date
    commit: str | None = None
    """Of this project, with "+" behind it where files had been changed since; None where git does not tell."""
    machine: Machine
    threads: int = Field(ge=1)
    seeds: tuple[int, ...] = ()
    quick: bool = False
    """Whether it ran with ``--quick``: fewer cases or repetitions, to see that it works."""
    versions: dict[str, str] = {}
    """Of Python and the packages that were used."""
    tables: tuple[Table, ...] = ()
    bars: tuple[Bar, ...] = ()
    notes: tuple[str, ...] = ()
    """Sentences in Markdown: what qualifies the figures."""
    origin: str = ""
    """Where the figures come from, if the benchmark did not write this file itself."""


def read(path: Path) -> Results:
    """Return the results in a file; ``pydantic.ValidationError`` tells where it is not as the schema wants it."""
    return Results.model_validate_json(path.read_text(encoding="utf-8"))


def write(results: Results, path: Path) -> None:
    """Write the results to a file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(results.model_dump_json(indent=1) + "\n", encoding="utf-8")
    partial.replace(path)


def shown(value: Cell, column: Column) -> str:
    """Return a value as it stands in a table: with the column's decimals and unit, and "-" for None.

    >>> shown(12.3456, Column(key="p50_ms", title="p50", unit="ms", decimals=2))
    '12.35 ms'
    >>> [shown(value, Column(key="any", title="any")) for value in (None, 2444000, True)]
    ['-', '2,444,000', 'yes']
    """
    if value is None:
        return "-"
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "yes" if value else "no"
    if column.decimals is not None:
        text = f"{value:,.{column.decimals}f}"
    elif isinstance(value, int):
        text = f"{value:,}"
    else:
        text = f"{value:.4g}"
    return text + {"": "", "x": "x"}.get(column.unit, f" {column.unit}")


def table_markdown(table: Table) -> str:
    """Return a table in Markdown, with its title as a bold line and its notes below."""
    lines = [f"**{table.title}**", ""] if table.title else []
    lines.append(f"| {' | '.join(column.title for column in table.columns)} |")
    lines.append("|---" * len(table.columns) + "|")
    for row in table.rows:
        cells = [shown(row.get(column.key), column).replace("|", "\\|") for column in table.columns]
        lines.append(f"| {' | '.join(cells)} |")
    for note in table.notes:
        lines += ["", note]
    return "\n".join(lines) + "\n"


def bar_markdown(bar: Bar) -> str:
    """Return one line: what was measured, the figure, its limit, and whether it holds."""
    column = Column(key="value", title="", unit=bar.unit, decimals=_decimals(bar.value))
    limit = shown(bar.limit, Column(key="limit", title="", unit=bar.unit))
    verdict = "holds" if bar.holds else "**missed**"
    return f"- {bar.what}: {shown(bar.value, column)} ({bar.side} {limit}: {verdict})"


def _decimals(value: float) -> int | None:
    """So many that four digits are shown; None for what is shown with an exponent."""
    if value == 0:
        return 0
    return max(0, 3 - math.floor(math.log10(abs(value)))) if abs(value) >= 1e-3 else None


def header(results: Results) -> str:
    """Return one sentence in Markdown: the command, the day, the machine, threads, seeds and versions."""
    machine = results.machine
    sets = f" ({', '.join(machine.instruction_sets)})" if machine.instruction_sets else ""
    parts = [
        f"`{results.command}`" + (" with `--quick`" if results.quick and "--quick" not in results.command else ""),
        f"{results.day:%Y-%m-%d}",
        f"{machine.processor or machine.architecture or 'a machine that does not tell its name'}{sets}",
        f"{results.threads} thread{'s' if results.threads > 1 else ''}",
    ]
    if results.seeds:
        parts.append(f"seed{'s' if len(results.seeds) > 1 else ''} {', '.join(map(str, results.seeds))}")
    parts += [f"{name} {version}" for name, version in results.versions.items()]
    if results.commit:
        parts.append(f"commit {results.commit}")
    return ", ".join(parts) + "."


def markdown(results: Results) -> str:
    """Return the results as a section in Markdown without its heading: header, tables, bars, notes."""
    blocks = [header(results), *(table_markdown(table) for table in results.tables)]
    if results.bars:
        blocks.append("\n".join(bar_markdown(bar) for bar in results.bars))
    blocks += results.notes
    blocks += [f"*From {results.origin}.*"] if results.origin else []
    return "\n\n".join(block.strip() for block in blocks) + "\n"
