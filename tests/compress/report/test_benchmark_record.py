"""A benchmark's record is made of a measurement, field by field of the same name."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest
from pydantic import ValidationError

from compress.report import BenchmarkRecord, NodeCounts
from compress.siblings import runtimes

LEFT_OUT = {"engine", "engine_version", "sentinel_ms", "least_runs", "percentiles", "disturbances"}
"""Fields of a measurement that a record has under another name, or not at all."""


def measurement() -> dict[str, Any]:
    here = runtimes.sensors.conditions.conditions()
    made = runtimes.measure.measurement.Measurement(
        file="net.onnx",
        engine="onnxruntime",
        engine_version="1",
        threads=2,
        preset="quick",
        samples_ms=(1.0, 2.0, 4.0),
        warmup_runs=3,
        duration_s=1.0,
        interleaved=1,
        conditions=here,
        conditions_after=here,
        sentinel_ms=(1.0, 1.0),
        size_bytes=10,
        peak_memory_bytes=None,
        baseline_memory_bytes=None,
        load_ms=1.0,
        loop="a",
        began="2026-11-30T10:00:00.000+00:00",
        sha256="b",
    )
    told: dict[str, Any] = made.to_json()
    return told


def test_a_record_has_the_fields_of_its_measurement() -> None:
    told = measurement()
    record = BenchmarkRecord.of(told, name="net", top1=90.0)
    assert (record.name, record.file, record.runtime, record.runtime_version) == ("net", "net.onnx", "onnxruntime", "1")
    assert (
        record.score is not None
        and record.score.value == 90.0
        and record.latency_ms.p50 == 2.0
        and record.runs == 3
        and record.samples_ms == (1, 2, 4)
    )
    assert record.valid is False and "spread" in record.notes[0]
    assert record.conditions["architecture"] == runtimes.sensors.conditions.conditions().architecture
    names = {field.name for field in fields(runtimes.measure.measurement.Measurement)} - LEFT_OUT
    assert names <= set(BenchmarkRecord.model_fields), "a new fact of measurements reaches reports"
    assert BenchmarkRecord.model_validate_json(record.model_dump_json()) == record


def test_what_a_device_tells_of_nodes_is_counted() -> None:
    executed = {"ops": {"Conv": 2}, "integer": 2, "float": 1, "other": 0, "nodes": []}
    record = BenchmarkRecord.of(measurement() | {"executed": executed})
    assert record.name == "net.onnx" and record.nodes == NodeCounts(integer=2, float=1, other=0)


@pytest.mark.parametrize(
    "wrong", [{"samples_ms": "many"}, {"engine": None}, {"conditions": [1]}, {"executed": {"integer": "x"}}]
)
def test_a_value_of_another_type_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        BenchmarkRecord.of(measurement() | wrong)
