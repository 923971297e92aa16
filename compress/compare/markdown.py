"""A comparison as Markdown, for the summary of a job or a comment on a change."""

from __future__ import annotations

import re

from ..report.quantities import milliseconds
from .comparison import median_ms
from .outcome import Outcome, change_of, interval_of, outcome_line, remarks, setting_of, title_of, verdict

_PUNCTUATION = re.compile(r"([\\`*_{}\[\]<>()#+!|~$@&])")
_MARKS = {"faster": "🟢 faster", "slower": "🔴 slower"}


def plain(text: str) -> str:
    r"""Text that Markdown shows as it is, in one line.

    >>> plain("a|b <i>")
    'a\\|b \\<i\\>'
    """
    one_line = " ".join(text.split())
    printable = "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in one_line)
    return _PUNCTUATION.sub(r"\\\1", printable)


def markdown(outcome: Outcome) -> str:
    """The comparison: a table with a row for each pair, and a list of what else changed."""
    lines = [
        f"### {plain(outcome.before)} → {plain(outcome.after)}",
        "",
        plain(outcome_line(outcome)) + ".",
        "",
        "| file | engine | before | after | change | 95 % interval | |",
        "|:--|:--|--:|--:|--:|--:|:--|",
    ]
    for each in outcome.comparisons:
        times = (milliseconds(median_ms(record)) for record in (each.before, each.after))
        word = verdict(each)
        cells = (title_of(each), setting_of(each), *times, change_of(each.ratio.value), interval_of(each))
        lines.append("| " + " | ".join(map(plain, cells)) + f" | {_MARKS.get(word, word)} |")
    told = [
        f"- **{plain(title_of(each))}**: {plain(remark)}"
        for each, found in zip(outcome.comparisons, outcome.checks, strict=True)
        for remark in remarks(each, found)
    ]
    told += [f"- {plain(line)}" for line in (*outcome.unmatched(), *outcome.notes)]
    return "\n".join([*lines, *(["", *told] if told else []), ""])
