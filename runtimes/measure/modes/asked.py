"""The modes that a command line asks for."""

from __future__ import annotations

from collections.abc import Sequence

from .cold_start import ColdStarts
from .mode import Mode
from .sustained import SustainedLoad
from .sweep import BatchSweep, CoresSweep


def modes_asked(
    minutes: float | None = None,
    cold_starts: int | None = None,
    batches: Sequence[int] = (),
    threads: Sequence[int] = (),
    cores: Sequence[str] = (),
) -> tuple[Mode, ...]:
    """Return the modes that these options ask for; none where all are left out.

    Raises:
        InvalidInputs: one of them cannot be.
    """
    modes: list[Mode] = []
    if minutes is not None:
        modes.append(SustainedLoad(minutes))
    if cold_starts is not None:
        modes.append(ColdStarts(cold_starts))
    if batches:
        modes.append(BatchSweep(tuple(batches)))
    if threads or cores:
        modes.append(CoresSweep(tuple(threads), tuple(cores)))
    return tuple(modes)
