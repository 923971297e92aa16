"""Scores of torchmetrics, read from outputs and batches."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from torch import Tensor

from .task import Batch, Outputs


class MetricScore:
    """A metric of torchmetrics over all that was seen; where a prediction is NaN, the worst that there is.

    Args:
        make: the metric, a :class:`torchmetrics.Metric`, for the first predictions, which tell how many classes there
            are, say; torchmetrics is imported no earlier.
        pair: predictions and targets out of outputs and batch.
        higher_is_better: whether more of it is.
        factor: that the figure is multiplied by: 100 for percent.
        fewest: samples that it takes; of fewer it is NaN.
    """

    def __init__(
        self,
        make: Callable[[Tensor], Any],
        pair: Callable[[Outputs, Batch], tuple[Tensor, Tensor]],
        higher_is_better: bool | None = True,
        factor: float = 1.0,
        fewest: int = 1,
    ) -> None:
        self.make, self.pair, self.higher_is_better, self.factor = make, pair, higher_is_better, factor
        self.fewest = fewest
        self.reset()

    def reset(self) -> None:
        """Forget what was seen."""
        self.metric: Any = None
        self.undefined, self.samples = False, 0

    def update(self, outputs: Outputs, batch: Batch) -> None:
        """See the outputs for a batch."""
        predictions, targets = self.pair(outputs, batch)
        if bool(predictions.isnan().any()):
            self.undefined = True
            return
        if self.metric is None:
            self.metric = self.make(predictions)
        self.metric.update(predictions, targets)
        self.samples += len(predictions)

    def compute(self) -> float:
        """The figure; NaN where too few samples were seen."""
        if self.undefined:
            return -math.inf if self.higher_is_better is not False else math.inf
        return (
            math.nan
            if self.metric is None or self.samples < self.fewest
            else self.factor * float(self.metric.compute())
        )
