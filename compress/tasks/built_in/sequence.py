"""The task of reading a sequence, as of letters or sounds, that is not aligned with the steps of the network.

Outputs are logits (N, steps, symbols), where symbol 0 stands for nothing (the blank), and labels (N, length) are
symbols from 1 on, which end before the first value below 1.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import groupby

import torch
from torch import Tensor
from torch.nn.functional import ctc_loss

from ..labelled import Labelled
from ..reading import Reading
from ..soft_targets import soft_target_loss
from ..task import Batch, Outputs, Task
from ..tensors import is_whole, output_of, same_shape, unfit
from .classification import TEMPERATURE
from .classification import drawn as drawn_classes

BLANK = 0


def task(reading: Reading) -> Task:
    """The task: connectionist temporal classification, soft targets at each step, and the error rate, in %.

    The loss is that of Graves et al., "Connectionist temporal classification" (2006), the mean over samples of that of
    a symbol. The score is the number of symbols that are inserted, deleted and replaced over that of the labels, where
    the most probable symbol of each step is taken.
    """

    labelled = Labelled(reading, _require)

    def loss(outputs: Outputs, batch: Batch) -> Tensor:
        logits, labels = labelled.pair(outputs, batch, "training")
        steps = torch.full((len(logits),), logits.shape[1])
        logarithms = logits.float().log_softmax(2).transpose(0, 1)
        return ctc_loss(logarithms, labels.clamp_min(0).long(), steps, _lengths(labels), BLANK, zero_infinity=True)

    return Task(
        name="sequence",
        inputs=reading.inputs,
        loss=loss,
        match=match,
        scores={"error rate": lambda: ErrorRate(labelled)},
        unit=" %",
        drawn=lambda outputs, generator: drawn_classes(output_of(outputs, "drawn").transpose(1, 2), generator),
        fits=labelled.fits,
        placed=True,
    )


def match(student: Outputs, teacher: Outputs) -> Tensor:
    """The divergence of each step's softened symbols from the teacher's, the mean over all steps.

    Raises:
        InvalidInput: the outputs differ in shape.
    """
    mine, theirs = same_shape(student, teacher)
    return soft_target_loss(mine.flatten(0, -2), theirs.flatten(0, -2), TEMPERATURE)


class ErrorRate:
    """The symbols that are wrong over those that there are, in percent; where an output is NaN, infinite."""

    higher_is_better: bool | None = False

    def __init__(self, labelled: Labelled) -> None:
        from torchmetrics.text import CharErrorRate

        self.labelled, self.metric = labelled, CharErrorRate()
        self.reset()

    def reset(self) -> None:
        """Forget what was seen."""
        self.metric.reset()
        self.samples, self.undefined = 0, False

    def update(self, outputs: Outputs, batch: Batch) -> None:
        """See logits (N, steps, symbols) and labels (N, length)."""
        logits, labels = (each.detach().cpu() for each in self.labelled.pair(outputs, batch, "score"))
        self.undefined |= bool(logits.isnan().any())
        best = ([symbol for symbol, _ in groupby(steps)] for steps in logits.argmax(2).tolist())
        ends = _lengths(labels).tolist()
        truths = [row[:end] for row, end in zip(labels.tolist(), ends, strict=True)]
        self.metric.update([_text(x for x in row if x != BLANK) for row in best], [_text(row) for row in truths])
        self.samples += len(logits)

    def compute(self) -> float:
        """The percentage; NaN where nothing was seen."""
        if self.undefined:
            return math.inf
        return 100 * float(self.metric.compute()) if self.samples else math.nan


def _text(symbols: Iterable[int]) -> str:
    """Symbols as characters, each its own."""
    return "".join(map(chr, symbols))


def _lengths(labels: Tensor) -> Tensor:
    """Of each row, (N,): how many symbols come before the first that is none."""
    return (labels > BLANK).long().cumprod(1).sum(1)


def _require(logits: Tensor, labels: Tensor, where: str) -> None:
    expected = "the output (N, steps, symbols) and labels (N, length) of integers (sequence)"
    if logits.ndim != 3 or labels.ndim != 2 or not is_whole(labels):
        raise unfit(where, expected, logits, labels)
    if int(labels.max()) >= logits.shape[2]:
        raise unfit(where, f"{expected}; symbols go up to {int(labels.max())}", logits, labels)
    longest = int(_lengths(labels).max())
    if longest > logits.shape[1]:
        raise unfit(where, f"{expected}, no longer than there are steps; the longest has {longest}", logits, labels)
