"""Core ML: an ``.mlpackage``, a folder with an ML program and its weights, for iPhones and Macs.

The network is traced, written in PyTorch's quantize and dequantize operations where it is quantized, and converted by
coremltools: https://apple.github.io/coremltools/docs-guides/source/convert-pytorch-workflow.html. It is written on any
system and runs on Apple's alone.
"""

from __future__ import annotations

import re
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.fx import GraphModule, Node

from compress.errors import InvalidInput
from compress.files.outputs import new_files
from compress.graph.interface import Names, names_of
from compress.graph.trace import Graph, shape_of, trace
from compress.stage import evaluation_copy

from .decomposed import in_integers
from .format import Exported, Job, NotConvertible
from .quiet import quiet

with quiet():
    import coremltools as ct
    from coremltools.converters.mil.frontend.torch.torch_op_registry import is_torch_fx_node_supported

TITLE = "Core ML"
SUFFIX = ".mlpackage"
ENGINE = "coreml"
TARGETS = ("coreml",)
INSTALL = "pip install coremltools"

MOST_SAMPLES = 256
"""Of a batch whose size varies: Core ML wants to know."""

_DATE = "com.github.apple.coremltools.conversion_date"
_MAPPING = "executorch_debug_handle_mapping.json"


def export(job: Job, path: Path) -> Exported:
    """The account of the package that was written to ``path``.

    Class labels make it a classifier, whose outputs Core ML calls ``classLabel`` and ``classLabel_probs``.

    Raises:
        InvalidInput: the network cannot be traced or converted, or not as asked; says where and what to do.
    """
    path = Path(path)
    few_bits = _refuse(job, path)
    with quiet():
        network, inputs = _network(job)
        converted, notes = _converted(network, inputs, job, path)
        notes += _rename(converted, names_of(trace(job.model, job.example_inputs)), labelled=bool(job.labels))
    if few_bits:
        notes.append("4-bit weights take 8 bits in the file: coremltools stores no fewer from PyTorch's operations")
    specification = converted.get_spec()
    del converted.user_defined_metadata[_DATE]  # the same network gives the same file
    for key, value in job.metadata.items():
        converted.user_defined_metadata[key] = value
    with new_files(path, overwrite=True) as folder, quiet():
        made = folder / path.name
        converted.save(str(made))
        (made / _MAPPING).unlink(missing_ok=True)
    return Exported(
        path,
        "coreml",
        sum(file.stat().st_size for file in _files(path)),
        beside=(),
        inputs=tuple(feature.name for feature in specification.description.input),
        outputs=tuple(feature.name for feature in specification.description.output),
        notes=tuple(notes),
    )


def _files(package: Path) -> list[Path]:
    return sorted(file for file in package.rglob("*") if file.is_file())


def _refuse(job: Job, path: Path) -> bool:
    """Raise InvalidInput where it is known beforehand that it cannot be done; whether weights have 4 bits."""
    if path.suffix != SUFFIX:
        raise InvalidInput(f"export {path}: expected a name that ends with {SUFFIX}: Core ML goes by it")
    if job.interface != "float32":
        raise InvalidInput(f"export {path}: {job.interface} inputs and outputs: Core ML files are written in float32")
    graph = trace(job.model, job.example_inputs, dynamic_batch=True)
    _check_labels(graph, job, path)
    if job.encodings and not job.in_half:
        job.plan.require_products()
    for node in graph.program.run_decompositions({}).graph.nodes:
        if node.op == "call_function" and not is_torch_fx_node_supported(node):
            raise _unsupported(graph, node, path)
    return any(each.kind == "integer" and each.bits <= 4 for each in job.encodings.values())


def _unsupported(graph: Graph, node: Node, path: Path) -> InvalidInput:
    name = str(getattr(node.target, "__name__", node.target)).partition(".")[0]
    return InvalidInput(
        f"export {path}: {graph.source(node)}: coremltools does not convert {name}; write it with other operations, or "
        f"keep it out of the network and compute it on the result"
    )


def _network(job: Job) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """What is converted and the inputs that it is traced on, as they are in the file."""
    network: nn.Module = evaluation_copy(job.model)
    if job.encodings and not job.in_half:
        network = in_integers(job.plan)
    network = network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    inputs = tuple(x.contiguous() for x in job.example_inputs)
    if job.layout == "nchw":
        return network, inputs
    if not isinstance(network, GraphModule):
        module = trace(network, inputs, dynamic_batch=True).program.module(check_guards=False)
        network = GraphModule(module, module.graph)
    for node, x in zip(network.graph.find_nodes(op="placeholder"), inputs, strict=True):
        if x.ndim == 4:
            with network.graph.inserting_after(node):
                moved = network.graph.call_function(torch.ops.aten.permute.default, (node, [0, 3, 1, 2]))
            node.replace_all_uses_with(moved, delete_user_cb=lambda user, made=moved: user is not made)
    network.recompile()
    return network, tuple(x.permute(0, 2, 3, 1).contiguous() if x.ndim == 4 else x for x in inputs)


