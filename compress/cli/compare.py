"""compress compare"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .grammar import options

if TYPE_CHECKING:
    from ..compare.outcome import Outcome
    from ..compare.pairing import Matching

JUDGING, WRITING = "What may change", "Files"


@options.command("compare", short_help="Hold two measurements against each other, with intervals and limits.")
@click.argument("files", nargs=-1, type=options.PATH)
@options.option(
    "--log", common=True, type=options.PATH, help="A log of measurements to choose from, as bench --log has."
)
@options.option(
    "--baseline",
    common=True,
    metavar="NAME|DATE",
    help="With --log, a label, or a date, as 2026-03-14, for what was the newest then. With one file, the measurement "
    "in it that the others are compared with.",
)
@options.option(
    "--max-slowdown", group=JUDGING, common=True, type=options.Percent(0, 1e6), help="Of the median latency, as 5%."
)
@options.option("--max-growth", group=JUDGING, common=True, type=options.Percent(0, 1e6), help="Of the file, as 2%.")
@options.option("--max-memory-growth", group=JUDGING, type=options.Percent(0, 1e6), help="Of the peak memory, as 10%.")
@options.option(
    "--max-loss", group=JUDGING, common=True, type=options.Finite(0, 100), help="Of top-1 accuracy, in points, as 0.5."
)
@options.option(
    "--strict",
    group=JUDGING,
    common=True,
    is_flag=True,
    help="Exit with 5 where a measurement is not to be trusted, or a limit cannot be decided.",
)
@options.option(
    "--across", group=JUDGING, is_flag=True, help="Tell times of different devices or numbers of threads, marked."
)
@options.option("--markdown", group=WRITING, common=True, type=options.PATH, help="Write the comparison as Markdown.")
@options.option("--junit", group=WRITING, common=True, type=options.PATH, help="Write the limits as JUnit XML.")
@options.telling
def command(
    files: tuple[Path, ...],
    log: Path | None,
    baseline: str | None,
    max_slowdown: float | None,
    max_growth: float | None,
    max_memory_growth: float | None,
    max_loss: float | None,
    strict: bool,
    across: bool,
    markdown: Path | None,
    junit: Path | None,
    **values: Any,
) -> None:
    """Compare measurements: of two files, of one file with several, or of a log; times with 95 % intervals.

    A file is what bench -o, python -m runtimes or a run wrote. What one bench timed in turn is compared round by round.
    Exit code 1 where a limit is broken, and 5 under --strict where the measurements do not bear a decision.

    \b
    Example:
      compress bench old.onnx new.onnx -o both.json
      compress compare both.json --max-slowdown 5%
      compress compare main.json branch.json --max-loss 0.5 --markdown summary.md --junit compare.xml
      compress compare --log measurements.jsonl --baseline main
    """
    from rich.text import Text

    from ..compare.junit import junit as as_junit
    from ..compare.limits import Limits
    from ..compare.markdown import markdown as as_markdown
    from ..compare.outcome import compared
    from ..files.outputs import write_text
    from .output.compare_table import compare_table, lines
    from .session import Options

    call = Options(**values)
    call.claim_file("--markdown", markdown, (*files, log, junit))
    call.claim_file("--junit", junit, (*files, log))
    sides, matching, notes = _matching(files, log, baseline)
    limits = Limits(max_slowdown, max_growth, max_memory_growth, max_loss)
    outcome = compared(matching, sides, limits, strict=strict, across=across, notes=notes)
    call.console.print(compare_table(outcome))
    for line in lines(outcome):
        call.console.print(Text(line))
    for place, text in ((markdown, as_markdown), (junit, as_junit)):
        if place is not None:
            write_text(place, text(outcome), overwrite=call.overwrite)
    call.tell(outcome.to_json())
    _judge(outcome, strict)


def _matching(
    files: tuple[Path, ...], log: Path | None, baseline: str | None
) -> tuple[tuple[str, str], Matching, tuple[str, ...]]:
    """What the two sides are called, the measurements of both in pairs, and what is to be said of them."""
    from ..compare.pairing import against_one, matched
    from ..compare.read import read
    from ..errors import InvalidInput

    if log is not None:
        return _of_log(files, log, baseline)
    if not 1 <= len(files) <= 2:
        raise InvalidInput(f"compare: expected one or two files with measurements, got {len(files)}; or give --log")
    if len(files) == 1:
        matching = against_one(read(files[0]), baseline)
        return (matching.pairs[0][0].name, files[0].name), matching, ()
    if baseline is not None:
        raise InvalidInput("--baseline: of two files the first is the baseline; leave it out")
    before, after = map(read, files)
    return (str(files[0]), str(files[1])), matched(before, after), ()


def _of_log(
    files: tuple[Path, ...], log: Path, baseline: str | None
) -> tuple[tuple[str, str], Matching, tuple[str, ...]]:
    """The measurements of a file, or else the newest of the log, against a baseline of the log."""
    from ..compare.log import read_log
    from ..compare.pairing import matched
    from ..compare.read import read
    from ..errors import InvalidInput

    if baseline is None:
        raise InvalidInput("--log: it needs a baseline; add --baseline LABEL, or a date, as --baseline 2026-03-14")
    if len(files) > 1:
        raise InvalidInput(f"compare: expected one file beside --log, got {len(files)}")
    content = read_log(log)
    chosen = content.baseline(baseline)
    after = read(files[0]) if files else content.records(content.since(chosen))
    if not after:
        raise InvalidInput(f"--log {log}: it has no measurement that is newer than the baseline {baseline}")
    notes = tuple(f"line {number} of {log} is torn, and left out" for number in content.torn)
    sides = (baseline, str(files[0]) if files else "the newest")
    return sides, matched(content.records(chosen), after), notes


def _judge(outcome: Outcome, strict: bool) -> None:
    """Raise what the comparison ends with: a broken limit, or measurements that bear no decision."""
    from ..compare.outcome import title_of
    from ..errors import GateFailed
    from ..siblings import runtimes

    if outcome.broken:
        total = sum(map(len, outcome.checks))
        told = "; ".join(f"{title_of(each)}: {check.words}" for each, check in outcome.broken)
        raise GateFailed(f"compare: {len(outcome.broken)} of {total} limits broken: {told}")
    doubts = [f"{title_of(each)}: {reason}" for each, reason in outcome.invalid]
    doubts += [f"{title_of(each)}: {check.words}" for each, check in outcome.undecided]
    if strict and doubts:
        raise runtimes.errors.InvalidMeasurement(
            f"compare: the measurements bear no decision: {'; '.join(doubts)}; measure again"
        )
