"""An engine file from a network: ONNX in the target's integers, held against its rules, then built."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import onnx

from compress.errors import InvalidInput

from .. import rules
from ..format import Job
from ..onnx.exporter import for_conversion as write_onnx
from ..rules.encodings import require_whole_blocks
from .builder import Built, Wishes
from .trtexec import profiles


@dataclass(frozen=True)
class Made:
    """An engine, with the names of its inputs and outputs, and what is to be told of it."""

    built: Built
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    notes: tuple[str, ...]


def engine_of(job: Job, path: Path, build: Callable[[Path, Wishes], Built]) -> Made:
    """The engine of a network; ``build`` makes it from an ONNX file and the shapes to build for.

    An open batch is built for 1 to `LARGEST_BATCH` samples, fastest at the example's.

    Raises:
        InvalidInput: the network cannot be converted, or integers are asked for at its inputs.
        GateFailed: a tensor breaks a rule of TensorRT.
    """
    if job.interface != "float32":
        raise InvalidInput(f"export {path}: TensorRT quantizes inputs by itself; leave --interface out")
    require_whole_blocks(job.model, job.encodings, job.target)
    with tempfile.TemporaryDirectory() as scratch:
        source = Path(scratch) / "network.onnx"
        written = write_onnx(replace(job, labels=(), metadata={}, dynamic_size=False), source)
        notes = [*written.notes, *rules.require(source, job.target, path)]
        taken = [tuple(x.shape) for x in job.example_inputs]
        if job.layout == "nhwc":
            taken = [(s[0], s[2], s[3], s[1]) if len(s) == 4 else s for s in taken]
        built = build(source, Wishes(profiles(onnx.load(str(source)), taken)))
    if job.labels or job.metadata:
        notes.append("labels and metadata: an engine has no place for them")
    return Made(built, written.inputs, written.outputs, tuple(notes))
