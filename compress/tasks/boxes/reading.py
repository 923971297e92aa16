"""What detectors return, and what their labels are: boxes in pixels of the network's input.

A network gives a box and scores for each of many places, or boxes that it has chosen itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ...data.boxes import IGNORED
from ...errors import InvalidInput
from ..task import Outputs
from ..tensors import kind_of
from .geometry import of_centres
from .suppression import suppress

MOST_BOXES = 100
"""Of an image that count, as in COCO."""
MOST_CANDIDATES = 1000
"""Of an image, the highest scores, that suppression looks at."""
SMALLEST_PROBABILITY = 1e-6
_PARTS = ("boxes", "scores", "labels")
FORMS = (
    "a pair (boxes (N, A, 4) as x1 y1 x2 y2, scores (N, A, C)), a tensor (N, 4 + C, A) of cx cy w h and scores with "
    "more places A than numbers, or a mapping of boxes, scores and labels for each image"
)


@dataclass(frozen=True)
class Detections:
    """Boxes of an image: (n, 4) as x1, y1, x2, y2, their scores (n,) and classes (n,)."""

    boxes: Tensor
    scores: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Dense:
    """A box and scores for each of A places: boxes (N, A, 4) as x1, y1, x2, y2, and scores (N, A, C).

    Scores that all lie between 0 and 1 are probabilities, others are their logits.
    """

    boxes: Tensor
    scores: Tensor

    @cached_property
    def are_probabilities(self) -> bool:
        with torch.no_grad():
            return bool(((self.scores >= 0) & (self.scores <= 1)).all())

    @property
    def probabilities(self) -> Tensor:
        return self.scores.float() if self.are_probabilities else self.scores.float().sigmoid()

    @property
    def logits(self) -> Tensor:
        return self.scores.float().logit(SMALLEST_PROBABILITY) if self.are_probabilities else self.scores.float()

    def detections(self, size: tuple[int, int], least_score: float, most_overlap: float) -> list[Detections]:
        """The boxes of each image, cut off where the image of ``size`` (height, width) ends.

        Each class of each place is a candidate. Those above ``least_score`` are kept, and of two that overlap by more
        than ``most_overlap`` the one with the higher score. Where there is a NaN, an image has one box of score NaN.
        """
        height, width = size
        corner = torch.tensor([width, height, width, height])
        found = []
        for boxes, scores in zip(self.boxes.float(), self.probabilities, strict=True):
            if bool(scores.isnan().any()) or bool(boxes.isnan().any()):
                found.append(Detections(torch.zeros(1, 4), torch.tensor([torch.nan]), torch.zeros(1, dtype=torch.long)))
                continue
            best, which = scores.flatten().topk(min(MOST_CANDIDATES, scores.numel()))
            which = which[best > least_score]
            places, labels = which // scores.shape[1], which % scores.shape[1]
            cut = torch.minimum(boxes[places].clamp_min(0), corner)
            kept = suppress(cut, scores.flatten()[which], labels, most_overlap)[:MOST_BOXES]
            found.append(Detections(cut[kept], scores.flatten()[which][kept], labels[kept]))
        return found


def dense_of(outputs: Outputs) -> Dense | None:
    """The boxes and scores of places, where the outputs have one of the forms that say by their shapes which they are.

    >>> dense_of(torch.zeros(2, 7, 100)).scores.shape
    torch.Size([2, 100, 3])
    >>> dense_of(torch.zeros(2, 100, 7)) is None
    True
    """
    if isinstance(outputs, Mapping) and set(outputs) == {"boxes", "scores"}:
        outputs = (outputs["boxes"], outputs["scores"])
    if isinstance(outputs, (tuple, list)) and len(outputs) == 1:
        outputs = outputs[0]
    if _is_floats(outputs):
        if not 4 < outputs.shape[1] < outputs.shape[2]:
            return None
        places = outputs.transpose(1, 2)
        return Dense(of_centres(places[..., :4]), places[..., 4:])
    if not isinstance(outputs, (tuple, list)) or len(outputs) != 2 or not all(map(_is_floats, outputs)):
        return None
    boxes, scores = outputs
    return Dense(boxes, scores) if boxes.shape[2] == 4 and boxes.shape[:2] == scores.shape[:2] else None


def chosen_of(outputs: Outputs) -> list[Detections] | None:
    """The boxes of each image where the network chose them; None where it gives something else.

    A file gives those of one image as three tensors, of which shapes and types tell which is which.
    """
    if isinstance(outputs, Mapping):
        outputs = [outputs]
    if not isinstance(outputs, (tuple, list)) or not outputs:
        return None
    if all(isinstance(each, Mapping) and set(_PARTS) <= set(each) for each in outputs):
        found = [Detections(*(each[part] for part in _PARTS)) for each in outputs]
    elif len(outputs) == 3 and all(isinstance(each, Tensor) for each in outputs):
        boxes = [each for each in outputs if each.ndim == 2 and each.is_floating_point()]
        scores = [each for each in outputs if each.ndim == 1 and each.is_floating_point()]
        labels = [each for each in outputs if each.ndim == 1 and not each.is_floating_point()]
        if not len(boxes) == len(scores) == len(labels) == 1:
            return None
        found = [Detections(boxes[0], scores[0], labels[0])]
    else:
        return None
    return [_best(each) for each in found] if all(map(_is_whole, found)) else None


def unread(outputs: Outputs, where: str) -> InvalidInput:
    """The error that outputs have no form that is known; ``where`` begins the message."""
    return InvalidInput(
        f"{where}: expected {FORMS} (detection), got {_forms(outputs)}; give a task of your own, "
        "compress.detection(decode=...), whose function turns what the network returns into one of these"
    )


@dataclass(frozen=True)
class Truth:
    """What is there in an image: boxes (n, 4) as x1, y1, x2, y2 and their classes (n,).

    Args:
        ignored: boxes (k, 4) of crowds and of what is too difficult, which are neither to be found nor wrong.
        ignored_labels: their classes (k,).
    """

    boxes: Tensor
    labels: Tensor
    ignored: Tensor = field(default_factory=lambda: torch.zeros(0, 4))
    ignored_labels: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.long))


def truths_of(labels: Any, where: str, images: int | None = None) -> list[Truth]:
    """What is there in each image, out of a list with a mapping of ``boxes`` and ``labels`` for each; where there are
    crowds, of ``ignored_boxes`` and ``ignored_labels``, too.

    Args:
        labels: of a batch.
        where: begins messages.
        images: how many the batch has; left out, as many as there are labels of.

    Raises:
        InvalidInput: labels are something else, or of another number of images.
    """
    expected = (
        f"{where}: expected as labels (detection) a list with a mapping for each image, of boxes, floats (n, 4) as x1 "
        "y1 x2 y2, and labels, integers (n,) from 0 on,"
    )
    if not isinstance(labels, (tuple, list)) or not all(isinstance(each, Mapping) for each in labels):
        kind = "none" if labels is None else kind_of(labels)
        raise InvalidInput(f"{expected} got {kind}; name another task (--task), or take the task outputs")
    if images is not None and len(labels) != images:
        raise InvalidInput(f"{expected} got {len(labels)} mappings for {images} images")
    return [_truth(each, f"{expected} got") for each in labels]


def require_classes(truths: Sequence[Truth], dense: Dense, where: str) -> None:
    """Raise InvalidInput where a label is of a class that the network has no score for; ``where`` begins messages."""
    highest = max((int(truth.labels.max()) for truth in truths if len(truth.labels)), default=-1)
    classes = dense.scores.shape[2]
    if highest >= classes:
        raise InvalidInput(
            f"{where}: labels go up to {highest}, and the network has {classes} classes, 0 to {classes - 1} (detection)"
        )


def _truth(image: Mapping[str, Any], got: str) -> Truth:
    there = _objects(image, "", got)
    return Truth(*there, *_objects(image, IGNORED, got)) if f"{IGNORED}boxes" in image else Truth(*there)


def _objects(image: Mapping[str, Any], prefix: str, got: str) -> tuple[Tensor, Tensor]:
    """The boxes and classes under the names ``boxes`` and ``labels`` with ``prefix`` before them."""
    boxes, labels = image.get(f"{prefix}boxes"), image.get(f"{prefix}labels")
    if not isinstance(boxes, Tensor) or not isinstance(labels, Tensor):
        raise InvalidInput(f"{got} a mapping of {', '.join(map(str, image)) or 'nothing'}")
    if boxes.ndim != 2 or boxes.shape[1] != 4 or labels.shape != boxes.shape[:1] or not boxes.is_floating_point():
        raise InvalidInput(f"{got} boxes {kind_of(boxes)} and labels {kind_of(labels)}")
    if not len(labels):  # of whatever type: lists without entries become floats
        return boxes.float(), labels.long()
    if labels.is_floating_point() or bool((labels < 0).any()):
        raise InvalidInput(f"{got} {kind_of(labels)} from {labels.min():g} on")
    if not bool(boxes.isfinite().all()):
        raise InvalidInput(f"{got} a box {boxes[~boxes.isfinite().all(1)][0].tolist()}, which is not finite")
    wrong = (boxes[:, :2] > boxes[:, 2:]).any(1)
    if bool(wrong.any()):
        raise InvalidInput(f"{got} a box {boxes[wrong][0].tolist()}, whose first corner lies behind the second")
    return boxes.float(), labels.long()


def _is_floats(value: object) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point() and value.ndim == 3


def _is_whole(found: Detections) -> bool:
    parts = (found.boxes, found.scores, found.labels)
    if not all(isinstance(part, Tensor) for part in parts) or found.boxes.ndim != 2 or found.boxes.shape[1] != 4:
        return False
    return found.scores.shape == found.labels.shape == found.boxes.shape[:1] and not found.labels.is_floating_point()


def _best(found: Detections) -> Detections:
    """Those with the highest scores, as many as count."""
    order = found.scores.argsort(descending=True, stable=True)[:MOST_BOXES]
    return Detections(found.boxes[order].float(), found.scores[order].float(), found.labels[order].long())


def _forms(outputs: Outputs) -> str:
    if isinstance(outputs, Mapping):
        return f"a mapping of {', '.join(f'{key}: {kind_of(value)}' for key, value in outputs.items())}"
    if isinstance(outputs, Sequence):
        return f"({', '.join(map(kind_of, outputs))})"
    return kind_of(outputs)
