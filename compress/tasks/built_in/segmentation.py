"""The task of telling what each pixel is of: outputs (N, classes, H, W), and a map (N, H, W) of classes as labels.

A pixel with the label 255 is of no class: it is neither trained on nor scored. Networks may return a mapping whose
``out`` is the output, as those of torchvision do.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import Tensor
from torch.nn.functional import cross_entropy

from ...data.masks import NO_CLASS
from ..labelled import Labelled
from ..metric import MetricScore
from ..reading import Reading
from ..soft_targets import soft_target_loss
from ..task import Batch, Outputs, Task
from ..tensors import is_whole, output_of, same_shape, unfit
from .classification import LABEL_SMOOTHING, TEMPERATURE, logits_of
from .classification import drawn as drawn_classes


def task(reading: Reading, label_smoothing: float = LABEL_SMOOTHING, temperature: float = TEMPERATURE) -> Task:
    """The task: cross-entropy of the pixels, soft targets for each, and the mean intersection over union, in %.

    The score (mIoU) is that of all pixels of a split, the mean over the classes that are there or are predicted.
    """

    labelled = Labelled(reading, _require)

    def loss(outputs: Outputs, batch: Batch) -> Tensor:
        logits, labels = labelled.pair(outputs, batch, "training")
        total = cross_entropy(
            logits_of(logits).float(),
            labels.long(),
            ignore_index=NO_CLASS,
            reduction="sum",
            label_smoothing=label_smoothing,
        )
        return total / (labels != NO_CLASS).sum().clamp_min(1)

    return Task(
        name="segmentation",
        inputs=reading.inputs,
        loss=loss,
        match=partial(match, temperature=temperature),
        scores={"mIoU": lambda: MetricScore(_metric, partial(_classes, labelled), factor=100.0)},
        unit=" %",
        drawn=lambda outputs, generator: drawn_classes(output_of(outputs, "drawn"), generator),
        fits=labelled.fits,
        tuned=partial(task, reading),
        placed=True,
    )


def takes(outputs: Outputs, labels: Any) -> bool:
    """Whether there is one output (N, classes, H, W) of two classes or more, and a map (N, H, W) of integers."""
    if not isinstance(labels, Tensor) or not isinstance(outputs, Tensor) or not outputs.is_floating_point():
        return False
    return _is_map(outputs, labels) and outputs.shape[1] > 1


def match(student: Outputs, teacher: Outputs, temperature: float = TEMPERATURE) -> Tensor:
    """The divergence of each pixel's softened classes from the teacher's, the mean over all pixels.

    Raises:
        InvalidInput: the outputs differ in shape.
    """
    mine, theirs = (logits_of(each).movedim(1, -1).flatten(0, -2) for each in same_shape(student, teacher))
    return soft_target_loss(mine, theirs, temperature)


def _classes(labelled: Labelled, outputs: Outputs, batch: Batch) -> tuple[Tensor, Tensor]:
    """Logits, and the labels of their pixels, on the CPU."""
    logits, labels = labelled.pair(outputs, batch, "score")
    return logits.detach().cpu(), labels.cpu().long()


def _metric(logits: Tensor) -> Any:
    from torchmetrics.classification import MulticlassJaccardIndex

    return MulticlassJaccardIndex(logits.shape[1], average="macro", ignore_index=NO_CLASS)


def _require(logits: Tensor, labels: Tensor, where: str) -> None:
    if not _is_map(logits, labels):
        expected = "the output (N, classes, H, W) and labels (N, H, W) of integers (segmentation)"
        raise unfit(where, expected, logits, labels)
    known = labels[labels != NO_CLASS]
    if known.numel() and not 0 <= int(known.min()) <= int(known.max()) < logits.shape[1]:
        classes = logits.shape[1]
        raise unfit(
            where,
            f"classes from 0 to {classes - 1}, as the network has {classes}, and {NO_CLASS} for pixels of none; labels "
            f"go from {int(known.min())} to {int(known.max())}",
            logits,
            labels,
        )


def _is_map(logits: Tensor, labels: Tensor) -> bool:
    return logits.ndim == 4 and labels.ndim == 3 and is_whole(labels) and labels.shape[1:] == logits.shape[2:]
