"""The task of vectors that are compared by their angle: outputs (N, dimensions), and which thing each sample shows.

There is no loss on labels: how vectors are learnt differs from maker to maker. Training draws them to those of a
reference network, by default of the network as it was.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from ..mean import MeanScore
from ..reading import Reading
from ..task import Batch, Outputs, Task
from ..tensors import is_whole, labels_of, output_of, same_shape, unfit
from .outputs import Reference

ROWS = 1024
"""Of similarities, computed at a time."""


def task(reading: Reading) -> Task:
    """The task of a network that is still to be named; see :meth:`compress.tasks.task.Task.against`.

    ``recall@1`` is the share of samples whose nearest other sample of the split shows the same thing, in percent, of
    those that have such another one; ``cosine`` the mean cosine between a vector and that of the reference network.
    """

    def fits(outputs: Outputs, batch: Batch, where: str) -> None:
        _require(output_of(outputs, where), labels_of(reading, batch, where), where)

    def bound(reference: nn.Module) -> Task:
        network = Reference(reference, reading.inputs)
        return Task(
            name="embedding",
            inputs=reading.inputs,
            loss=lambda outputs, batch: match(outputs, network.outputs(batch)),
            match=match,
            scores={
                "recall@1": lambda: NearestRecall(reading),
                "cosine": lambda: MeanScore(lambda outputs, batch: _cosines(outputs, network.outputs(batch))),
            },
            unit=" %",
            fits=fits,
            self_supervised=True,
        )

    return Task(name="embedding", inputs=reading.inputs, unit=" %", fits=fits, bound=bound)


def match(student: Outputs, teacher: Outputs) -> Tensor:
    """One less the mean cosine between the vectors of two networks.

    Raises:
        InvalidInput: the outputs differ in shape.
    """
    return 1 - _cosines(student, teacher).mean()


class NearestRecall:
    """The share of samples whose nearest other one, by cosine, has the same label, in percent.

    A sample whose label no other one has does not count.
    """

    higher_is_better: bool | None = True

    def __init__(self, reading: Reading) -> None:
        self.reading = reading
        self.reset()

    def reset(self) -> None:
        """Forget what was seen."""
        self.vectors: list[Tensor] = []
        self.labels: list[Tensor] = []

    def update(self, outputs: Outputs, batch: Batch) -> None:
        """See vectors (N, dimensions) and N labels."""
        vectors, labels = output_of(outputs, "recall"), labels_of(self.reading, batch, "recall")
        _require(vectors, labels, "recall")
        if len(vectors) != len(labels):
            raise unfit("recall", "labels of as many samples", vectors, labels)
        self.vectors.append(vectors.detach().cpu().float())
        self.labels.append(labels.cpu())

    def compute(self) -> float:
        """The percentage; NaN where no two samples show the same thing."""
        vectors, labels = torch.cat(self.vectors), torch.cat(self.labels)
        if bool(vectors.isnan().any()):
            return -math.inf
        _, kind, counts = labels.unique(return_inverse=True, return_counts=True)
        right = torch.cat([self._nearest(vectors, start) for start in range(0, len(vectors), ROWS)])
        found = (labels[right] == labels)[counts[kind] > 1]
        return 100 * float(found.double().mean())

    def _nearest(self, vectors: Tensor, start: int) -> Tensor:
        """Of some rows, which other vector is nearest."""
        similarities: Any = _pairwise(vectors[start : start + ROWS], vectors)
        rows = torch.arange(len(similarities))
        similarities[rows, start + rows] = -math.inf
        nearest: Tensor = similarities.argmax(1)
        return nearest


def _pairwise(some: Tensor, all_of_them: Tensor) -> Any:
    from torchmetrics.functional import pairwise_cosine_similarity

    return pairwise_cosine_similarity(some, all_of_them)


def _cosines(outputs: Outputs, expected: Outputs) -> Tensor:
    mine, theirs = same_shape(outputs, expected)
    return cosine_similarity(mine.float(), theirs.float(), dim=1)


def _require(vectors: Tensor, labels: Tensor, where: str) -> None:
    if vectors.ndim != 2 or labels.ndim != 1 or not is_whole(labels):
        expected = "the output (N, dimensions) and labels (N,), integers that say which thing it is (embedding)"
        raise unfit(where, expected, vectors, labels)
