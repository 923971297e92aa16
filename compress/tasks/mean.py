"""The score that most tasks need: the mean of a figure of each sample."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..data.batch import count_of
from .task import Batch, Outputs


class MeanScore:
    """The mean over all samples of what ``of_samples`` tells of each.

    Args:
        of_samples: figures of a batch, from outputs and batch: (N,), or of any shape, whose elements count alike; or
            their mean, which counts as often as the batch has samples.
        higher_is_better: whether more of it is.
    """

    def __init__(self, of_samples: Callable[[Outputs, Batch], Tensor], higher_is_better: bool = True) -> None:
        self.of_samples = of_samples
        self.higher_is_better: bool | None = higher_is_better
        self.reset()

    def reset(self) -> None:
        """Forget what was seen."""
        self.total, self.count = 0.0, 0

    def update(self, outputs: Outputs, batch: Batch) -> None:
        """See the outputs for a batch."""
        figures = torch.as_tensor(self.of_samples(outputs, batch)).detach().double()
        count = figures.numel() if figures.ndim else count_of(batch)  # the mean of a batch stands for its samples
        self.total += float(figures.mean()) * count if count else 0.0
        self.count += count

    def compute(self) -> float:
        """The mean; NaN where nothing was seen."""
        return self.total / self.count if self.count else float("nan")
