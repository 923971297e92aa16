"""The task of telling numbers: outputs and labels of as many numbers for each sample."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import Tensor
from torch.nn.functional import smooth_l1_loss

from ..labelled import Labelled
from ..metric import MetricScore
from ..reading import Reading
from ..task import Batch, Outputs, Task
from ..tensors import same_shape, unfit


def task(reading: Reading) -> Task:
    """The task: the smooth L1 loss, to labels and to a teacher, and two scores.

    ``R2`` is the share of the labels' variance that is told, in percent, the mean over the numbers of a sample; ``MAE``
    the mean absolute error, in the unit of the labels.
    """
    labelled = Labelled(reading, _require)
    pair = partial(_scored, labelled)

    def loss(outputs: Outputs, batch: Batch) -> Tensor:
        return smooth_l1_loss(*_pair(labelled, outputs, batch, "training"))

    return Task(
        name="regression",
        inputs=reading.inputs,
        loss=loss,
        match=lambda student, teacher: smooth_l1_loss(*same_shape(student, teacher)),
        scores={
            "R2": lambda: MetricScore(lambda _: _explained(), pair, factor=100.0, fewest=2),
            "MAE": lambda: MetricScore(lambda _: _absolute(), pair, higher_is_better=False),
        },
        unit=" %",
        fits=labelled.fits,
        placed=True,
    )


def _pair(labelled: Labelled, outputs: Outputs, batch: Batch, where: str) -> tuple[Tensor, Tensor]:
    """Predictions and labels, (N, numbers) each."""
    output, labels = labelled.pair(outputs, batch, where)
    return output.float().reshape(len(output), -1), labels.float().reshape(len(labels), -1)


def _scored(labelled: Labelled, outputs: Outputs, batch: Batch) -> tuple[Tensor, Tensor]:
    """Predictions and labels, on the CPU, in a precision in which sums of squares keep their differences."""
    predictions, labels = _pair(labelled, outputs, batch, "score")
    return predictions.detach().cpu().double(), labels.cpu().double()


def _explained() -> Any:
    from torchmetrics.regression import R2Score

    return R2Score()


def _absolute() -> Any:
    from torchmetrics.regression import MeanAbsoluteError

    return MeanAbsoluteError()


def _require(output: Tensor, labels: Tensor, where: str) -> None:
    if not output.ndim or not labels.ndim or output[:1].numel() != labels[:1].numel():
        raise unfit(where, "as many numbers in the output as in the labels of a sample (regression)", output, labels)
