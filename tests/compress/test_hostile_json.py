"""JSON that somebody else wrote, or that was cut, is held to its schema: one line, and nothing of it is used."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from compress.errors import InvalidInput
from compress.pipeline.resume import ORIGIN, Origin
from compress.prune.sensitivity import Sensitivity
from compress.quantize.budget.sensitivity import PrecisionSensitivity, _Sums
from compress.report import read as read_report
from compress.sources import artifact

READERS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "sensitivity": ("sensitivity.json", Sensitivity.read),
    "scan": ("sensitivity.json", PrecisionSensitivity.read),
    "report": ("report.json", read_report),
    "manifest": ("manifest.json", artifact.read_manifest),
}
TEXTS = {
    "nothing": b"",
    "cut": b'{"a": [1, 2',
    "not JSON": b"{'a': 1}",
    "deep": b"[" * 100_000,
    "deep mapping": b'{"a":' * 100_000,
    "many digits": b'{"samples": ' + b"1" * 5000 + b"}",
    "not UTF-8": b'{"a": "\xff"}',
    "a list": b"[]",
    "a number": b"3",
    "null": b"null",
    "no keys": b"{}",
    "NaN": b'{"schema_version": NaN, "top1": NaN}',
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("text", TEXTS)
def test_what_is_none_is_refused(reader: str, text: str, tmp_path: Path) -> None:
    name, read = READERS[reader]
    (tmp_path / name).write_bytes(TEXTS[text])
    with pytest.raises(InvalidInput) as refused:
        read(tmp_path)
    told = str(refused.value)
    assert str(tmp_path) in told and name in told and "\n" not in told and len(told) < 400, told


@pytest.mark.parametrize("reader", READERS)
def test_pipes_are_not_waited_for(reader: str, tmp_path: Path) -> None:
    name, read = READERS[reader]
    os.mkfifo(tmp_path / name)
    with pytest.raises(InvalidInput, match="expected a file, got a named pipe"):
        read(tmp_path)


SCORE = {"name": "top-1", "value": 95.0, "unit": " %"}
GROUP = {"layers": ["a"], "number": 1, "width": 8, "removed": [0.25, 0.5], "losses": [5.0, 15.0]}
SENSITIVITY = {"criterion": "l2", "ratios": [0.25, 0.5], "score": SCORE, "samples": 10, "groups": [GROUP]}
UNIT = {"layers": ["a"], "weight": "a.weight", "parameters": 8, "precisions": ["int4", "int8"], "noise": [0.1, 0.01]}
SCAN = {"around": "float", "samples": 10, "layers": [UNIT]}


@pytest.mark.parametrize(
    "part, change, says",
    [
        ("", {"samples": 0}, "samples"),
        ("", {"samples": 10**30}, "samples"),
        ("", {"samples": "many"}, "samples"),
        ("", {"score": {**SCORE, "value": float("nan")}}, "score.value"),
        ("", {"score": {**SCORE, "value": "much"}}, "score.value"),
        ("", {"more": 1}, "more"),
        ("", {"groups": {}}, "groups"),
        ("groups", {"layers": []}, "groups.0.layers"),
        ("groups", {"width": -1}, "groups.0.width"),
        ("groups", {"removed": [0.25]}, "a loss for each"),
        ("groups", {"removed": [0.5, 0.25]}, "ascending"),
        ("groups", {"removed": [0.25, 2.0]}, "groups.0.removed.1"),
        ("groups", {"losses": [5.0, None]}, "groups.0.losses.1"),
        ("groups", {"losses": [5.0, float("inf")]}, "groups.0.losses.1"),
    ],
)
def test_a_scan_of_channels_is_held_to_its_schema(part: str, change: dict[str, Any], says: str, tmp_path: Path) -> None:
    assert json.loads(json.dumps(SENSITIVITY)) == SENSITIVITY
    told = {**SENSITIVITY, "groups": [{**GROUP, **change}]} if part else {**SENSITIVITY, **change}
    (tmp_path / "sensitivity.json").write_text(json.dumps(told))
    with pytest.raises(InvalidInput, match="not what compress sensitivity writes") as refused:
        Sensitivity.read(tmp_path)
    assert says in str(refused.value)


@pytest.mark.parametrize(
    "part, change, says",
    [
        ("", {"samples": 10**30}, "samples"),
        ("", {"of": "prune"}, "of"),
        ("", {"noise": float("inf")}, "noise"),
        ("layers", {"precisions": ["int4"]}, "a value for each of the precisions"),
        ("layers", {"noise": [0.1]}, "a value for each of the precisions"),
        ("layers", {"score": [1.0, 2.0, 3.0]}, "a value for each of the precisions"),
        ("layers", {"precisions": ["int4", "int3"]}, "layers.0.precisions.1"),
        ("layers", {"parameters": 0}, "layers.0.parameters"),
        ("layers", {"layers": []}, "layers.0.layers"),
    ],
)
def test_a_scan_of_precisions_is_held_to_its_schema(
    part: str, change: dict[str, Any], says: str, tmp_path: Path
) -> None:
    told = {**SCAN, "layers": [{**UNIT, **change}]} if part else {**SCAN, **change}
    (tmp_path / "sensitivity.json").write_text(json.dumps(told))
    with pytest.raises(InvalidInput, match="not the scan of a quantization") as refused:
        PrecisionSensitivity.read(tmp_path)
    assert says in str(refused.value)


@pytest.mark.parametrize("text", [*TEXTS.values(), b'{"digest": "d", "noise": [["a"], [1]], "right": [0, 0]}',
                                  b'{"digest": "d", "noise": [[1], [1]], "right": [0]}',
                                  b'{"digest": "d", "noise": [[1], [1, 2]], "right": [0, 0]}'])  # fmt: skip
def test_an_interrupted_scan_goes_on_only_from_what_it_wrote(text: bytes, tmp_path: Path) -> None:
    record = tmp_path / ".out.scan.json"
    record.write_bytes(text)
    assert _Sums.resumed(record, "d", 1) == _Sums("d", [[], []], [0, 0])
    _Sums("d", [[1.0], [2.0]], [3, 4], [5.0]).keep(record)
    assert _Sums.resumed(record, "d", 1) == _Sums("d", [[1.0], [2.0]], [3, 4], [5.0])


@pytest.mark.parametrize("text", [*TEXTS.values(), b'{"facts": 3, "files": {}}', b'{"facts": {}, "files": [[1]]}'])
def test_an_interrupted_run_goes_on_only_from_what_it_wrote(text: bytes, tmp_path: Path) -> None:
    (tmp_path / ORIGIN).write_bytes(text)
    assert Origin({}, {}).other_than(tmp_path) == "what it started from"
