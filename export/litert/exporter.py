"""LiteRT: one ``.tflite`` file that Android, iOS, boards and microcontrollers run, in float or in integers.

The network is traced, written with quantize and dequantize operations where its encodings say so, converted by
litert-torch and then edited: the types of inputs and outputs, weights in fewer bits, needless transpositions, names,
labels. LiteRT: https://ai.google.dev/edge/litert; its integers: https://ai.google.dev/edge/litert/models/quantization_spec.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from compress.errors import InvalidInput
from compress.files.outputs import new_files
from compress.graph.interface import Names, names_of
from compress.graph.trace import Graph, trace
from compress.integers.plan import plan
from compress.stage import evaluation_copy

from ..format import Exported, Job, NotConvertible
from .converter import convert, refusal
from .file import File
from .interface import batches_agree, name_interface, open_batch, set_interface
from .layout import fold_transposes, pad_with_zeros
from .metadata import describe, with_labels
from .names import name_tensors
from .program import channels_last_inputs, program
from .weights import store, widen_biases

TITLE = "LiteRT"
SUFFIX = ".tflite"
ENGINE = "litert"
TARGETS = ("litert",)
INSTALL = "pip install litert-torch ai-edge-litert"

LARGEST_FILE_BYTES = 2**31
REDUCED_PRECISION = b"fp16accfp16"
"""What the engine may compute a float16 file in, where the processor has such arithmetic."""


def export(job: Job, path: Path) -> Exported:
    """The account of the file that was written to ``path``: all of it, or nothing.

    Inputs and outputs are called as :func:`compress.graph.interface.names_of` tells.

    Raises:
        InvalidInput: an operation that the format does not have, encodings of another network, an interface in integers
            of a network that computes in float; says where and what to do.
    """
    model = evaluation_copy(job.model).to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    inputs = tuple(x.contiguous() for x in job.example_inputs)
    graph = trace(model, inputs)
    _require_convertible(graph, path)
    prepared = program(plan(model, inputs, job.encodings, job.target))
    if job.layout == "nhwc":
        inputs = channels_last_inputs(prepared.module, inputs)
    try:
        file = File(convert(prepared.module, inputs))
    except Exception as error:
        raise NotConvertible(path, refusal(error, graph)) from error
    changed = store(file, prepared.weights)
    widen_biases(file)
    fold_transposes(file)
    pad_with_zeros(file)
    name_tensors(file, job.model)
    set_interface(file, job.interface)
    names = names_of(graph)
    name_interface(file, names)
    content, notes = _with_open_batch(file, job)
    if changed:
        notes = (
            *notes,
            f"{changed} weights are stored as 32-bit floats: the converter merged other operations into them",
        )
    return _write(job, path, content, names, (*notes, *_remarks(job)))


def _require_convertible(graph: Graph, path: Path) -> None:
    """Refuse what the format cannot hold, before the conversion."""
    size = sum(tensor.numel() * tensor.element_size() for tensor in graph.program.state_dict.values())
    if size >= LARGEST_FILE_BYTES:
        raise InvalidInput(f"export {path}: {size} bytes of weights, and a .tflite file holds less than 2 GB; prune it")
    for node in graph.calls():
        value = node.meta.get("val")
        if isinstance(value, Tensor) and value.is_complex():
            raise InvalidInput(f"export {path}: LiteRT has no complex numbers ({graph.source(node)})")
        if isinstance(value, Tensor) and value.ndim > 6:
            raise InvalidInput(
                f"export {path}: a tensor of {value.ndim} dimensions, and LiteRT has 6 ({graph.source(node)})"
            )


def _remarks(job: Job) -> list[str]:
    """What the engine makes of encodings that are not its best."""
    integers = [each for each in job.encodings.values() if each.kind == "integer"]
    activations = [each for each in integers if not each.symmetric]
    remarks = []
    if any(each.bits > 8 for each in activations):
        remarks.append(
            "16-bit activations run in LiteRT's reference kernels on a CPU, hundreds of times slower than int8"
        )
    if activations and any(each.bits <= 4 and each.symmetric for each in integers):
        remarks.append("4-bit weights of convolutions run in LiteRT's own kernels, slower than int8: XNNPACK has none")
    return remarks


def _with_open_batch(file: File, job: Job) -> tuple[bytes, tuple[str, ...]]:
    """The content of the file, its batch left open if it then computes the same; and what was not done."""
    batches = {x.shape[0] for x in job.example_inputs if x.ndim}
    if not job.dynamic_batch:
        return file.content(), ()
    fixed = file.content()
    opened = File(fixed)
    if len(batches) == 1:
        open_batch(opened, next(iter(batches)))
        content = opened.content()
        if batches_agree(content):
            return content, ()
    return fixed, (f"the batch is fixed at {sorted(batches)}: the network's operators do not follow another",)


def _write(job: Job, path: Path, content: bytes, names: Names, notes: tuple[str, ...]) -> Exported:
    facts = dict(job.metadata)
    file = File(content)
    if job.labels or facts:
        file.add_metadata("TFLITE_METADATA", describe(names.inputs, names.outputs, facts, labelled=bool(job.labels)))
    for key, value in facts.items():
        file.add_metadata(key, value.encode())
    if job.in_half:
        file.add_metadata("reduced_precision_support", REDUCED_PRECISION)
    file.model.description = b"edgepress"
    content = file.content()
    if job.labels:
        content = with_labels(content, job.labels)
    with new_files(path, overwrite=True) as folder:
        (folder / path.name).write_bytes(content)
    return Exported(path, "litert", len(content), inputs=names.inputs, outputs=names.outputs, notes=notes)
