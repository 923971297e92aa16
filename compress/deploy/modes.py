"""Beyond the latency of warm runs: files under load for minutes, started cold, over batches, threads and cores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field
from torch import Tensor

from ..core.settings import setting
from ..siblings import runtimes
from ..stage import Config
from .deployed import Deployed

ModeResults = runtimes.measure.modes.mode.ModeResults


class Modes(Config):
    """What is measured besides, on each device."""

    HEADING = "Modes"

    minutes: float | None = setting(
        None, "Run the files in turn for so long without a rest, and tell how they slow down.", gt=0, le=1440
    )
    cold_starts: int | None = setting(
        None, "Start so many fresh processes, and tell how long each takes to the first result.", ge=1, le=1000
    )
    batches: tuple[Annotated[int, Field(ge=1, le=2**16)], ...] = setting(
        (), "Measure batches of these sizes too, in turn.", max_length=64
    )
    sweep_threads: tuple[Annotated[int, Field(ge=1, le=1024)], ...] = setting(
        (), "Measure with each of these numbers of threads too.", max_length=64
    )
    sweep_cores: tuple[str, ...] = setting(
        (), "Measure them on each of these choices of cores: 0, 0-3, big, little+big.", max_length=64
    )

    @property
    def asked(self) -> tuple[runtimes.measure.modes.mode.Mode, ...]:
        """The modes that are asked for; raises InvalidInputs where one cannot be."""
        return runtimes.measure.modes.asked.modes_asked(
            self.minutes, self.cold_starts, self.batches, self.sweep_threads, self.sweep_cores
        )


def subject_of(
    files: Sequence[Deployed],
    request: runtimes.measure.request.Request,
    device: runtimes.devices.device.Device,
    inputs: tuple[Tensor, ...] | None = None,
) -> runtimes.measure.subject.Subject:
    """These files as what is measured on a device.

    Args:
        inputs: of the networks; random where they are left out.
    """
    return runtimes.measure.subject.Subject.of(
        [file.path for file in files],
        request,
        engines=[file.engine for file in files],
        inputs=None if inputs is None else [file.feed(inputs, request.threads, device) for file in files],
        names=[file.name for file in files],
    )
