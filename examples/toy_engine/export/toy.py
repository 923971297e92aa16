"""The format of the toy engine: ONNX in the integers of its target, under another suffix."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from .format import Exported, Job
from .onnx.exporter import for_conversion

TITLE = "Toy"
SUFFIX = ".toy"
ENGINE = "toy"
TARGETS = ("toy",)
INSTALL = "pip install onnx onnxscript"

OPSET = 21
"""The first whose integers this engine has."""


def export(job: Job, path: Path) -> Exported:
    """The account of the file that was written to ``path``: all of it, or nothing; see `export.format.Exporter`."""
    return replace(for_conversion(replace(job, opset=job.opset or OPSET), path), format="toy")
