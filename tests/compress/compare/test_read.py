"""Files with measurements: all their forms, and files that are none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from compress.compare.read import read
from compress.errors import InvalidInput
from compress.siblings import runtimes
from tests.support.measurements import bench, record
from tests.support.report_content import content


def written(path: Path, value: object) -> Path:
    path.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")
    return path


def of_a_device() -> dict[str, Any]:
    """What ``python -m runtimes`` prints of a file."""
    here = runtimes.sensors.conditions.conditions()
    measured = runtimes.measure.measurement.Measurement(
        *("net.onnx", "onnxruntime", "1.31.1", 1, "quick", (1.0, 2.0, 3.0), 3, 1.0, 1, here, here, (), 10),
        *(None, None, 1.0),
    )
    told: dict[str, Any] = measured.to_json()
    return told | {"executed": {"ops": {}, "integer": 1, "float": 2, "other": 3, "nodes": []}}


def test_every_form_is_read(tmp_path: Path) -> None:
    (one,) = read(written(tmp_path / "bench.json", bench(record())))
    assert one.name == "net.onnx" and len(one.samples_ms) == 200 and one.machine == "A53, aarch64"
    (two,) = read(written(tmp_path / "device.json", [of_a_device()]))
    assert two.runtime == "onnxruntime" and two.nodes is not None and two.nodes.float == 2
    written(tmp_path / "report.json", content())
    three = read(tmp_path)
    assert [each.name for each in three] == ["baseline", "pruned", "pruned-int8"]
    assert three[2].nodes is not None and three[2].nodes.integer == 31 and three[2].size_bytes == 341_882
    assert three[2].sha256 is not None and three[2].machine == "Intel Xeon (AVX-512 VNNI)"


def without_samples(told: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in told.items() if key != "samples_ms"}


BAD: dict[str, tuple[object, str]] = {
    "not JSON": ("hello", "not JSON at line 1"),
    "empty": ("", "the file is empty"),
    "cut": (json.dumps(bench(record()))[:-40], "truncated"),
    "deep": ("[" * 100_000, "nested too deep"),
    "a number": (3, "expected measurements"),
    "other JSON": ({"a": 1}, "expected measurements"),
    "none": (bench(), "it has none"),
    "an empty list": ([], "it has none"),
    "a list of numbers": ([1, 2], "0: expected a measurement, got int"),
    "no list": ({"measurements": {"a": 1}}, "expected measurements"),
    "no engine": (bench(record(runtime=None)), "0.runtime"),
    "unknown key": (bench(record(latency_us=3)), "0.latency_us: no such key"),
    "words": (bench(record(samples_ms=["fast"])), "0.samples_ms.0"),
    "samples of a mapping": (bench(record(samples_ms={"a": 1})), "0.samples_ms"),
    "nan": (
        bench(record(samples_ms=[1.0, float("nan"), 2.0])),
        "0.samples_ms.1: expected milliseconds over 0, got nan",
    ),
    "infinite": (bench(record(samples_ms=[1.0, float("inf")])), "0.samples_ms.1"),
    "huge": ('{"measurements": [{"name": "a", "runtime": "b", "samples_ms": [1e999]}]}', "0.samples_ms.0"),
    "longer than anyone waits": (
        bench(record(samples_ms=[1e308])),
        "0.samples_ms.0: expected milliseconds over 0, got 1e+308",
    ),
    "zero": (bench(record(), record(samples_ms=[0.0])), "1.samples_ms.0: expected milliseconds over 0, got 0.0"),
    "negative": (bench(record(samples_ms=[-1.0])), "0.samples_ms.0"),
    "no samples": (bench(record(samples_ms=[])), "it was not timed"),
    "no times": (bench(without_samples(record())), "it was not timed"),
    "a median of nothing": (bench(without_samples(record()) | {"latency_ms": {"p50": 0}}), "latency_ms.p50"),
    "seconds": (bench(record(latency_ms={"p50": 0.002})), "both are to be in milliseconds"),
    "threads": (bench(record(threads="all")), "0.threads"),
    "conditions": (bench(record(conditions=[1])), "0.conditions"),
    "nodes": (bench(record(nodes={"integer": "x"})), "0.nodes.integer"),
    "a device's without an engine": ([{"engine": None, "samples_ms": [1.0]}], "0.name"),
    "newer report": ({"schema_version": 99}, "expected schema_version 1"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_no_measurement_is_one_line(case: str, tmp_path: Path) -> None:
    value, expected = BAD[case]
    with pytest.raises(InvalidInput) as caught:
        read(written(tmp_path / "a.json", value))
    message = str(caught.value)
    assert expected in message and str(tmp_path / "a.json") in message and "\n" not in message and len(message) < 500


def test_ten_million_samples_are_not_read(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    with file.open("w") as out:
        out.write('{"measurements": [{"name": "a", "runtime": "b", "samples_ms": [1.0')
        for _ in range(100):
            out.write(",1.125000" * 100_000)
        out.write("]}]}")
    with pytest.raises(InvalidInput, match=r"bytes, and .* is the most; add --large-files"):
        read(file)


def test_places_that_are_no_files(tmp_path: Path) -> None:
    for place, expected in (
        (tmp_path / "none.json", "no such file"),
        (tmp_path, "no such file"),
        (Path("/dev/null"), "got a device"),
        (tmp_path / "a.jsonl", "give it with --log"),
    ):
        with pytest.raises(InvalidInput, match=expected):
            read(place)
