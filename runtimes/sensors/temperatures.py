"""Temperatures by thermal zone, and waiting until a machine is cool.

Kernel, Documentation/driver-api/thermal/sysfs-api.rst: ``thermal_zone*/{type,temp}``, in thousandths of a degree C.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path

from ..errors import InvalidInputs
from .files import ROOT, number, numbered, text

COLDEST_C, HOTTEST_C = -60.0, 200.0
"""What is told outside of these is a sensor that is off or broken (Jetson's say -256)."""

STEP_S = 1.0
"""Between two looks at the temperature while waiting."""


def temperatures_c(root: Path = ROOT) -> dict[str, float] | None:
    """Return degrees Celsius by the name of the zone; None where no zone tells any.

    Zones of one name get the zone's number behind it.
    """
    told: dict[str, float] = {}
    for zone in numbered(root / "sys/class/thermal", "thermal_zone*"):
        celsius = number(zone / "temp", 1e-3)
        if celsius is not None and COLDEST_C < celsius < HOTTEST_C:
            name = text(zone / "type") or zone.name
            told[name if name not in told else f"{name} {zone.name}"] = celsius
    return told or None


def wait_below(
    limit_c: float,
    patience_s: float,
    progress: Callable[[str, int, int, str], None] | None = None,
    told: Callable[[], Mapping[str, float] | None] = temperatures_c,
    sleep: Callable[[float], None] = time.sleep,
) -> str:
    """Return "" once every zone is below ``limit_c``, or why that was given up after ``patience_s`` seconds.

    Args:
        told: degrees Celsius by the name of the zone; None where none tells any.

    Raises:
        InvalidInputs: the machine tells no temperature.
    """
    waited = 0.0
    while True:
        zones = told()
        if not zones:
            raise InvalidInputs(
                f"start below {limit_c:g} C: this machine tells no temperature (no zone in /sys/class/thermal); "
                "leave it out"
            )
        name, celsius = max(zones.items(), key=lambda zone: zone[1])
        if celsius < limit_c:
            return ""
        if waited >= patience_s:
            return f"{name} is still at {celsius:.1f} C, not below {limit_c:g} C, after waiting {waited:.0f} s"
        if progress is not None:
            progress("cool", round(waited), round(patience_s), f"{name} {celsius:.1f} C")
        sleep(STEP_S)
        waited += STEP_S
