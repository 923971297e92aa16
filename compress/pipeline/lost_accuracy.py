"""A stage that loses most of a network's accuracy says so, and what to do about it."""

from __future__ import annotations

from ..tasks.record import ScoreRecord

MOST = 0.5
"""Of what a network has over guessing: a stage that takes more than this is warned of."""

LEAST = 5.0
"""Points over guessing below which there is nothing to lose."""


def warning(
    name: str, stage: object, before: ScoreRecord | None, after: ScoreRecord | None, classes: int
) -> str | None:
    """One line on the accuracy that the stage ``name`` lost, with the remedy; None where most is left.

    Args:
        stage: its configuration; where it has a ``remedy``, these words are told.
        before: the validation score; scores that are no percentages are not judged.
        after: likewise.
        classes: of the data; 0 where they are not known.

    >>> from functools import partial
    >>> top1 = partial(ScoreRecord, name="top-1", unit=" %")
    >>> warning("prune", object(), top1(value=95.1), top1(value=12.5), 10)
    'prune: validation top-1 fell from 95.10 to 12.50 %: fine-tune the network (training, --epochs), or ask for less'
    >>> warning("prune", object(), top1(value=95.1), top1(value=90.0), 10)
    """
    if before is None or after is None or before.unit.strip() != "%" or not before.higher_is_better:
        return None
    guessed = 100.0 / classes if classes else 0.0
    if before.value - guessed < LEAST or before.value - after.value <= MOST * (before.value - guessed):
        return None
    own = getattr(stage, "remedy", None)
    training = next((getattr(stage, name) for name in ("training", "train") if hasattr(stage, name)), stage)
    trained = getattr(training, "epochs", 0)
    usual = "train longer (--epochs), or ask for less" if trained else None
    remedy = own or usual or "fine-tune the network (training, --epochs), or ask for less"
    return f"{name}: validation {before.name} fell from {before.value:.2f} to {after}: {remedy}"
