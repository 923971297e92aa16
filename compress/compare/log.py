"""A log of measurements, ``measurements.jsonl``: one line of JSON for each, and lines are only ever added.

Several processes may add to it at the same time: what one adds is written at once, under the file's lock. Where a
process or its machine died while it wrote, a line is torn; it is told by its number and left out, and what is added
later begins on a line of its own.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, time
from pathlib import Path

from pydantic import ValidationError

from ..core.complaint import first_complaint
from ..errors import InvalidInput
from ..files.untrusted import require_file
from ..report.schema import BenchmarkRecord
from .pairing import key_of
from .read import require_samples

try:
    import fcntl
except ImportError:  # Windows: one write is all the protection that there is
    fcntl = None  # type: ignore[assignment]

SUFFIX = ".jsonl"
LINE_BYTES = 2**28
"""Of one measurement."""


def require_log(path: Path) -> None:
    """Raise InvalidInput unless measurements can be added to ``path``; nothing is changed."""
    if path.suffix.lower() != SUFFIX:
        raise InvalidInput(f"--log {path}: expected a name that ends with {SUFFIX}")
    if path.exists() and not path.is_file():
        raise InvalidInput(f"--log {path}: expected a file to add to, and this is none")
    place = path if path.exists() else next((each for each in path.absolute().parents if each.exists()), path.parent)
    if not os.access(place, os.W_OK):
        raise InvalidInput(f"--log {path}: it cannot be written; give another place")


def append(path: Path, records: Sequence[BenchmarkRecord]) -> None:
    """Add a line for each record, in one piece; the file is made where there is none.

    Raises:
        InvalidInput: it cannot be written.
    """
    require_log(path)
    lines = "".join(record.model_dump_json(exclude_defaults=True) + "\n" for record in records)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _opened(path) as descriptor:
            size = os.fstat(descriptor).st_size
            torn = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
            _write(descriptor, (("\n" if torn else "") + lines).encode(), size)
    except OSError as error:
        raise InvalidInput(f"--log {path}: cannot be written ({error.strerror or error})") from error


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    """The file, open to be added to, and locked against others that add."""
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(0, "it is no plain file")
        if fcntl is not None:
            with suppress(OSError):  # of a file system that knows no locks
                fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield descriptor
    finally:
        os.close(descriptor)


def _write(descriptor: int, content: bytes, size: int) -> None:
    """Add all of ``content``, or nothing, to a file of ``size`` bytes."""
    try:
        written = 0
        while written < len(content):
            written += os.write(descriptor, content[written:])
    except BaseException:
        os.ftruncate(descriptor, size)
        raise


@dataclass(frozen=True)
class Line:
    """Where a measurement stands in a log, and what it is chosen by."""

    number: int
    offset: int
    key: tuple[object, ...]
    label: str | None
    began: datetime | None
    loop: str | None


@dataclass(frozen=True)
class Log:
    """A log that was read once: its lines without their samples, and the numbers of those that are torn."""

    path: Path
    lines: tuple[Line, ...]
    torn: tuple[int, ...]

    def labels(self) -> tuple[str, ...]:
        """The labels of its measurements, the newest last."""
        return tuple(dict.fromkeys(line.label for line in self.lines if line.label is not None))

    def newest(self, wanted: Callable[[Line], bool]) -> tuple[Line, ...]:
        """The last of the lines that are ``wanted``, of each name, engine, number of threads and device."""
        return tuple({line.key: line for line in self.lines if wanted(line)}.values())

    def baseline(self, words: str) -> tuple[Line, ...]:
        """The newest measurements with this label; or, where it is a date, those that were the newest then.

        Raises:
            InvalidInput: there are none.
        """
        if words in self.labels():
            return self.newest(lambda line: line.label == words)
        moment = _moment(words)
        if moment is None:
            known = ", ".join(self.labels()[-8:]) or "none"
            raise InvalidInput(
                f"--baseline {words}: neither a date, as 2026-03-14, nor a label of {self.path} ({known})"
            )
        found = self.newest(lambda line: line.began is not None and line.began <= moment)
        if not found:
            raise InvalidInput(f"--baseline {words}: {self.path} has no measurement that began by then")
        return found

    def since(self, chosen: Sequence[Line]) -> tuple[Line, ...]:
        """The newest measurements of each name, engine, number of threads and device that came after ``chosen``."""
        first = min(line.number for line in chosen)
        numbers = {line.key: line.number for line in chosen}
        return self.newest(lambda line: line.number > numbers.get(line.key, first))

    def records(self, lines: Sequence[Line]) -> tuple[BenchmarkRecord, ...]:
        """The measurements of these lines, read again with their samples; raises InvalidInput."""
        records = []
        with self.path.open("rb") as file:
            for line in lines:
                file.seek(line.offset)
                record = _record(file.readline(), f"log {self.path}, line {line.number}")
                assert record is not None, "torn lines are not in the list"
                records.append(record)
        return tuple(records)


def read_log(path: Path) -> Log:
    """The lines of a log; raises InvalidInput where it is no log, or a line holds something else."""
    require_file(path, "log")
    lines, torn, offset = [], [], 0
    with path.open("rb") as file:
        for number, content in enumerate(iter(lambda: file.readline(LINE_BYTES), b""), 1):
            record = _record(content, f"log {path}, line {number}") if content.strip() else None
            if record is not None:
                lines.append(
                    Line(number, offset, key_of(record), record.label, _moment(record.began or ""), record.loop)
                )
            elif content.strip():
                torn.append(number)
            offset += len(content)
    if not lines:
        raise InvalidInput(f"log {path}: no measurement in it; `compress bench --log {path}` adds some")
    return Log(path, tuple(lines), tuple(torn))


def _record(content: bytes, where: str) -> BenchmarkRecord | None:
    """The measurement of a line; None where the line is torn. Facts that are not known here are left out."""
    try:
        facts = json.loads(content.decode("utf-8"))
    except (ValueError, RecursionError):
        return None
    if not isinstance(facts, dict):
        raise InvalidInput(f"{where}: expected a measurement, got {type(facts).__name__}")
    try:
        known = {name: facts[name] for name in BenchmarkRecord.model_fields if name in facts}
        record = BenchmarkRecord.model_validate(known)
    except ValidationError as error:
        complaint = first_complaint(error)
        raise InvalidInput(f"{where}: {complaint.line('it')}{complaint.and_more}") from None
    require_samples(record, where)
    return record


def _moment(words: str) -> datetime | None:
    """A date, until its end, or a moment; in UTC where nothing else is said. None where it is neither."""
    try:
        found = datetime.fromisoformat(words)
    except ValueError:
        return None
    if len(words) == 10:
        found = datetime.combine(found.date(), time.max)
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)
