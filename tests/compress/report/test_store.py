"""Reports on disk: the same after reading, refused when they are not whole, and never half-written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from compress.errors import InvalidInput
from compress.report import Report, read, render, store, write


def test_a_report_is_the_same_after_writing_and_reading(report: Report, tmp_path: Path) -> None:
    paths = write(report, tmp_path / "new" / "folder")
    assert [path.name for path in paths] == ["report.json", "report.html"]
    assert read(paths[0]) == report
    assert read(paths[0].parent) == report
    assert render(read(paths[0])) == paths[1].read_text(encoding="utf-8")
    assert sorted(path.name for path in paths[0].parent.iterdir()) == ["report.html", "report.json"]


def test_the_json_is_standard_and_keeps_the_names_that_readers_rely_on(report: Report, tmp_path: Path) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    exact = report.benchmarks[0].model_copy(
        update={"parity": report.benchmarks[0].parity.model_copy(update={"snr_db": float("inf")})}  # type: ignore[union-attr]
    )
    report = report.model_copy(update={"benchmarks": (exact,)})
    write(report, tmp_path)
    content = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"), parse_constant=refuse)
    assert content["schema_version"] == 1
    assert {"speedup", "size_ratio", "macs_ratio", "score_drops"} <= set(content["summary"])
    assert {"edits", "skipped", "before", "after"} <= set(content["stages"][0])
    assert {"params", "macs", "bit_operations", "size_bytes", "scores"} == set(content["stages"][0]["before"])
    assert {"format", "file", "size_bytes", "nodes"} <= set(content["exports"][0])
    assert {"runtime", "threads", "latency_ms", "scores", "parity"} <= set(content["benchmarks"][0])
    assert read(tmp_path) == report, "an infinity comes back"


def test_samples_are_kept_to_the_nanosecond(filled: dict[str, Any]) -> None:
    filled["benchmarks"][0]["samples_ms"] = [1.2345678912, 2]
    assert Report.model_validate(filled).benchmarks[0].samples_ms == (1.234568, 2.0)


def test_an_unknown_field_is_an_error(filled: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="sumary"):
        Report.model_validate(filled | {"sumary": {}})


BAD: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "the file is empty"),
    "not JSON": (b"hello there", "not JSON at line 1, column 1"),
    "not text": (b"\xff\xfe\x00", "UTF-8"),
    "no mapping": (b"[1, 2]", "schema_version"),
    "no version": (b'{"model": "x"}', "schema_version"),
    "newer": (b'{"schema_version": 2, "anything": 0}', "expected schema_version 1, got 2"),
    "version in words": (b'{"schema_version": "one"}', "expected schema_version 1, got 'one'"),
    "version true": (b'{"schema_version": true}', "expected schema_version 1, got True"),
    "nothing else": (b'{"schema_version": 1}', "created: Field required"),
    "nested too deep": (b"[" * 200_000, "nested too deep"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_file_is_one_clear_line(case: str, tmp_path: Path) -> None:
    content, expected = BAD[case]
    path = tmp_path / "report.json"
    path.write_bytes(content)
    with pytest.raises(InvalidInput) as caught:
        read(path)
    message = str(caught.value)
    assert message.startswith(f"report {path}: ") and expected in message
    assert "\n" not in message


def test_a_missing_file_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="no such file"):
        read(tmp_path)
    with pytest.raises(InvalidInput, match="no such file"):
        read(tmp_path / "other.json")


@pytest.mark.parametrize("share", [0.02, 0.3, 0.5, 0.77, 0.999])
def test_a_truncated_file_says_so(report: Report, tmp_path: Path, share: float) -> None:
    path, _ = write(report, tmp_path)
    whole = path.read_bytes().rstrip()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(InvalidInput, match="truncated") as caught:
        read(path)
    assert "\n" not in str(caught.value)


def test_a_wrong_value_is_named_by_its_place(report: Report, tmp_path: Path) -> None:
    path, _ = write(report, tmp_path)
    content = json.loads(path.read_text(encoding="utf-8"))
    content["stages"][2]["after"]["macs"] = "many"
    path.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(InvalidInput, match=r"stages\.2\.after\.macs"):
        read(path)


@pytest.mark.parametrize("fails_at", [1, 2])
def test_a_failure_while_writing_leaves_what_was_there(
    report: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails_at: int
) -> None:
    for name in ("report.json", "report.html"):
        (tmp_path / name).write_text("old", encoding="utf-8")
    writing, calls = Path.write_text, []

    def full_disk(path: Path, text: str, **options: Any) -> int:
        calls.append(path)
        if len(calls) == fails_at:
            writing(path, text[:100], **options)
            raise OSError(28, "No space left on device")
        return writing(path, text, **options)

    monkeypatch.setattr(Path, "write_text", full_disk)
    with pytest.raises(InvalidInput, match="No space left on device"):
        write(report, tmp_path)
    assert {path.name: path.read_text(encoding="utf-8") for path in tmp_path.iterdir()} == {
        "report.json": "old",
        "report.html": "old",
    }


def test_a_failure_while_rendering_writes_nothing(
    report: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(report: Report) -> str:
        raise RuntimeError(report.model)

    monkeypatch.setattr(store, "render", broken)
    with pytest.raises(RuntimeError):
        write(report, tmp_path / "folder")
    assert not (tmp_path / "folder").exists()


def test_a_folder_that_is_a_file_is_refused(report: Report, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("", encoding="utf-8")
    with pytest.raises(InvalidInput, match="cannot be written"):
        write(report, tmp_path / "taken")
