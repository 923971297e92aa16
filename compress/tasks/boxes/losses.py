"""How far boxes and scores of places are from where they should be."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from ...errors import InvalidInput
from ..reading import Reading
from ..task import Batch, Outputs
from .geometry import areas, generalized_overlap, overlap
from .reading import Dense, dense_of, require_classes, truths_of, unread

BOX_WEIGHT = 2.0
"""Of boxes beside scores, as in Li et al., "Generalized Focal Loss" (2020), section 4."""


def quality_focal_loss(logits: Tensor, qualities: Tensor, beta: float = 2.0) -> Tensor:
    """The loss of each score, of the shape of ``logits``, towards a quality from 0 to 1.

    Li et al., "Generalized Focal Loss" (2020), equation 5: the binary cross-entropy times the distance of the
    probability from the quality to the power of ``beta``, so that the many scores of nothing, which are easy, do not
    drown the few of objects.
    """
    distances = (qualities - logits.sigmoid()).abs().pow(beta)
    return distances * binary_cross_entropy_with_logits(logits, qualities, reduction="none")


def match(student: Dense, teacher: Dense) -> Tensor:
    """How far boxes and scores are from a teacher's, a scalar that is 0 where they are the same.

    Scores are drawn to the teacher's probabilities by :func:`quality_focal_loss`, boxes to the teacher's by what their
    generalized intersection over union lacks of 1. A place counts by the square of the teacher's highest probability
    there: thousands of places that show nothing weigh less than one object.

    Raises:
        InvalidInput: they are of other shapes.
    """
    if student.boxes.shape != teacher.boxes.shape or student.scores.shape != teacher.scores.shape:
        shapes = [f"{tuple(each.boxes.shape)} and {tuple(each.scores.shape)}" for each in (student, teacher)]
        raise InvalidInput(
            f"match: expected boxes and scores of the same shapes, got {shapes[0]}, and the teacher's {shapes[1]}; "
            "give a teacher of the same outputs"
        )
    qualities = teacher.probabilities.detach()
    weights = _weights(qualities)
    total = weights.sum().clamp_min(1)
    lacking = 1 - generalized_overlap(student.boxes.float(), teacher.boxes.detach().float())
    scores = quality_focal_loss(student.logits, qualities).sum()
    return (scores + BOX_WEIGHT * (weights * lacking).sum()) / total


def drawn(outputs: Dense, generator: torch.Generator) -> Tensor:
    """The loss for targets drawn from the network's own prediction: a scalar whose gradient has the mean 0.

    Classes are drawn by their probabilities; boxes lie around those that there are by normal noise of their size.
    """
    probabilities, boxes = outputs.probabilities.detach(), outputs.boxes.float()
    weights = _weights(probabilities)
    labels = torch.bernoulli(probabilities.cpu(), generator=generator).to(probabilities)
    noise = torch.randn(boxes.shape, generator=generator).to(boxes)
    sizes = (boxes[..., 2:] - boxes[..., :2]).detach().abs().clamp_min(1).repeat_interleave(2, -1)
    scores = binary_cross_entropy_with_logits(outputs.logits, labels, reduction="sum")
    return (scores + (weights.sqrt()[..., None] * noise * boxes / sizes).sum()) / weights.sum().clamp_min(1)


def _weights(probabilities: Tensor) -> Tensor:
    """How much the box of each place counts, (N, A)."""
    return probabilities.amax(-1).square()


@dataclass(frozen=True)
class GridLoss:
    """The loss of a network that gives a box for each point of some grids: the loss of a detector without anchors.

    Which points are to find which object is as in Tian et al., "FCOS: Fully Convolutional One-Stage Object Detection"
    (2019), section 3.2: those inside of its box and near its centre, on the grid that is for its size, the smallest
    object where there are several. Their score is to be the overlap of their box with the object's, all others 0
    (:func:`quality_focal_loss`), and boxes are drawn to the object's by their generalized intersection over union.

    Args:
        strides: pixels from point to point, of each grid; points are in the middle of cells, row by row.
        radius: how far from the centre of an object points may lie, in strides.
        span: the farthest side of a box that a grid but the last one is for, in strides; the first is for the smallest.
    """

    strides: tuple[int, ...] = (8, 16, 32)
    radius: float = 1.5
    span: float = 4.0

    def __call__(self, outputs: Outputs, batch: Batch) -> Tensor:
        """The loss, a scalar, of a batch ``(images, targets)``; over the number of points that have an object.

        Raises:
            InvalidInput: the outputs are not for these grids, or the batch has other labels.
        """
        dense = dense_of(outputs)
        if dense is None:
            raise unread(outputs, "training")
        reading = Reading()
        (images,) = reading.inputs(batch)
        grid = self.grid(images.shape[-2], images.shape[-1])
        if len(grid) != dense.boxes.shape[1]:
            raise InvalidInput(
                f"training: expected a box for each of {len(grid)} points, as grids with strides of "
                f"{', '.join(map(str, self.strides))} pixels have in {images.shape[-1]}x{images.shape[-2]}, got "
                f"{dense.boxes.shape[1]}; give GridLoss the strides of the network, or a loss of your own"
            )
        grid = grid.to(dense.boxes.device)
        truths = truths_of(reading.labels(batch), "training", len(images))
        require_classes(truths, dense, "training")
        losses, count = dense.boxes.new_zeros(()), 0
        for boxes, logits, truth in zip(dense.boxes.float(), dense.logits, truths, strict=True):
            wanted, labels = truth.boxes.to(boxes), truth.labels.to(boxes.device)
            points, objects = self.assigned(grid, wanted)
            mine, theirs, classes = boxes[points], wanted[objects], labels[objects]
            qualities = torch.zeros_like(logits)
            qualities[points, classes] = overlap(mine, theirs).detach()
            losses = losses + quality_focal_loss(logits, qualities).sum()
            losses = losses + BOX_WEIGHT * (1 - generalized_overlap(mine, theirs)).sum()
            count += len(points)
        return losses / max(1, count)

    def grid(self, height: int, width: int) -> Tensor:
        """Of each point its x, its y, its stride, and the least and farthest side that its grid is for, (A, 5)."""
        rows, least = [], 0.0
        for stride in self.strides:
            y, x = ((torch.arange(-(-side // stride)) + 0.5) * stride for side in (height, width))
            farthest = torch.inf if stride == self.strides[-1] else self.span * stride
            columns = torch.meshgrid(y, x, indexing="ij")
            told = [torch.full_like(columns[0], each) for each in (stride, least, farthest)]
            rows.append(torch.stack([columns[1], columns[0], *told], -1).flatten(0, 1))
            least = farthest
        return torch.cat(rows)

    def assigned(self, grid: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """The positions of points that are to find an object, and which of ``boxes`` (n, 4) each is to find."""
        if not len(boxes):
            none = torch.zeros(0, dtype=torch.long, device=grid.device)
            return none, none
        points, stride, least, farthest = grid[:, None, :2], grid[:, 2:3], grid[:, 3:4], grid[:, 4:5]
        sides = torch.cat([points - boxes[None, :, :2], boxes[None, :, 2:] - points], -1)  # (A, n, 4)
        distances = (points - (boxes[:, :2] + boxes[:, 2:]) / 2).abs().amax(-1)
        longest = sides.amax(-1)
        fits = (sides.amin(-1) > 0) & (distances <= self.radius * stride) & (longest > least) & (longest <= farthest)
        sizes = areas(boxes)[None].expand_as(fits).masked_fill(~fits, torch.inf)
        smallest, which = sizes.min(1)
        found = smallest.isfinite().nonzero().squeeze(1)
        return found, which[found]
