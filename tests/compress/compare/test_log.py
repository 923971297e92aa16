"""The log of measurements: lines are added whole, by several processes at once, and torn ones are told."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from compress.compare.log import append, read_log
from compress.errors import InvalidInput
from compress.report import BenchmarkRecord
from tests.support.measurements import record


def made(label: str | None, began: str, name: str = "net", **known: Any) -> BenchmarkRecord:
    return BenchmarkRecord.model_validate(record(name, **known) | {"label": label, "began": began, "loop": began})


DAYS = [
    made("main", "2026-03-01T10:00:00+00:00", median=1.0),
    made("main", "2026-03-02T10:00:00+00:00", median=2.0),
    made("main", "2026-03-02T10:00:00+00:00", "other", median=2.5),
    made("try", "2026-03-03T10:00:00+00:00", median=3.0),
]


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "new" / "measurements.jsonl"
    append(path, DAYS[:1])
    append(path, DAYS[1:])
    return path


def test_a_line_holds_a_measurement(log: Path) -> None:
    lines = log.read_text().splitlines()
    assert len(lines) == 4 and all(json.loads(line)["label"] in ("main", "try") for line in lines)
    content = read_log(log)
    assert content.records(content.lines) == tuple(DAYS) and content.torn == ()
    assert content.labels() == ("main", "try")


def medians(log: Path, words: str) -> list[float]:
    content = read_log(log)
    return [round(each.samples_ms[0]) for each in content.records(content.baseline(words))]


def test_a_baseline_is_a_label_or_a_date(log: Path) -> None:
    content = read_log(log)
    assert [line.number for line in content.baseline("main")] == [2, 3]
    assert [line.number for line in content.baseline("try")] == [4]
    assert [line.number for line in content.baseline("2026-03-01")] == [1]
    assert [line.number for line in content.baseline("2026-03-02T09:00")] == [1]
    assert [line.number for line in content.baseline("2026-03-02")] == [2, 3], "until the end of the day"
    assert [line.number for line in content.since(content.baseline("2026-03-01"))] == [4, 3]
    assert [line.number for line in content.since(content.baseline("main"))] == [4]
    assert content.since(content.baseline("try")) == ()
    for words, expected in (("nothing", r"neither a date.*\(main, try\)"), ("2026-02-28", "began by then")):
        with pytest.raises(InvalidInput, match=expected):
            content.baseline(words)


def test_a_torn_line_is_left_out_and_what_follows_is_whole(log: Path) -> None:
    whole = log.read_bytes()
    log.write_bytes(whole[:-100])
    assert read_log(log).torn == (4,) and len(read_log(log).lines) == 3
    append(log, DAYS[3:])
    content = read_log(log)
    assert content.torn == (4,) and [line.number for line in content.lines] == [1, 2, 3, 5]
    assert content.records(content.lines[-1:]) == (DAYS[3],)


ADDS = """
import sys
from pathlib import Path
from compress.compare.log import append
from compress.report import BenchmarkRecord
records = [BenchmarkRecord(name=sys.argv[2], runtime="r", samples_ms=[1.5] * 3000) for _ in range(3)]
sys.stdin.readline()
for _ in range(10):
    append(Path(sys.argv[1]), records)
"""


def test_processes_add_at_the_same_time(tmp_path: Path) -> None:
    log = tmp_path / "measurements.jsonl"
    words = [sys.executable, "-c", ADDS, str(log)]
    started = [subprocess.Popen([*words, f"p{i}"], stdin=subprocess.PIPE, env=dict(os.environ)) for i in range(3)]
    for process in started:
        process.communicate(b"go\n", timeout=120)
        assert process.returncode == 0
    content = read_log(log)
    assert len(content.lines) == 90 and content.torn == ()
    names = [line.key[0] for line in content.lines]
    assert all(names.count(f"p{i}") == 30 for i in range(3))
    assert all(len(set(names[i : i + 3])) == 1 for i in range(0, 90, 3)), "what is added at once stands together"


def test_a_full_disk_leaves_the_log_as_it_was(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, write = log.read_bytes(), os.write

    def full(descriptor: int, content: bytes) -> int:
        if len(content) > 100:
            return write(descriptor, content[:100])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", lambda descriptor, content: full(descriptor, content[: len(content) // 2 or 1]))
    with pytest.raises(InvalidInput, match="No space left"):
        append(log, DAYS[:1])
    monkeypatch.undo()
    assert log.read_bytes() == before


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("[1]", "line 5: expected a measurement, got list"),
        ('{"name": 3, "runtime": "r"}', "line 5: name"),
        ('{"name": "a", "runtime": "r", "samples_ms": [NaN]}', "line 5.samples_ms.0"),
        ('{"name": "a", "runtime": "r"}', "it was not timed"),
    ],
)
def test_a_line_of_something_else_is_told(log: Path, line: str, expected: str) -> None:
    with log.open("a") as file:
        file.write(line + "\n")
    with pytest.raises(InvalidInput, match=expected):
        read_log(log)


def test_facts_of_newer_versions_are_left_out(log: Path) -> None:
    facts = json.loads(log.read_text().splitlines()[0]) | {"phase_of_the_moon": "new"}
    log.write_text(json.dumps(facts) + "\n\n")
    content = read_log(log)
    assert content.records(content.lines) == tuple(DAYS[:1]) and content.torn == ()


def test_places_that_are_no_logs(tmp_path: Path) -> None:
    (tmp_path / "folder.jsonl").mkdir()
    (tmp_path / "empty.jsonl").touch()
    for place, expected in (("a.json", "ends with .jsonl"), ("folder.jsonl", "expected a file")):
        with pytest.raises(InvalidInput, match=expected):
            append(tmp_path / place, DAYS)
    for place, expected in (("none.jsonl", "no such file"), ("empty.jsonl", "no measurement in it")):
        with pytest.raises(InvalidInput, match=expected):
            read_log(tmp_path / place)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty.jsonl", "folder.jsonl"]
