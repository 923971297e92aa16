"""The table that ``compress compare`` prints, and the lines below it."""

from __future__ import annotations

from collections.abc import Iterator

from rich.table import Table
from rich.text import Text

from ...compare.comparison import median_ms
from ...compare.outcome import (
    Outcome,
    change_of,
    interval_of,
    outcome_line,
    remarks,
    setting_of,
    title_of,
    verdict,
)
from ...report.quantities import milliseconds

STYLES = {"faster": "green", "slower": "red", "not comparable": "yellow", "no interval": "yellow"}


def compare_table(outcome: Outcome) -> Table:
    """One row per pair: both medians, the change with its interval, how that was found, and what it says."""
    table = Table(
        "file", "before", "after", "change", "95 % interval", "",
        title=f"{outcome.before} → {outcome.after}", title_justify="left",
    )  # fmt: skip
    for column in table.columns[1:5]:
        column.justify = "right"
    settings = {setting_of(each) for each in outcome.comparisons}
    for each in outcome.comparisons:
        name = title_of(each) if len(settings) == 1 else f"{title_of(each)} ({setting_of(each)})"
        times = (milliseconds(median_ms(record)) for record in (each.before, each.after))
        word = verdict(each)
        cells = (*times, change_of(each.ratio.value), interval_of(each))
        table.add_row(Text(name), *map(Text, cells), Text(word, style=STYLES.get(word, "")))
    return table


def lines(outcome: Outcome) -> Iterator[str]:
    """What is below the table: how times were compared, what else changed, and what has no counterpart."""
    paired = sum(each.paired for each in outcome.comparisons)
    if paired == len(outcome.comparisons):
        yield "Times were taken in turn in one loop, and are compared round by round."
    elif not paired:
        yield "Times are of different loops: the intervals do not hold what differs from process to process."
    else:
        yield f"{paired} of {len(outcome.comparisons)} pairs were timed in one loop."
    for each, found in zip(outcome.comparisons, outcome.checks, strict=True):
        told = remarks(each, found)
        if told:
            yield f"{title_of(each)}:"
            yield from (f"  {remark}" for remark in told)
    yield from outcome.unmatched()
    yield from outcome.notes
    yield f"{outcome_line(outcome)}."
