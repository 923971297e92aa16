"""The task of classifiers: outputs (N, classes), and a class, an integer, for each of the N samples.

Other networks and labels would broadcast against each other to figures that mean nothing: both are checked here.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ...data.split import Split
from ...errors import InvalidInput
from ..difference import float_tensors
from ..reading import Reading
from ..scoring import score_of
from ..soft_targets import soft_target_loss
from ..task import Batch, Outputs, Task
from ..tensors import is_whole

SCORE = "top-1"
LABEL_SMOOTHING, TEMPERATURE = 0.0, 4.0
_OTHERWISE = "take the task outputs, which needs no labels"


def task(reading: Reading, label_smoothing: float = LABEL_SMOOTHING, temperature: float = TEMPERATURE) -> Task:
    """The task: cross-entropy, soft targets for a teacher, and the share of samples whose class comes first, in %."""

    def loss(outputs: Outputs, batch: Batch) -> Tensor:
        labels = _labels(reading, batch, "training")
        logits = logits_of(class_scores(outputs, labels, "training"))
        return cross_entropy(logits, labels.long(), label_smoothing=label_smoothing)

    def fits(outputs: Outputs, batch: Batch, where: str) -> None:
        labels = _labels(reading, batch, where)
        require_labels(labels, len(labels) if labels.ndim else 1, where)
        require_known(labels, _classes(outputs, where), where)
        if len(outputs) > 1:  # of one sample the labels may be those of a whole split
            class_scores(outputs, labels, where)

    return Task(
        name="classification",
        inputs=reading.inputs,
        loss=loss,
        match=partial(match, temperature=temperature),
        scores={SCORE: lambda: Top1(reading)},
        unit=" %",
        drawn=drawn,
        fits=fits,
        tuned=partial(task, reading),
        classes=lambda batch: _labels(reading, batch, "classes"),
    )


class Top1:
    """The share of samples whose class has the highest score, in percent; one with a NaN counts as wrong."""

    higher_is_better: bool | None = True

    def __init__(self, reading: Reading | None = None) -> None:
        self.reading = reading or Reading()
        self.reset()

    def reset(self) -> None:
        """Forget what was seen."""
        self.right = self.seen = 0

    def update(self, outputs: Outputs, batch: Batch) -> None:
        """See scores (N, classes) and a batch with N labels.

        Raises:
            InvalidInput: there are no labels, or scores and labels are of other kinds.
        """
        labels = _labels(self.reading, batch, "accuracy").cpu()
        scores = class_scores(outputs, labels, "accuracy").detach().cpu()
        self.right += int(((scores.argmax(1) == labels) & ~scores.isnan().any(1)).sum())
        self.seen += len(labels)

    def compute(self) -> float:
        """The percentage."""
        return 100.0 * self.right / max(1, self.seen)


def top1(model: nn.Module, split: Split, batch_size: int = 256) -> float:
    """The share of a labelled split that a classifier of one input gets right, in percent."""
    return score_of(task(Reading()), model, split, batch_size)


def takes(outputs: Outputs, labels: Any) -> bool:
    """Whether there is one output (N, classes) of two classes or more, and an integer for each of N labels."""
    if not isinstance(labels, Tensor) or not isinstance(outputs, Tensor) or not outputs.is_floating_point():
        return False
    return labels.ndim == 1 and is_whole(labels) and outputs.ndim == 2 and outputs.shape[1] > 1


def match(student: Outputs, teacher: Outputs, temperature: float = TEMPERATURE) -> Tensor:
    """The divergence of the softened student from the softened teacher; see :func:`soft_target_loss`.

    Raises:
        InvalidInput: their outputs differ in shape, or are not (N, classes).
    """
    if not isinstance(student, Tensor) or not isinstance(teacher, Tensor) or student.shape != teacher.shape:
        got = [tuple(x.shape) for x in (*float_tensors(student), *float_tensors(teacher))]
        raise InvalidInput(
            f"distillation: the student's logits have shape {got[0] if got else None}, the teacher's "
            f"{got[-1] if got else None}; give a teacher of the same classes"
        )
    return soft_target_loss(logits_of(student), logits_of(teacher), temperature)


def drawn(outputs: Outputs, generator: torch.Generator) -> Tensor:
    """The cross-entropy with labels drawn by the network's own probabilities, of (N, classes, ...).

    Raises:
        InvalidInput: the outputs are not of this shape.
    """
    if not isinstance(outputs, Tensor) or outputs.ndim < 2 or outputs.shape[1] < 2:
        got = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
        raise InvalidInput(f"expected a classifier that returns logits (N, classes), got {got}")
    probabilities = outputs.detach().double().cpu().softmax(1).movedim(1, -1)
    flat = probabilities.reshape(-1, probabilities.shape[-1])
    labels = torch.multinomial(flat, 1, generator=generator)
    return cross_entropy(outputs, labels.view(probabilities.shape[:-1]).to(outputs.device))


def logits_of(outputs: Tensor) -> Tensor:
    """``outputs`` (N, classes), or their logarithms where a network gives probabilities, as those that deploy often do.

    The logarithm of a softmax has the softmax of what it was taken of, at any temperature; a loss that took the softmax
    of probabilities would barely tell them apart.

    >>> logits_of(torch.tensor([[0.25, 0.75]])).softmax(1)
    tensor([[0.2500, 0.7500]])
    """
    with torch.no_grad():
        probable = bool((outputs >= 0).all()) and bool(((outputs.float().sum(1) - 1).abs() < 1e-2).all())
    return outputs.float().clamp_min(torch.finfo(torch.float32).tiny).log() if probable else outputs


def require_labels(labels: Tensor, samples: int, where: str) -> None:
    """Raise InvalidInput unless ``labels`` are ``samples`` integers of 0 or more; ``where`` begins the message."""
    if labels.shape != (samples,) or not is_whole(labels):
        kind = str(labels.dtype).removeprefix("torch.")
        raise InvalidInput(
            f"{where}: expected a class, an integer, for each of {samples} samples, got {kind} of the shape "
            f"{tuple(labels.shape)}; this is the task classification: give another (--task)"
        )
    if samples and int(labels.min()) < 0:
        raise InvalidInput(f"{where}: expected classes from 0 on, got {int(labels.min())}; leave such samples out")


def class_scores(outputs: Outputs, labels: Tensor, where: str) -> Tensor:
    """``outputs``, (N, classes), which have a class for each of the N ``labels``; raises InvalidInput."""
    require_labels(labels, len(labels) if labels.ndim else 1, where)
    if not isinstance(outputs, Tensor) or outputs.ndim != 2 or len(outputs) != len(labels):
        got = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
        raise InvalidInput(
            f"{where}: expected a classifier, whose output for {len(labels)} samples is ({len(labels)}, classes), and "
            f"the network gives {got}; {_OTHERWISE}"
        )
    require_known(labels, outputs.shape[1], where)
    return outputs


def require_known(labels: Tensor, classes: int, where: str) -> None:
    """Raise InvalidInput where a label is of more than ``classes``."""
    if len(labels) and int(labels.max()) >= classes:
        raise InvalidInput(
            f"{where}: labels go up to {int(labels.max())}, and the network has {classes} classes, 0 to {classes - 1}"
        )


def _classes(outputs: Outputs, where: str) -> int:
    if not isinstance(outputs, Tensor) or outputs.ndim != 2:
        got = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
        raise InvalidInput(
            f"{where}: expected a classifier, whose output is (N, classes), and the network gives {got}; {_OTHERWISE}"
        )
    return outputs.shape[1]


def _labels(reading: Reading, batch: Batch, where: str) -> Tensor:
    labels = reading.labels(batch)
    if isinstance(labels, list) and all(isinstance(label, int) for label in labels):
        return torch.tensor(labels)
    if not isinstance(labels, Tensor):
        got = "none" if labels is None else type(labels).__name__
        raise InvalidInput(f"{where} needs labels, a class for each sample, and the batch has {got}; {_OTHERWISE}")
    return labels
