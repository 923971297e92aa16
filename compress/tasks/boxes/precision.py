"""Average precision as COCO defines it, computed by faster-coco-eval."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..task import Batch, Outputs
from .reading import MOST_BOXES, Detections, Truth

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Seen:
    """An image: what was found in it, and what is there."""

    found: Detections
    there: Truth


class AveragePrecision:
    """The mean average precision over classes, in percent; where a score is NaN, the worst that there is.

    Lin et al., "Microsoft COCO: Common Objects in Context" (2014), and the evaluation that belongs to the data set: of
    at most 100 boxes per image, precision at 101 recalls, means over the classes that are there and over thresholds.

    Args:
        read: of outputs and a batch, what was found in each image and what is there.
        overlaps: the thresholds of intersection over union; left out, 0.5 to 0.95 in steps of 0.05.
    """

    higher_is_better: bool | None = True

    def __init__(self, read: Callable[[Outputs, Batch], Sequence[Seen]], overlaps: Sequence[float] = ()) -> None:
        self.read, self.overlaps = read, tuple(overlaps)
        self.reset()

    def reset(self) -> None:
        """Forget what was seen."""
        self.images: list[Seen] = []

    def update(self, outputs: Outputs, batch: Batch) -> None:
        """See the outputs for a batch."""
        self.images.extend(self.read(outputs, batch))

    def compute(self) -> float:
        """The percentage; NaN where no box is there to be found."""
        if any(bool(image.found.scores.isnan().any()) for image in self.images):
            return -math.inf
        if not any(len(image.there.labels) for image in self.images):
            return math.nan
        return 100 * _mean_average_precision(self.images, self.overlaps)


def _mean_average_precision(images: Sequence[Seen], overlaps: Sequence[float]) -> float:
    from faster_coco_eval import COCO, COCOeval_faster

    there = COCO(_data_set(images), print_function=_LOG.debug)
    rows = np.concatenate([_rows(number, image.found) for number, image in enumerate(images)])
    if not len(rows):
        return 0.0
    found = there.loadRes(rows)
    evaluation = COCOeval_faster(there, found, "bbox", print_function=_LOG.debug)
    evaluation.params.maxDets = [1, 10, MOST_BOXES]
    if overlaps:
        evaluation.params.iouThrs = np.array(overlaps)
    evaluation.evaluate()
    evaluation.accumulate()
    # (thresholds, recalls, classes, ranges of areas, numbers of boxes): all areas, the most boxes; -1 is of no box
    precision = evaluation.eval["precision"][:, :, :, 0, -1]
    return float(precision[precision > -1].mean())


def _data_set(images: Sequence[Seen]) -> dict[str, object]:
    """What is there, as a file of COCO has it: boxes as x, y, width, height."""
    annotations: list[dict[str, Any]] = []
    for number, image in enumerate(images):
        there = image.there
        for boxes, labels, crowd in ((there.boxes, there.labels, 0), (there.ignored, there.ignored_labels, 1)):
            for (x1, y1, x2, y2), label in zip(boxes.tolist(), labels.tolist(), strict=True):
                box = [x1, y1, x2 - x1, y2 - y1]
                place = {"image_id": number, "category_id": label, "bbox": box, "area": box[2] * box[3]}
                annotations.append({"id": len(annotations) + 1, **place, "iscrowd": crowd})
    classes = sorted({int(each["category_id"]) for each in annotations} | _classes_found(images))
    return {
        "info": {},
        "images": [{"id": number} for number in range(len(images))],
        "categories": [{"id": label, "name": str(label)} for label in classes],
        "annotations": annotations,
    }


def _classes_found(images: Sequence[Seen]) -> set[int]:
    return {int(label) for image in images for label in image.found.labels}


def _rows(number: int, found: Detections) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """What was found in an image, (n, 7): image, x, y, width, height, score, class."""
    boxes = found.boxes.double().numpy()
    sizes = boxes[:, 2:] - boxes[:, :2]
    columns = (np.full((len(boxes), 1), number), boxes[:, :2], sizes, found.scores[:, None], found.labels[:, None])
    return np.concatenate(columns, axis=1)
