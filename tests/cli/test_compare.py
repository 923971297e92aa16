"""``compress compare``: exit codes for CI, outputs that replace nothing, logs, and one line for what is wrong."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.support.command_line import runner
from tests.support.measurements import bench, record, samples

Run = Callable[..., str]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """Run a command line in a folder with the measurements a.json, b.json (10 % slower) and shaky.json."""
    monkeypatch.chdir(tmp_path)
    shaky = samples(1.0, 80) + samples(2.4, 120)
    for name, told in (
        ("a", record()),
        ("b", record(median=2.2, seed=1)),
        ("shaky", record(samples_ms=shaky, valid=False, notes=["spread of 70%"])),
        ("far", record(threads=4)),
    ):
        Path(f"{name}.json").write_text(json.dumps(bench(told)))
    return runner(monkeypatch, capfd)


def test_a_comparison_is_told_as_a_table_and_as_json(run: Run) -> None:
    assert "slower" in run("compare a.json b.json")
    told = json.loads(run("compare a.json b.json --json"))
    (found,) = told["comparisons"]
    assert found["verdict"] == "slower" and found["ratio"]["low"] < 1.1 < found["ratio"]["high"]
    assert found["ratio"]["paired"] is False and found["checks"] == [] and told["mean_ratio"] is None
    assert (found["before"]["p50_ms"], found["before"]["runs"]) == (pytest.approx(2.0, abs=0.01), 200)


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ("a.json b.json --max-slowdown 5%", 1),
        ("a.json b.json --max-slowdown 15", 0),
        ("b.json a.json --max-slowdown 0 --max-growth 0% --max-memory-growth 0 --max-loss 0 --strict", 0),
        ("a.json shaky.json --max-slowdown 5%", 0),
        ("a.json shaky.json --max-slowdown 5% --strict", 5),
        ("a.json shaky.json --strict", 5),
        ("a.json far.json", 2),
        ("a.json far.json --across", 0),
        ("a.json far.json --across --max-slowdown 5%", 0),
        ("a.json far.json --across --max-slowdown 5% --strict", 5),
    ],
)
def test_exit_codes(run: Run, options: str, code: int) -> None:
    said = run(f"compare {options}", code)
    assert len(said.splitlines()) == 1 or not code


def test_markdown_and_junit_are_written_also_when_a_limit_is_broken(run: Run, tmp_path: Path) -> None:
    run("compare a.json b.json --max-slowdown 5% --markdown m.md --junit j.xml --json-file c.json", 1)
    assert "slower" in (tmp_path / "m.md").read_text()
    assert ElementTree.parse(tmp_path / "j.xml").getroot()[0].attrib["failures"] == "1"
    assert json.loads((tmp_path / "c.json").read_text())["comparisons"][0]["checks"][0]["outcome"] == "broken"
    before = (tmp_path / "m.md").read_bytes()
    assert "it exists" in run("compare a.json b.json --markdown m.md", 2)
    assert (tmp_path / "m.md").read_bytes() == before
    run("compare b.json a.json --markdown m.md --overwrite")
    assert (tmp_path / "m.md").read_bytes() != before


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("", "expected one or two files"),
        ("a.json b.json a.json", "expected one or two files"),
        ("a.json", "nothing to compare it with"),
        ("a.json --baseline other", "no measurement is called so"),
        ("a.json b.json --baseline a", "leave it out"),
        ("a.json none.json", "no such file"),
        ("a.json b.json --markdown .", "this is a folder"),
        ("a.json b.json --markdown a.json --overwrite", "reads or writes this file already"),
        ("a.json b.json --markdown m --junit m", "reads or writes this file already"),
        ("a.json b.json --junit c.json --json-file c.json", "reads or writes this file already"),
        ("a.json b.json --max-slowdown five", "'five'"),
        ("--log a.json", "it needs a baseline"),
        ("--log none.jsonl --baseline main", "no such file"),
        ("a.json b.json --log none.jsonl --baseline main", "expected one file beside --log"),
    ],
)
def test_what_is_wrong_is_one_line_and_nothing_is_written(
    run: Run, tmp_path: Path, options: str, expected: str
) -> None:
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    said = run(f"compare {options}", 2)
    assert expected in said and len(said.splitlines()) == 1
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_bench_adds_what_it_measured(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from compress import deploy
    from compress.compare.log import read_log
    from compress.report import BenchmarkRecord

    def measure(files: Sequence[deploy.Deployed], **_: object) -> list[BenchmarkRecord]:
        return [BenchmarkRecord.model_validate(record(file.name)) for file in files]

    monkeypatch.setattr(deploy, "measure", measure)
    for _ in range(2):
        run("bench x.onnx y.onnx -q --log new/m.jsonl --label main")
    content = read_log(tmp_path / "new/m.jsonl")
    assert [(line.key[0], line.label) for line in content.lines] == [("x.onnx", "main"), ("y.onnx", "main")] * 2
    for wrong, expected in (("m.json", "ends with .jsonl"), (".", "ends with .jsonl")):
        assert expected in run(f"bench x.onnx -q --log {wrong}", 2)


def test_measurements_of_a_log(run: Run, tmp_path: Path) -> None:
    from compress.compare.log import append
    from compress.report import BenchmarkRecord

    log = tmp_path / "measurements.jsonl"
    for label, median in (("main", 2.0), ("main", 2.1), ("try", 2.2)):
        append(
            log, [BenchmarkRecord.model_validate(record(median=median, label=label, began="2026-03-01T10:00:00+00:00"))]
        )
    told = json.loads(run("compare --log measurements.jsonl --baseline main --json"))
    assert told["comparisons"][0]["ratio"]["value"] == pytest.approx(2.2 / 2.1, abs=0.005)
    told = json.loads(run("compare a.json --log measurements.jsonl --baseline try --json"))
    assert told["comparisons"][0]["ratio"]["value"] == pytest.approx(2 / 2.2, abs=0.005)
    assert "newer than the baseline" in run("compare --log measurements.jsonl --baseline try", 2)
    with log.open("ab") as file:
        file.write(b'{"name": "ne')
    told = json.loads(run("compare --log measurements.jsonl --baseline main --json"))
    assert told["notes"] == ["line 4 of measurements.jsonl is torn, and left out"]
