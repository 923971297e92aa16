"""What the table of measurements says of files that are compared, and of times that mean nothing."""

from __future__ import annotations

from rich.table import Table

from compress.cli.output.bench_table import bench_table
from compress.report.schema import BenchmarkRecord, Latency


def record(name: str, p50: float, **known: object) -> BenchmarkRecord:
    facts = {"runtime": "onnxruntime", "runs": 10, "latency_ms": Latency(p50=p50)} | known
    return BenchmarkRecord.model_validate({"name": name} | facts)


def cells(table: Table, heading: str) -> list[str]:
    (column,) = (each for each in table.columns if each.header == heading)
    return [str(cell) for cell in column.cells]


def test_a_file_is_compared_with_the_first_one() -> None:
    assert cells(bench_table([record("a", 4.0), record("b", 2.0)]), "speed") == ["1.00x", "2.00x"]


def test_times_of_an_emulated_processor_are_not_ranked() -> None:
    emulated = {"conditions": {"emulated": True}, "valid": False}
    table = bench_table([record("a", 4.0, **emulated), record("b", 2.0, **emulated)])
    assert cells(table, "speed") == ["-", "-"] and cells(table, "file") == ["a (invalid)", "b (invalid)"]