def _converted(
    network: nn.Module, inputs: tuple[Tensor, ...], job: Job, path: Path
) -> tuple[ct.models.MLModel, list[str]]:
    """The package, with a batch that varies where that is asked for and can be, and what was not done."""
    notes: list[str] = []
    if job.dynamic_batch and not job.labels:
        try:
            program = _traced(network, inputs, varying=True)
            notes.append("Core ML may keep a batch size that varies off the Neural Engine; fix it to run there")
            return _convert(program, job), notes
        except Exception:  # noqa: BLE001 - whatever the reason, the fixed batch decides
            notes = [f"the batch size is fixed at {len(inputs[0])}: the network's code or coremltools fixes it"]
    elif job.dynamic_batch:
        notes.append(f"the batch size is fixed at {len(inputs[0])}: a classifier of Core ML has one")
    try:
        program = _traced(network, inputs, varying=False)
        return _convert(program, job), notes
    except Exception as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = lines[0] if lines else type(error).__name__
        raise NotConvertible(path, "the network cannot be converted to Core ML", reason) from error


def _traced(network: nn.Module, inputs: tuple[Tensor, ...], *, varying: bool) -> ExportedProgram:
    shapes = None
    if varying:
        batch = Dim("batch", min=1, max=MOST_SAMPLES)
        samples = len(inputs[0])
        varies = [x.ndim > 0 and len(x) == samples for x in inputs]
        # As many samples as there may be: the choice of a convolution's backend would narrow the range around fewer.
        inputs = tuple(
            x.new_zeros((MOST_SAMPLES, *x.shape[1:])) if each else x for x, each in zip(inputs, varies, strict=True)
        )
        shapes = tuple({0: batch} if each else None for each in varies)
    program = torch.export.export(network, inputs, dynamic_shapes=shapes, strict=False)
    decomposed: ExportedProgram = program.run_decompositions({})
    return decomposed


def _convert(program: ExportedProgram, job: Job) -> ct.models.MLModel:
    results = [node for node in program.graph_signature.user_outputs if isinstance(node, str)]
    named = ["output"] if len(results) == 1 else [f"output_{place}" for place in range(len(results))]
    return ct.convert(
        program,
        convert_to="mlprogram",
        outputs=[ct.TensorType(name=name) for name in named],
        minimum_deployment_target=ct.target.iOS17,
        compute_precision=ct.precision.FLOAT16 if job.in_half else ct.precision.FLOAT32,
        classifier_config=ct.ClassifierConfig(list(job.labels)) if job.labels else None,
        skip_model_load=True,
    )


def _rename(converted: ct.models.MLModel, names: Names, *, labelled: bool) -> list[str]:
    """Give inputs and outputs the network's names, where Core ML can have them; notes of those that it cannot have.

    The outputs of a classifier keep those that Core ML gave them.
    """
    description = converted.get_spec().description
    pairs = list(zip((feature.name for feature in description.input), names.inputs, strict=True))
    if not labelled:
        pairs += zip((feature.name for feature in description.output), names.outputs, strict=True)
    blocks = converted._spec.mlProgram.functions["main"].block_specializations.values()
    inside = {value.name for block in blocks for each in block.operations for value in each.outputs}
    taken = inside | {old for old, _ in pairs}
    notes = []
    for old, new in pairs:
        if old == new:
            continue
        if not re.fullmatch(r"[A-Za-z_]\w*", new, re.ASCII) or new in taken:
            notes.append(f"{new} is called {old}: Core ML wants another name, of letters, digits and underscores")
            continue
        ct.utils.rename_feature(converted._spec, old, new)
        taken = taken - {old} | {new}
    return notes


def _check_labels(graph: Graph, job: Job, path: Path) -> None:
    """Raise InvalidInput where the labels are not those of the network."""
    sizes = shape_of(graph.outputs[0])
    if job.labels and (len(graph.outputs) != 1 or len(sizes) != 2 or sizes[1] != len(job.labels)):
        raise InvalidInput(
            f"export {path}: {len(job.labels)} labels: expected as many as the network's one result has classes, and "
            f"its shape is {sizes}"
        )
