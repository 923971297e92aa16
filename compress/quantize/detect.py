"""Which target the machine that this runs on wants."""

from __future__ import annotations

import platform
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from ..integers.target import TargetName
from ..siblings import runtimes


@dataclass(frozen=True)
class Detected:
    """The target of a machine, and why it is that one, in words."""

    target: TargetName
    reason: str


def target_for(architecture: str, flags: Collection[str] | None) -> Detected:
    """The target for a processor: the one that an engine states for the narrowest kind that this processor is of.

    Targets that state no kind are never chosen, only asked for.

    Args:
        architecture: as ``platform.machine()`` tells it.
        flags: its instruction sets as Linux names them; None where the system does not tell.

    >>> target_for("aarch64", None).target, target_for("x86_64", ["avx2", "avx512_vnni"]).target
    ('ort-arm', 'ort-x86')
    >>> target_for("x86_64", ["avx2"])
    Detected(target='ort-avx2', reason='x86_64 without VNNI: 7-bit weights, whose sums stay within 16 bits')
    """
    kinds = runtimes.processor.kinds(architecture, flags)
    known = runtimes.facts.targets().values()
    chosen = next(facts for kind in kinds for facts in known if kind in facts.suits)
    processor = runtimes.processor.described(architecture, flags)
    return Detected(chosen.name, f"{processor}: {chosen.reason}" if chosen.reason else processor)


def detected(cpuinfo: Path = Path("/proc/cpuinfo")) -> Detected:
    """The target for this machine."""
    return target_for(platform.machine(), runtimes.processor.flags(cpuinfo))


def suited(targets: Collection[TargetName], native: TargetName | None = None) -> TargetName:
    """The one of ``targets`` for a machine: its own, else the first that the processor here computes exactly.

    Args:
        native: the machine's own; left out, that of this machine.
    """
    here = native or detected().target
    if here in targets:
        return here
    return next((each for each in targets if runtimes.processor.is_exact(each)), next(iter(targets)))
