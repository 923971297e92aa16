"""Whether a machine holds its clocks back: bits of a Raspberry Pi, cooling devices, counters of events.

- Raspberry Pi: ``vcgencmd get_throttled`` and the file of the same name of its firmware driver, in hexadecimal: 0x1
  under-voltage, 0x2 clock capped, 0x4 throttled, 0x8 too hot; the same 16 bits higher: since the start of the system.
- Cooling devices (Documentation/driver-api/thermal/sysfs-api.rst): ``cooling_device*/{type,cur_state}``; a state above
  0 holds a clock back, but that of a fan. Jetson names its own ``cpu-throttle-alert`` and the like (Jetson Linux
  Developer Guide, "Thermal Management").
- Counters: x86 counts in ``cpu*/thermal_throttle/core_throttle_count``, Jetson's over-current alarms in
  ``hwmon*/oc*_event_cnt``.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

from .files import ROOT, number, numbered, text

NOW, SINCE_START = 0xF, 0xF0000
"""Bits of a Raspberry Pi: what holds now, and what has been since the system started."""

_HOLDS_BACK = re.compile(r"freq|throttle|hot-surface|^Processor$|cpuidle", re.IGNORECASE)
_FIRMWARE = ("*firmware/get_throttled", "*/*firmware/get_throttled")


def bits_of_file(root: Path = ROOT) -> int | None:
    """Return the bits of a Raspberry Pi from its firmware's file, which is read at once; None where there is none."""
    for pattern in _FIRMWARE:
        for file in numbered(root / "sys/devices/platform", pattern):
            told = text(file)
            if told is not None and re.fullmatch(r"(0x)?[0-9a-fA-F]{1,8}", told):
                return int(told, 16)
    return None


def bits(root: Path = ROOT) -> int | None:
    """Return the bits of a Raspberry Pi, from the file or from ``vcgencmd``; None where neither tells them."""
    told = bits_of_file(root)
    tool = shutil.which("vcgencmd") if told is None else None
    if tool is None:
        return told
    try:
        said = subprocess.run([tool, "get_throttled"], capture_output=True, text=True, timeout=5, check=True).stdout
    except (OSError, subprocess.SubprocessError, UnicodeError):
        return None
    hit = re.fullmatch(r"throttled=0x([0-9a-fA-F]{1,8})", said.strip())
    return None if hit is None else int(hit[1], 16)


def cooling(root: Path = ROOT) -> dict[str, int] | None:
    """Return the state of each cooling device that holds clocks back, by its name; 0 is at rest. None without any."""
    states: dict[str, int] = {}
    for device in numbered(root / "sys/class/thermal", "cooling_device*"):
        kind, state = text(device / "type"), number(device / "cur_state")
        if kind is not None and state is not None and state >= 0 and _HOLDS_BACK.search(kind):
            states[kind if kind not in states else f"{kind} {device.name}"] = int(state)
    return states or None


def counters(root: Path = ROOT) -> dict[str, int] | None:
    """Return how often clocks were held back since the system started, by counter; None where nothing is counted."""
    counts: dict[str, int] = {}
    for core in numbered(root / "sys/devices/system/cpu", "cpu[0-9]*"):
        events = number(core / "thermal_throttle/core_throttle_count")
        if events is not None:
            counts[core.name] = int(events)
    for monitor in numbered(root / "sys/class/hwmon", "hwmon*"):
        for file in numbered(monitor, "oc*_event_cnt"):
            events = number(file)
            if events is not None:
                counts[f"{text(monitor / 'name') or monitor.name} {file.name.removesuffix('_event_cnt')}"] = int(events)
    return counts or None
