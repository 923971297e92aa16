"""The statistics of batch norms, measured again on calibration samples before they are folded."""

from __future__ import annotations

from typing import ClassVar

from ...training.batch_norm import reestimate_batch_norm
from ..state import Job, State
from . import Phase, Recovery


class RecalibrateBn(Recovery):
    """Measure the statistics of batch norms again on calibration samples, before they are folded."""

    phase: ClassVar[Phase] = "statistics"

    def apply(self, state: State, job: Job) -> State:
        """With statistics that are averages over the calibration samples."""
        return state.after(
            *reestimate_batch_norm(state.network, job.samples, seed=job.context.seed, read=job.context.read)
        )
