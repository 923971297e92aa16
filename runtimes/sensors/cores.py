"""Cores and their clusters by name, and pinning to them.

Clusters are told apart by ``cpu_capacity`` (ARM; Documentation/ABI/testing/sysfs-devices-system-cpu), else by Intel's
``/sys/devices/cpu_core`` and ``cpu_atom``, else by the highest clock.
"""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from ..errors import InvalidInputs
from .files import ROOT, cores_in, number, numbered, text

WORD = r"^(all|little|middle[0-9]{0,2}|big|[0-9]{1,5}(-[0-9]{1,5})?([+,][0-9]{1,5}(-[0-9]{1,5})?)*)$"
"""What cores can be named by: a cluster, numbers, ranges; on a machine that is not this one, too."""

SAME_CLOCK = 0.10
"""Cores whose highest clocks differ by less are of one cluster: turbo clocks differ from core to core."""


def allowed() -> tuple[int, ...] | None:
    """Return the cores that this process may run on; None where the system does not tell."""
    return tuple(sorted(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else None


def require_words(wanted: Sequence[int | str]) -> None:
    """Raise InvalidInputs where one of them names no cores on any machine.

    >>> require_words(["big", "0-3", 5])
    """
    for word in wanted:
        if not re.fullmatch(WORD, str(word)):
            expected = "numbers, ranges as 0-3 or a cluster (little, middle, big, all)"
            raise InvalidInputs(f"cores: expected {expected}, got {str(word)[:40]!r}")


def clusters(root: Path = ROOT) -> dict[str, tuple[int, ...]]:
    """Return the cores of each cluster, the slowest first: ``little`` and ``big``, or ``little``, ``middle``, ``big``.

    Several in the middle are ``middle1``, ``middle2``, ...; where all cores are alike the one cluster is ``all``. Empty
    where the system tells of no core.
    """
    folder = root / "sys/devices/system/cpu"
    cores = [int(path.name[3:]) for path in numbered(folder, "cpu[0-9]*") if path.name[3:].isdigit()]
    hybrid = [cores_in(text(root / f"sys/devices/{name}/cpus")) for name in ("cpu_atom", "cpu_core")]
    told = [each for each in hybrid if each is not None]
    groups = told if len(told) == 2 else _grouped(cores, _speeds(folder, cores))
    if len(groups) < 2:
        return {"all": tuple(cores)} if cores else {}
    between = len(groups) - 2
    middle = ["middle"] if between == 1 else [f"middle{i + 1}" for i in range(between)]
    return dict(zip(["little", *middle, "big"], groups, strict=True))


def resolved(
    wanted: Sequence[int | str], usable: Sequence[int] | None = None, known: Mapping[str, tuple[int, ...]] | None = None
) -> tuple[int, ...]:
    """Return the cores that are meant, in order: numbers, ranges as ``0-3``, and names of clusters.

    Args:
        usable: that may be named; left out, those that this process may run on.
        known: clusters by name; left out, those of this machine.

    Raises:
        InvalidInputs: a word is neither, a core is not usable, or the system cannot pin.

    >>> resolved(["little", 5], usable=range(6), known={"little": (0, 1), "big": (4, 5)})
    (0, 1, 5)
    """
    shown = f"cores {', '.join(map(str, wanted)) or 'none'}"
    may = allowed() if usable is None else tuple(usable)
    if may is None:
        raise InvalidInputs(f"{shown}: {platform.system()} cannot pin a process to cores; leave them out")
    names = clusters() if known is None else known
    chosen: set[int] = set()
    for word in wanted:
        told = (word,) if isinstance(word, int) else names.get(word) or cores_in(word.replace("+", ","))
        if told is None:
            known_words = f"numbers, ranges as 0-3 or a cluster ({', '.join(names)})"
            raise InvalidInputs(f"{shown}: expected {known_words}, got {word!r}")
        chosen.update(told)
    if not chosen or not chosen <= set(may):
        raise InvalidInputs(f"{shown}: expected some of {_told(may)}, which this process may use")
    return tuple(sorted(chosen))


@contextmanager
def pinned(cores: Sequence[int | str] | None) -> Iterator[tuple[int, ...] | None]:
    """Keep this thread, and the threads that it starts, on ``cores`` for the duration; None leaves them free.

    Raises:
        InvalidInputs: as `resolved`.
    """
    if cores is None:
        yield None
        return
    chosen = resolved(cores)
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, chosen)
    try:
        yield chosen
    finally:
        os.sched_setaffinity(0, before)


def _speeds(folder: Path, cores: Sequence[int]) -> dict[int, float]:
    """A number for each core by which clusters are told apart, where every core has one."""
    for file, tolerance in (("cpu_capacity", 0.0), ("cpufreq/cpuinfo_max_freq", SAME_CLOCK)):
        told = {core: speed for core in cores if (speed := number(folder / f"cpu{core}" / file)) is not None}
        if len(told) == len(cores):
            return _rounded(told, tolerance)
    return {}


def _rounded(speeds: Mapping[int, float], tolerance: float) -> dict[int, float]:
    """Each speed as the slowest that it is as good as."""
    levels: list[float] = []
    for speed in sorted(set(speeds.values())):
        if not levels or speed > levels[-1] * (1 + tolerance):
            levels.append(speed)
    return {core: max(level for level in levels if level <= speed) for core, speed in speeds.items()}


def _grouped(cores: Sequence[int], speeds: Mapping[int, float]) -> list[tuple[int, ...]]:
    return [tuple(core for core in cores if speeds.get(core) == level) for level in sorted(set(speeds.values()))]


def _told(cores: Sequence[int]) -> str:
    return ", ".join(map(str, cores)) if len(cores) <= 16 else f"{cores[0]} to {cores[-1]}"
