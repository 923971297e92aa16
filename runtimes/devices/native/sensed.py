"""What a device without Python tells of itself: small files of its kernel, read here as those of this machine are."""

from __future__ import annotations

import tempfile
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from ...ending import printable
from ...sensors.conditions import Conditions, conditions
from ...sensors.emulation import executed
from .shell import Shell

_FILES = (
    *("proc/cpuinfo", "proc/device-tree/model", "proc/sys/kernel/arch"),
    *(
        f"sys/devices/system/cpu/cpu[0-9]*/{name}"
        for name in ("cpu_capacity", "cpufreq/scaling_governor", "cpufreq/*_freq")
    ),
    *(f"sys/class/thermal/thermal_zone*/{name}" for name in ("type", "temp")),
    *(f"sys/class/thermal/cooling_device*/{name}" for name in ("type", "cur_state")),
)
_FACTS = {
    "architecture": "uname -m",
    "kernel": "uname -sr",
    "model": "getprop ro.product.model",
    "release": "getprop ro.build.version.release",
}
_SCRIPT = "; ".join((
    "cd / || exit 1",
    f"for file in {' '.join(_FILES)}",
    'do [ -r "$file" ] && printf "\\000file %s\\n" "$file" && cat "$file" 2>/dev/null',
    "done",
    'printf "\\000header\\n%s" "$(od -An -tx1 -N20 /proc/$$/task/$$/exe 2>/dev/null)"',
    *(f'printf "\\000fact {name}\\n%s" "$({command} 2>/dev/null)"' for name, command in _FACTS.items()),
))  # fmt: skip
"""Constant, for a POSIX shell: names of files, each with its content, and a few facts."""


def conditions_of(shell: Shell) -> Conditions:
    """Return the facts about a device at this moment; raises DeviceError."""
    told = shell.require(["sh", "-c", _SCRIPT], "looking at it").decode("utf-8", "replace")
    facts: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        for part in told.split("\0")[1:]:
            head, _, content = part.partition("\n")
            kind, _, place = head.partition(" ")
            path = root / place
            if kind == "fact":
                facts[place] = printable(content.strip())[:200]
            elif kind == "header":
                executed(root).parent.mkdir(parents=True, exist_ok=True)
                with suppress(ValueError):
                    executed(root).write_bytes(bytes.fromhex(content))
            elif kind == "file" and content and ".." not in path.parts and path.is_relative_to(root):
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(content, encoding="utf-8")
        sensed = conditions(root, facts.get("architecture") or "unknown")
        cores = (root / "proc/cpuinfo").read_text("utf-8").count("\nprocessor") + 1 if sensed.isa is not None else None
    android = f"Android {facts['release']}, " if facts.get("release") else ""
    return replace(
        sensed,
        board=facts.get("model") or sensed.board,
        os=android + facts.get("kernel", "unknown"),
        python="none",
        cores=cores,
        affinity=None,
        load_average=None,
    )
