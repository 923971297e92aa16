"""Settings of a machine while it measures, put back afterwards whatever happens: governors of cpufreq, a power mode.

What was set before is written to a journal in the user's cache first. It is put back from there by this process when it
is done, also after an error or an interrupt; by a guard, a small process that waits for the end of this one, where this
one is killed; and by the next measurement where both were, as when the power fails. The journal stays until all is put
back.

Kernel, Documentation/admin-guide/pm/cpufreq.rst: ``policy*/scaling_governor`` and ``scaling_available_governors``.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .. import cache
from ..errors import InvalidInputs
from ..own_process import environment, module_named
from . import power_mode
from .clocks import cores_of, policies
from .files import ROOT, text

JOURNAL = "machine-settings.json"

_LOOKS = 100
_GOVERNOR = re.compile(r"[a-z_]{1,32}")


class NotPutBack(InvalidInputs):
    """What a measurement has changed of the machine is still so; the message says what."""


@dataclass(frozen=True)
class Journal:
    """What was set before, and who changed it.

    Args:
        pid: of the process that changes it; ``started`` tells it from a later one with the same number.
        governors: by the number of the policy.
        power_mode: its number; None where it is not changed.
        root: where ``proc`` and ``sys`` are.
    """

    pid: int
    started: str | None
    governors: dict[int, str]
    power_mode: int | None
    root: str


def journal_file() -> Path:
    """Return where the journal is while settings are changed."""
    return cache.folder() / JOURNAL


@contextmanager
def held(governor: str | None, mode: str | None, cores: Sequence[int] | None, root: Path = ROOT) -> Iterator[None]:
    """Within: the governor of ``cores`` (None: of all), and the power mode, are these; None leaves one as it is.

    Raises:
        InvalidInputs: there is no such governor or mode, they may not be set, or another process has them set.
    """
    changed = governor is not None or mode is not None
    try:
        put_back_left()
    except NotPutBack as error:
        if changed:
            raise
        warnings.warn(str(error), stacklevel=2)
    if not changed:
        yield
        return
    chosen = {} if governor is None else _policies(governor, cores, root)
    number = None if mode is None else power_mode.numbered_mode(mode, root)
    before = {int(path.name.removeprefix("policy")): told for path, told in chosen.items()}
    journal = Journal(os.getpid(), _started(os.getpid()), before, None if number is None else _mode(root), str(root))
    _write(journal)
    guard = _start_guard()
    try:
        if number is not None:
            power_mode.set_mode(number)
        for path in chosen:
            _set(path / "scaling_governor", governor or "")
        yield
    finally:
        try:
            _finish(journal)
        except NotPutBack as error:
            warnings.warn(str(error), stacklevel=2)
        _end(guard)


def put_back(journal: Journal) -> list[str]:
    """Set again what was set before, where it is another now; returns what could not be, in words."""
    failures = []
    root = Path(journal.root)
    if journal.power_mode is not None and power_mode.mode(root) != journal.power_mode:
        try:
            power_mode.set_mode(journal.power_mode)
        except InvalidInputs as error:
            failures.append(f"the power mode was not put back: {error}")
    for number, governor in journal.governors.items():
        file = root / f"sys/devices/system/cpu/cpufreq/policy{number}/scaling_governor"
        if text(file) == governor:
            continue
        try:
            file.write_text(governor, encoding="utf-8")
        except OSError as error:
            failures.append(f"the governor {governor} was not put back: {file}: {error.strerror}")
    return failures


def put_back_left() -> bool:
    """Put back what a process that is no more has left changed; returns whether there was such.

    Raises:
        InvalidInputs: a process that still runs has changed settings.
        NotPutBack: some of it cannot be set, as by a user who may not.
    """
    journal = _read()
    if journal is None:
        return False
    if journal.pid != os.getpid() and _runs(journal):
        raise InvalidInputs(f"process {journal.pid} measures with settings of its own; wait until it is done")
    _finish(journal)
    return True


def _finish(journal: Journal) -> None:
    """Put back, and remove the journal; raises NotPutBack, and it stays."""
    failures = put_back(journal)
    if failures:
        hint = f"measure again as the user who may, or set it by hand and remove {journal_file()}"
        raise NotPutBack(f"{'; '.join(failures)}; {hint}")
    journal_file().unlink(missing_ok=True)


def _policies(governor: str, cores: Sequence[int] | None, root: Path) -> dict[Path, str]:
    """The policies of these cores, with the governor that each has."""
    chosen = [path for path in policies(root) if cores is None or set(cores_of(path)) & set(cores)]
    if not chosen:
        raise InvalidInputs(f"governor {governor}: this machine has no cpufreq; leave it out")
    before: dict[Path, str] = {}
    for path in chosen:
        known = (text(path / "scaling_available_governors") or "").split()
        if governor not in known:
            raise InvalidInputs(
                f"governor {governor}: expected one of {', '.join(known) or 'none'}, as {path} has them"
            )
        now = text(path / "scaling_governor")
        if now is None or not os.access(path / "scaling_governor", os.W_OK):
            raise InvalidInputs(f"governor {governor}: {path / 'scaling_governor'} may not be written; it wants root")
        before[path] = now
    return before


def _set(file: Path, value: str) -> None:
    try:
        file.write_text(value, encoding="utf-8")
    except OSError as error:
        raise InvalidInputs(f"governor {value}: {file} cannot be written ({error.strerror}); it wants root") from error


def _mode(root: Path) -> int:
    number = power_mode.mode(root)
    if number is None:
        raise InvalidInputs(
            "power mode: the one that is set is not told, so that it could not be put back; leave it out"
        )
    return number


def _write(journal: Journal) -> None:
    file = journal_file()
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("x", encoding="utf-8") as opened:
            json.dump(asdict(journal), opened)
            opened.flush()
            os.fsync(opened.fileno())
    except FileExistsError:
        raise InvalidInputs(
            f"{file}: another measurement changes settings at this moment; wait until it is done"
        ) from None
    except OSError as error:
        raise InvalidInputs(f"{file}: cannot be written ({error.strerror}), so that nothing is changed") from error


def _read() -> Journal | None:
    """The journal; what is no whole one is removed: it was written before anything was changed."""
    file = journal_file()
    if not file.exists():
        return None
    try:
        return _journal(json.loads(text(file) or ""))
    except (ValueError, TypeError, KeyError, AttributeError):
        file.unlink(missing_ok=True)
        return None


def _journal(told: Mapping[str, Any]) -> Journal:
    governors = {int(number): str(governor) for number, governor in told["governors"].items()}
    if not all(_GOVERNOR.fullmatch(governor) for governor in governors.values()):
        raise ValueError("no governor")
    mode = told["power_mode"]
    return Journal(int(told["pid"]), told["started"], governors, None if mode is None else int(mode), str(told["root"]))


def _started(pid: int) -> str | None:
    """When a process started, in ticks since the system did (field 22 of ``/proc/PID/stat``); None if it has ended."""
    fields = (text(ROOT / f"proc/{pid}/stat") or "").rpartition(")")[2].split()
    return fields[19] if len(fields) > 19 and fields[0] not in ("Z", "X") else None


def _runs(journal: Journal) -> bool:
    if (ROOT / "proc/self").exists():
        return journal.started is not None and _started(journal.pid) == journal.started
    try:
        os.kill(journal.pid, 0)
    except OSError:
        return False
    return True


def _start_guard() -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-P", "-m", module_named(__file__)],
        stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment(),
        start_new_session=True,
    )  # fmt: skip


def _end(guard: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(OSError):
        assert guard.stdin is not None, "it was asked for"
        guard.stdin.close()
    try:
        guard.wait(timeout=10)
    except subprocess.TimeoutExpired:
        guard.kill()
        guard.wait()


def main() -> int:
    """Wait until whoever started this process ends, then put back what it has left changed."""
    while sys.stdin.buffer.read(1):
        pass
    for _ in range(_LOOKS):  # it may have a moment to live, and put back by itself
        journal = _read()
        if journal is None:
            break
        if not _runs(journal):
            with contextlib.suppress(NotPutBack):  # nobody listens; the next measurement tries again, and tells
                _finish(journal)
            break
        time.sleep(0.1)
    return 0


if __name__ == "__main__":
    sys.exit(main())
