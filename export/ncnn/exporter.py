"""ncnn: a .param file with the layers, a .bin file with the weights, and the calibration table of integers beside them.

pnnx converts the float network; integers are written from the encodings, as ncnn's own tool would from its table.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from torch.fx import GraphModule

from compress.errors import InvalidInput
from compress.files.outputs import new_files
from compress.graph.interface import Names, names_of, told_by
from compress.graph.trace import Graph, trace
from compress.integers.plan import plan
from compress.stage import evaluation_copy

from ..format import Exported, Job
from . import integers, param, weights
from .convert import Converted, convert
from .param import Layer
from .recurrence import restore_recurrent
from .rewrite import split_packed
from .weights import Weight

TITLE = "ncnn"
SUFFIX = ".ncnn.param"
ENGINE = "ncnn"
TARGETS = ("ncnn",)
INSTALL = "pip install pnnx ncnn"


def export(job: Job, path: Path) -> Exported:
    """The account of the .param file that was written to ``path``, with its .bin (and .table) file beside it.

    Inputs and results have the names that the network tells, as one from an ONNX file does; else they are called in0,
    in1, ... and out0, out1, .... The batch is open, as ncnn computes sample by sample.

    Raises:
        InvalidInput: an operation has no layer in ncnn, the encodings are not such as it has, or something is asked
            for that these files have no place for.
        GateFailed: pnnx failed, or made something else of the network.
    """
    _require(job, path)
    inputs = tuple(x[:1].contiguous() for x in job.example_inputs)
    # Strides of channels-last weights would not be those of the file.
    model = evaluation_copy(job.model).to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    graph = trace(model, inputs)
    split_packed(graph)
    module = _plain(graph)
    restore_recurrent(module, graph, path)
    stand_ins = weights.stand_in(module, graph) if job.encodings else []
    left = _decide(job, model, inputs, stand_ins)
    converted = convert(module, graph, inputs, path)
    if stand_ins:
        weights.locate(stand_ins, converted, path)
        integers.mark(converted.layers, stand_ins)
        converted = Converted(converted.layers, weights.write(stand_ins, converted))
    return _write(converted, stand_ins, path, _notes(job, left), graph)


def _require(job: Job, path: Path) -> None:
    if path.suffix != ".param":
        raise InvalidInput(f"export {path}: expected a name that ends in .param; the weights go to .bin beside it")
    if job.target not in TARGETS:
        raise InvalidInput(f"export {path}: these files are for the target {TARGETS[0]}, not {job.target}")
    if job.interface != "float32":
        raise InvalidInput(f"export {path}: interface {job.interface}: ncnn's inputs and outputs are float32")
    if job.layout != "nchw":
        raise InvalidInput(f"export {path}: layout {job.layout}: ncnn's images are (C, H, W); give them so")
    for number, x in enumerate(job.example_inputs):
        if x.dtype != torch.float32 or x.ndim < 2:
            raise InvalidInput(
                f"export {path}: input {number} is {x.dtype} of shape {tuple(x.shape)}; expected float32, batch first"
            )


def _plain(graph: Graph) -> GraphModule:
    module = graph.program.module(check_guards=False)
    plain = GraphModule(module, module.graph)
    plain.eval()
    return plain


def _decide(job: Job, model: torch.nn.Module, inputs: tuple[Tensor, ...], found: list[Weight]) -> tuple[str, ...]:
    """Set how the weights are stored, from the encodings; returns the layers that they could not be used for."""
    if not job.encodings:
        return ()
    # A graph of its own: activation functions are decomposed in it, which ncnn has as layers.
    planned = plan(model, inputs, job.encodings, job.target)
    planned.require_products()
    return integers.decide(found, planned)


def _notes(job: Job, left: tuple[str, ...]) -> tuple[str, ...]:
    notes = []
    if left:
        shown = ", ".join(left[:3]) + (", ..." if len(left) > 3 else "")
        notes.append(
            f"{len(left)} layers stay in float ({shown}): ncnn has integers for 2-d convolutions and linear layers of "
            "vectors that read integers, and depthwise convolutions are faster in float"
        )
    if job.labels or job.metadata:
        notes.append("labels and metadata are not written: ncnn's files have no place for them")
    return tuple(notes)


def _write(converted: Converted, found: list[Weight], path: Path, notes: tuple[str, ...], graph: Graph) -> Exported:
    names, remarks = _named(converted.layers, graph)
    contents = {path: param.write(converted.layers).encode(), path.with_suffix(".bin"): converted.weights}
    if any(weight.integers is not None for weight in found):
        contents[path.with_suffix(".table")] = integers.table(found).encode()
    with new_files(path, overwrite=True) as folder:
        for file, content in contents.items():
            folder.joinpath(file.name).write_bytes(content)
    for file in {path.with_suffix(".table")} - set(contents):
        file.unlink(missing_ok=True)  # of an earlier file in integers
    return Exported(
        file=path,
        format="ncnn",
        size_bytes=sum(map(len, contents.values())),
        beside=tuple(contents)[1:],
        inputs=names.inputs,
        outputs=names.outputs,
        notes=(*notes, *remarks),
    )


def _named(layers: list[Layer], graph: Graph) -> tuple[Names, tuple[str, ...]]:
    """What inputs and results are called in the file, renamed in ``layers``; and a note where they could not be."""
    entries = [layer.tops[0] for layer in layers if layer.kind == "Input"]
    own = Names(tuple(sorted(entries, key=lambda blob: (len(blob), blob))), param.returned(layers))
    names = names_of(graph)
    wanted = Names(
        names.inputs if told_by(graph.model, "input_names") else own.inputs,
        names.outputs if told_by(graph.model, "output_names") else own.outputs,
    )
    try:
        pairs = zip((*own.inputs, *own.outputs), (*wanted.inputs, *wanted.outputs), strict=True)
        param.rename(layers, {old: new for old, new in pairs if old != new})
    except ValueError as error:
        return own, (f"inputs and results are called {', '.join((*own.inputs, *own.outputs))}: {error}",)
    return wanted, ()
