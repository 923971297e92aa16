"""How long a measurement takes: presets by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from ..errors import InvalidInputs

PresetName = Literal["default", "quick", "mlperf"]

FORMER_NAMES: Mapping[str, PresetName] = {"standard": "default"}
"""What files and recipes of older versions call a preset."""


@dataclass(frozen=True)
class Preset:
    """How long a measurement takes, for each file: at least so many runs and at least so many seconds of the loop.

    Args:
        name: of one in `PRESETS`, or another one for a preset of the caller's own.
        percentiles: that the measurement must bear by `runtimes.measure.percentiles.early_stopping`; one that it does
            not bear makes it invalid.
    """

    name: str
    warmup_runs: int
    warmup_s: float
    runs: int
    seconds: float
    percentiles: tuple[int, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return a mapping of plain values."""
        return asdict(self) | {"percentiles": list(self.percentiles)}


PRESETS: Mapping[str, Preset] = {
    "default": Preset("default", warmup_runs=10, warmup_s=1.0, runs=100, seconds=10.0),
    "quick": Preset("quick", warmup_runs=5, warmup_s=0.2, runs=30, seconds=1.0),
    # Single stream: https://github.com/mlcommons/inference_policies/blob/master/inference_rules.adoc, "Scenarios".
    "mlperf": Preset("mlperf", warmup_runs=10, warmup_s=1.0, runs=1024, seconds=60.0, percentiles=(90, 99)),
}


def preset_named(name: str) -> Preset:
    """Return a preset by its name, or by the one that older versions had for it.

    Raises:
        InvalidInputs: there is none.

    >>> preset_named("standard").name
    'default'
    """
    preset = PRESETS.get(FORMER_NAMES.get(name, name))
    if preset is None:
        raise InvalidInputs(f"preset {name!r} is not known: expected one of {', '.join(PRESETS)}")
    return preset


def preset_of(told: object) -> Preset:
    """Return the preset that is named, or that a mapping as `Preset.to_json` writes it describes.

    Raises:
        InvalidInputs: it is neither.
    """
    if isinstance(told, Preset):
        return told
    if isinstance(told, str):
        return preset_named(told)
    try:
        if not isinstance(told, Mapping):
            raise TypeError
        known: dict[str, Any] = {each.name: told[each.name] for each in fields(Preset) if each.name in told}
        known["percentiles"] = tuple(int(each) for each in known.get("percentiles", ()))
        return Preset(**known)
    except (TypeError, ValueError):
        raise InvalidInputs(f"preset: expected a name ({', '.join(PRESETS)}) or a preset's fields") from None
