"""How files are to be measured, wherever that is: plain values that JSON holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from ..errors import InvalidInputs
from ..runtime import Options
from ..sensors.cores import require_words
from .presets import PRESETS, Preset, preset_of


@dataclass(frozen=True)
class Request:
    """How files are measured, all in one interleaved loop.

    Args:
        preset: how long.
        threads: that one operation of the engine may use.
        cores: that the process is pinned to meanwhile: numbers, ranges as ``0-3``, names of clusters as ``big``.
        seed: of random inputs.
        memory: whether the peak memory is measured too, in a process of its own before the loop.
        governor: of cpufreq, that these cores have meanwhile.
        power_mode: of a Jetson, by name or number, that is set meanwhile.
        start_below_c: the loop begins once all thermal zones are below so many degrees Celsius.
        patience_s: how long that is waited for.
        energy: whether the energy of a run is measured too, in a loop of each file's own after the interleaved one.
        rail: of power, that energy is read from; left out, the one that has most of the machine on it.
    """

    preset: Preset = field(default_factory=lambda: PRESETS["default"])
    threads: int = 1
    cores: tuple[int | str, ...] | None = None
    seed: int = 0
    memory: bool = True
    governor: str | None = None
    power_mode: str | None = None
    start_below_c: float | None = None
    patience_s: float = 600.0
    energy: bool = False
    rail: str | None = None

    def __post_init__(self) -> None:
        require_words(self.cores or ())

    @property
    def options(self) -> Options:
        """Return how the engine is to run a file."""
        return Options(self.threads)

    def to_json(self) -> dict[str, Any]:
        """Return a mapping of plain values."""
        cores = None if self.cores is None else list(self.cores)
        return asdict(self) | {"preset": self.preset.to_json(), "cores": cores}

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> Request:
        """Return the request that `to_json` gave; ``preset`` may be a name.

        Raises:
            InvalidInputs: a name is not known, or the preset is none.
        """
        unknown = set(told) - {each.name for each in fields(cls)}
        if unknown:
            raise InvalidInputs(f"request: {', '.join(sorted(unknown))} is not known")
        facts = dict(told)
        if "preset" in facts:
            facts["preset"] = preset_of(facts["preset"])
        if facts.get("cores") is not None:
            facts["cores"] = tuple(facts["cores"])
        return cls(**facts)
