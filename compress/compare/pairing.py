"""Which measurement belongs to which: by name, engine, threads and device, then by what the files hold."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import PurePath

from ..errors import InvalidInput
from ..report.schema import BenchmarkRecord
from .read import names_of

Pair = tuple[BenchmarkRecord, BenchmarkRecord]


@dataclass(frozen=True)
class Matching:
    """Pairs of measurements, before and after, and those that have no counterpart."""

    pairs: tuple[Pair, ...]
    only_before: tuple[BenchmarkRecord, ...] = ()
    only_after: tuple[BenchmarkRecord, ...] = ()


def key_of(record: BenchmarkRecord) -> tuple[object, ...]:
    """What a measurement is found again by: name, engine, threads and device."""
    return record.name, record.runtime, record.threads, record.device, record.machine


def _same_name(record: BenchmarkRecord) -> object:
    return record.name, record.runtime


def _same_content(record: BenchmarkRecord) -> object:
    return None if record.sha256 is None else (record.sha256, record.runtime)


def _same_file_name(record: BenchmarkRecord) -> object:
    return PurePath(record.file or record.name).name, record.runtime


_KEYS: tuple[Callable[[BenchmarkRecord], object], ...] = (key_of, _same_name, _same_content, _same_file_name)


def matched(before: Sequence[BenchmarkRecord], after: Sequence[BenchmarkRecord]) -> Matching:
    """The measurements of two files in pairs, in the order of ``before``; several alike are paired in their order.

    A single measurement in each file is a pair, whatever the two are called.
    """
    if len(before) == len(after) == 1:
        return Matching(((before[0], after[0]),))
    partner: dict[int, int] = {}
    free = dict.fromkeys(range(len(after)))
    for key in _KEYS:
        waiting: dict[object, deque[int]] = defaultdict(deque)
        for j in free:
            if key(after[j]) is not None:
                waiting[key(after[j])].append(j)
        for i, record in enumerate(before):
            if i not in partner and waiting[key(record)]:
                partner[i] = waiting[key(record)].popleft()
                del free[partner[i]]
    return Matching(
        tuple((before[i], after[partner[i]]) for i in sorted(partner)),
        tuple(record for i, record in enumerate(before) if i not in partner),
        tuple(after[j] for j in free),
    )


def against_one(records: Sequence[BenchmarkRecord], baseline: str | None) -> Matching:
    """Every measurement of one file against its first one, or against the one that is called ``baseline``.

    Those at another number of threads or on another device are not compared with it.

    Raises:
        InvalidInput: there is none of that name, or nothing to compare it with.
    """
    first = next((record for record in records if baseline in (None, record.name)), None)
    if first is None:
        raise InvalidInput(f"--baseline {baseline}: no measurement is called so; there are {names_of(records)}")
    others = [record for record in records if record is not first]
    alike = [other for other in others if _setting(other) == _setting(first)]
    if not alike:
        raise InvalidInput(
            f"{first.name}: nothing to compare it with at {first.threads} threads on the same device; give a second "
            "file, or measure several files in one `compress bench`"
        )
    return Matching(tuple((first, other) for other in alike), (), tuple(o for o in others if o not in alike))


def _setting(record: BenchmarkRecord) -> tuple[object, ...]:
    return record.threads, record.machine
