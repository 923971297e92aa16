"""The task of finding points: outputs (N, points, 2), or (N, 2 * points), and where they are, (N, points, 2 or 3).

The third value of a label, where there is one, is 0 for a point that is not labelled, as in COCO; it counts nowhere.
"""

from __future__ import annotations

from torch import Tensor
from torch.linalg import vector_norm

from ..labelled import Labelled
from ..mean import MeanScore
from ..reading import Reading
from ..task import Batch, Outputs, Task
from ..tensors import same_shape, unfit


def task(reading: Reading) -> Task:
    """The task: the normalized mean error, as loss to labels and to a teacher and, in percent, as score (NME).

    It is the mean distance of a sample's points from their labels, over the diagonal of the box around the labels: one
    that does not depend on how large the thing is, nor on the unit of coordinates. Samples whose labels lie in one
    point have none.
    """

    labelled = Labelled(reading, _require)

    def loss(outputs: Outputs, batch: Batch) -> Tensor:
        return _mean(_errors(*_pair(labelled, outputs, batch, "training")))

    def percent(outputs: Outputs, batch: Batch) -> Tensor:
        return 100 * _errors(*_pair(labelled, outputs, batch, "score"))

    return Task(
        name="keypoints",
        inputs=reading.inputs,
        loss=loss,
        match=match,
        scores={"NME": lambda: MeanScore(percent, higher_is_better=False)},
        unit=" %",
        fits=labelled.fits,
        placed=True,
    )


def match(student: Outputs, teacher: Outputs) -> Tensor:
    """The mean over samples of the distance of points to the teacher's, over the diagonal of the box around those.

    Raises:
        InvalidInput: the outputs differ in shape.
    """
    mine, theirs = (each.reshape(len(each), -1, 2) for each in same_shape(student, teacher))
    return _mean(_errors(mine, theirs))


def _pair(labelled: Labelled, outputs: Outputs, batch: Batch, where: str) -> tuple[Tensor, Tensor]:
    """Points (N, points, 2) and labels (N, points, 2 or 3), where the points lie."""
    output, labels = labelled.pair(outputs, batch, where)
    return output.reshape(*labels.shape[:2], 2), labels.to(output.device)


def _mean(errors: Tensor) -> Tensor:
    return errors.sum() / max(1, len(errors))


def _errors(output: Tensor, labels: Tensor) -> Tensor:
    """The normalized mean error of each sample that has one."""
    labels = labels.float()
    points, seen = labels[..., :2], labels[..., 2:].ne(0).all(-1)
    least = points.masked_fill(~seen[..., None], float("inf")).amin(1)
    most = points.masked_fill(~seen[..., None], float("-inf")).amax(1)
    diagonals = vector_norm(most - least, dim=-1)
    valid = seen.any(1) & (diagonals > 0)
    distances = vector_norm(output.float() - points, dim=-1) * seen
    errors: Tensor = distances[valid].sum(1) / seen[valid].sum(1) / diagonals[valid]
    return errors


def _require(output: Tensor, labels: Tensor, where: str) -> None:
    fine = output.ndim in (2, 3) and labels.ndim == 3 and labels.shape[1] > 1 and labels.shape[2] in (2, 3)
    if not fine or output.shape[1:] not in ((labels.shape[1], 2), (2 * labels.shape[1],)):
        expected = "the output (N, points, 2) and labels (N, points, 2 or 3), of two points at least (keypoints)"
        raise unfit(where, expected, output, labels)
