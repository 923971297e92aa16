"""The outcome of a run for people: ``report.json``, a self-contained ``report.html`` and tables for the terminal."""

from .console import terminal
from .page import render
from .schema import (
    SCHEMA_VERSION,
    BenchmarkRecord,
    Cost,
    DataRecord,
    EditRecord,
    ExportRecord,
    Gate,
    Latency,
    LayerRecord,
    Layers,
    NodeCounts,
    Parity,
    Report,
    SkipRecord,
    StageRecord,
    Summary,
)
from .store import read, write

__all__ = [
    "SCHEMA_VERSION",
    "BenchmarkRecord",
    "Cost",
    "DataRecord",
    "EditRecord",
    "ExportRecord",
    "Gate",
    "Latency",
    "LayerRecord",
    "Layers",
    "NodeCounts",
    "Parity",
    "Report",
    "SkipRecord",
    "StageRecord",
    "Summary",
    "read",
    "render",
    "terminal",
    "write",
]
