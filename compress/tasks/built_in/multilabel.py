"""The task of several labels at once: outputs (N, labels), logits, and for each sample and label whether it holds."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from ..labelled import Labelled
from ..metric import MetricScore
from ..reading import Reading
from ..task import Batch, Outputs, Task
from ..tensors import output_of, same_shape, unfit
from .classification import LABEL_SMOOTHING, TEMPERATURE


def task(reading: Reading, label_smoothing: float = LABEL_SMOOTHING, temperature: float = TEMPERATURE) -> Task:
    """The task: the binary cross-entropy of each label, soft targets for a teacher, and two scores, in %.

    ``mAP`` is the mean over the labels of the average precision, of labels that hold for a sample at least; ``F1`` the
    mean over the labels where a probability of a half decides.
    """
    labelled = Labelled(reading, _require)
    pair = partial(_scored, labelled)

    def loss(outputs: Outputs, batch: Batch) -> Tensor:
        logits, labels = labelled.pair(outputs, batch, "training")
        targets = labels.float() * (1 - label_smoothing) + label_smoothing / 2
        return binary_cross_entropy_with_logits(logits.float(), targets)

    return Task(
        name="multilabel",
        inputs=reading.inputs,
        loss=loss,
        match=partial(match, temperature=temperature),
        scores={
            "mAP": lambda: MetricScore(_average_precision, pair, factor=100.0),
            "F1": lambda: MetricScore(_f1, pair, factor=100.0),
        },
        unit=" %",
        drawn=drawn,
        fits=labelled.fits,
        tuned=partial(task, reading),
    )


def match(student: Outputs, teacher: Outputs, temperature: float = TEMPERATURE) -> Tensor:
    """The divergence of each softened probability from the teacher's, the sum over labels, the mean over samples.

    As for classes it has the factor ``T^2``; see :func:`compress.tasks.soft_targets.soft_target_loss`.

    Raises:
        InvalidInput: the outputs differ in shape.
    """
    mine, theirs = (each.float() / temperature for each in same_shape(student, teacher))
    targets = theirs.sigmoid()
    cross = binary_cross_entropy_with_logits(mine, targets, reduction="sum")
    entropy = binary_cross_entropy_with_logits(theirs, targets, reduction="sum")
    return (cross - entropy) / len(mine) * temperature**2


def drawn(outputs: Outputs, generator: torch.Generator) -> Tensor:
    """The loss for labels drawn by the network's own probabilities."""
    logits = output_of(outputs, "drawn")
    labels = torch.bernoulli(logits.detach().float().cpu().sigmoid(), generator=generator)
    return binary_cross_entropy_with_logits(logits, labels.to(logits))


def _scored(labelled: Labelled, outputs: Outputs, batch: Batch) -> tuple[Tensor, Tensor]:
    """Probabilities and labels, on the CPU."""
    logits, labels = labelled.pair(outputs, batch, "score")
    return logits.detach().cpu().float().sigmoid(), labels.cpu().long()


def _average_precision(probabilities: Tensor) -> Any:
    from torchmetrics.classification import MultilabelAveragePrecision

    return MultilabelAveragePrecision(probabilities.shape[1], average="macro")


def _f1(probabilities: Tensor) -> Any:
    from torchmetrics.classification import MultilabelF1Score

    return MultilabelF1Score(probabilities.shape[1], average="macro")


def _require(logits: Tensor, labels: Tensor, where: str) -> None:
    expected = "the output (N, labels) and labels of the same shape, 0 or 1 each (multilabel)"
    if logits.ndim != 2 or labels.ndim != 2 or logits.shape[1] != labels.shape[1]:
        raise unfit(where, expected, logits, labels)
    if not bool(((labels == 0) | (labels == 1)).all()):
        raise unfit(where, f"{expected}; they go from {labels.min():g} to {labels.max():g}", logits, labels)
