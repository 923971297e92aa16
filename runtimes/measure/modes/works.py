"""The kinds of work that a device is asked for by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from typing import Any

from ...errors import InvalidInputs
from .cold_start import ColdStarts
from .roofline import RooflineProbe
from .sustained import SustainedLoad
from .work import Work

_KINDS: tuple[type[Work[Any]], ...] = (SustainedLoad, ColdStarts, RooflineProbe)
WORKS: Mapping[str, type[Work[Any]]] = {each.NAME: each for each in _KINDS}


def work_of(told: Mapping[str, Any]) -> Work[Any]:
    """Return the work that `told_of` gave.

    Raises:
        InvalidInputs: there is no such work, or its values are none.
    """
    values = dict(told)
    kind = WORKS.get(str(values.pop("name", "")))
    if kind is None:
        raise InvalidInputs(f"expected one of {', '.join(WORKS)}, got {str(told)[:80]}")
    try:
        return kind(**values)
    except TypeError as error:
        raise InvalidInputs(f"{kind.NAME}: {error}") from None


def told_of(work: Work[Any]) -> dict[str, Any]:
    """Return a mapping of plain values, with the name of the work."""
    assert is_dataclass(work) and not isinstance(work, type), "a work is a dataclass"
    return {"name": work.NAME, **asdict(work)}
