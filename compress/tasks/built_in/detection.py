"""The task of finding objects: boxes with a class and a score each, in pixels of the network's input.

Labels are a list with a mapping for each image: ``boxes``, floats (n, 4) of x1, y1, x2, y2, and ``labels``, integers
(n,) from 0 on. What networks return is read by its shapes, see :mod:`compress.tasks.boxes.reading`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ...errors import InvalidInput
from ..boxes import losses
from ..boxes.precision import AveragePrecision, Seen
from ..boxes.reading import Dense, Detections, chosen_of, dense_of, require_classes, truths_of, unread
from ..difference import drawn_difference, relative_difference
from ..reading import Reading
from ..task import Batch, Outputs, Task

LEAST_SCORE = 0.01
MOST_OVERLAP = 0.6


def task(reading: Reading) -> Task:
    """The task, without a loss: training matches a teacher, or the network as it was; see :func:`detection`."""
    return _task(_Boxes(reading))


def detection(
    *,
    decode: Callable[[Outputs], Outputs] | None = None,
    loss: Callable[[Outputs, Batch], Tensor] | None = None,
    least_score: float = LEAST_SCORE,
    most_overlap: float = MOST_OVERLAP,
) -> Task:
    """The task of detectors, with what is special about yours; in a file of yours it is named ``--task net.py:task``.

    It scores mAP, the mean average precision of COCO in percent, and mAP50, that at an overlap of 0.5.

    Args:
        decode: of what the network returns, the same in a form that is known: a pair of boxes (N, A, 4) as x1, y1, x2,
            y2 in pixels of the input and scores (N, A, C); a tensor (N, 4 + C, A) of centre, size and scores; or for
            each image a mapping of ``boxes`` (n, 4), ``scores`` (n,) and ``labels`` (n,), which are final. Scores are
            probabilities, or where some are not between 0 and 1 their logits. Left out, the network returns one of
            these itself.
        loss: of outputs and a batch, a scalar, as :class:`compress.GridLoss`; left out, training matches the teacher,
            or the network as it was, and needs no labels.
        least_score: of boxes that are looked at, where the network has not chosen them.
        most_overlap: of two boxes of a class, as intersection over union; beyond it the one of less score goes.
    """
    return _task(_Boxes(Reading(), decode, least_score, most_overlap), loss)


def takes(outputs: Outputs, labels: Any) -> bool:
    """Whether there are boxes with scores, and a list with boxes and classes of each image."""
    try:
        truths_of(labels, "labels")
    except InvalidInput:
        return False
    return dense_of(outputs) is not None or chosen_of(outputs) is not None


@dataclass
class _Boxes:
    """Reads boxes out of outputs and batches; those of the last batch are kept for the next score."""

    reading: Reading
    decode: Callable[[Outputs], Outputs] | None = None
    least_score: float = LEAST_SCORE
    most_overlap: float = MOST_OVERLAP
    _last: tuple[Outputs, Batch, list[Seen]] | None = field(default=None, repr=False)

    def known(self, outputs: Outputs) -> Outputs:
        """The outputs in a form that is known."""
        return outputs if self.decode is None else self.decode(outputs)

    def dense(self, outputs: Outputs) -> Dense | None:
        """The boxes and scores of places, where the network gives them."""
        return dense_of(self.known(outputs))

    def found(self, outputs: Outputs, batch: Batch, where: str) -> list[Detections]:
        """What was found in each image of the batch.

        Raises:
            InvalidInput: the outputs have no form that is known, or are of other images.
        """
        known = self.known(outputs)
        images = self.reading.inputs(batch)[0]
        dense = dense_of(known)
        found = chosen_of(known) if dense is None else dense.detections(
            (images.shape[-2], images.shape[-1]), self.least_score, self.most_overlap
        )  # fmt: skip
        if found is None:
            raise unread(known, where)
        if len(found) != len(images):
            raise InvalidInput(
                f"{where}: expected boxes of {len(images)} images, got those of {len(found)}; a file whose boxes are "
                "chosen in it has to be run with an image at a time"
            )
        return found

    def seen(self, outputs: Outputs, batch: Batch) -> list[Seen]:
        """What was found, and what is there."""
        if self._last is None or self._last[0] is not outputs or self._last[1] is not batch:
            found = self.found(outputs, batch, "score")
            truths = truths_of(self.reading.labels(batch), "score", len(found))
            seen = [Seen(each, truth) for each, truth in zip(found, truths, strict=True)]
            self._last = (outputs, batch, seen)
        return self._last[2]

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_last": None}


def _task(boxes: _Boxes, loss: Callable[[Outputs, Batch], Tensor] | None = None) -> Task:
    return Task(
        name="detection",
        inputs=boxes.reading.inputs,
        loss=loss,
        match=partial(_match, boxes),
        scores={
            "mAP": lambda: AveragePrecision(boxes.seen),
            "mAP50": lambda: AveragePrecision(boxes.seen, (0.5,)),
        },
        unit=" %",
        drawn=partial(_drawn, boxes),
        fits=partial(_require, boxes),
        placed=True,
    )


def _match(boxes: _Boxes, student: Outputs, teacher: Outputs) -> Tensor:
    """By boxes and scores where the network gives them for places, else by each of its outputs alike."""
    mine, theirs = boxes.dense(student), boxes.dense(teacher)
    return relative_difference(student, teacher) if mine is None or theirs is None else losses.match(mine, theirs)


def _drawn(boxes: _Boxes, outputs: Outputs, generator: torch.Generator) -> Tensor:
    dense = boxes.dense(outputs)
    return drawn_difference(outputs, generator) if dense is None else losses.drawn(dense, generator)


def _require(boxes: _Boxes, outputs: Outputs, batch: Batch, where: str) -> None:
    boxes.found(outputs, batch, where)
    dense = boxes.dense(outputs)
    truths = truths_of(boxes.reading.labels(batch), where)  # of all images, beside the outputs for one
    if dense is not None:
        require_classes(truths, dense, where)
