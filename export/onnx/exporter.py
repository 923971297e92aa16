"""ONNX: one self-contained file, in float or with integers placed by QuantizeLinear and DequantizeLinear.

The network is traced once, converted by ``torch.onnx`` and then edited: operations that engines run in integers are
written as such, everything that no engine reads is taken out. ONNX: https://onnx.ai/onnx/operators/.
"""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import ModelProto
from torch import Tensor, nn

from compress.clock import LayerShape, Precision
from compress.errors import GateFailed, InvalidInput
from compress.files.outputs import new_files
from compress.graph.interface import Names, names_of
from compress.graph.trace import Graph, trace, without_collection
from compress.integers.encoding import Encoding
from compress.integers.plan import Plan, plan_of
from compress.integers.target import target_named
from compress.quantize.scheme import SCHEMES, scheme_of
from compress.stage import evaluation_copy

from .. import rules
from ..format import Exported, InnerValue, Interface, Job, Layout, NotConvertible
from . import parts, values
from .bits import bitwise
from .bits.bit_operators import use_bit_operators
from .contents import contents_of
from .conversion import program, site, torchlib
from .edits import qdq, rewrite
from .edits.half import in_half
from .edits.interface import exchange_integers, take_channels_last
from .edits.kernels import use_integer_kernels
from .half_range import beyond_half
from .one_layer import layer_file

OPSET = 18
LARGEST_FILE_BYTES = 2**31
OLDEST_OPSET, NEWEST_OPSET = 18, 23
FEW_BITS_OPSET = 21
"""The first that has 4-bit and 16-bit integers, and scales per block."""


TITLE = "ONNX"
SUFFIX = ".onnx"
ENGINE = "onnxruntime"
TARGETS = ("ort-x86", "ort-avx2", "ort-arm", "tensorrt", "openvino", "openvino-avx2")
SIZES_VARY = True
HOLDS_LEVELS = True
INSTALL = "pip install onnx onnxscript"


def export(job: Job, path: Path) -> Exported:
    """The account of the file that was written to ``path``; see :class:`export.format.Exporter`.

    Raises:
        GateFailed: a tensor of it breaks a rule of its target.
    """
    return _export(job, path, keeps_rules=True)


def for_conversion(job: Job, path: Path) -> Exported:
    """The same for a file that another engine's converter reads; who calls it holds it against the target's rules."""
    return _export(job, path, keeps_rules=False)


def _export(job: Job, path: Path, *, keeps_rules: bool) -> Exported:
    metadata = dict(job.metadata)
    if job.labels:
        metadata["labels"] = "\n".join(job.labels)
    return export_onnx(
        job.model,
        job.example_inputs,
        path,
        encodings=job.encodings,
        target=job.target,
        opset=job.opset,
        simplify=job.simplify,
        dynamic_batch=job.dynamic_batch,
        dynamic_size=job.dynamic_size,
        metadata=metadata,
        interface=job.interface,
        layout=job.layout,
        keeps_rules=keeps_rules,
    )


def write_layer(layer: LayerShape, precision: Precision, target: str, path: Path) -> None:
    """Write one layer with random weights, from float to float, without a trace: what latencies are measured on."""
    onnx.save(layer_file(layer, precision, target), path)


def name_parts(file: Path, named: Path) -> dict[str, set[str]]:
    """Write ``file`` again to ``named``, its nodes named after the parts of the network; the layers of each part."""
    model = onnx.load(str(file))
    layers = parts.name_parts(model.graph)
    onnx.save(model, str(named))
    return layers


def expose_values(file: Path, exposed: Path) -> tuple[InnerValue, ...]:
    """Write ``file`` again to ``exposed``, with what its layers compute as further outputs; which ones these are."""
    model = onnx.load(str(file))
    found = values.expose(model)
    onnx.save(model, str(exposed))
    return found


def export_onnx(
    model: nn.Module,
    example_inputs: tuple[Tensor, ...],
    path: str | Path,
    *,
    encodings: Mapping[str, Encoding] | None = None,
    target: str = "ort-x86",
    opset: int | None = None,
    simplify: bool = False,
    dynamic_batch: bool = True,
    dynamic_size: bool = False,
    metadata: Mapping[str, str] | None = None,
    interface: Interface = "float32",
    layout: Layout = "nchw",
    keeps_rules: bool = False,
) -> Exported:
    """The account of the file that was written to ``path``: nothing is there before the file is whole and valid.

    Inputs and outputs are called as :func:`compress.graph.interface.names_of` tells.

    Args:
        encodings: of the tensors that run in integers, from the stage Quantize; none writes a float file.
        target: which integers the engine wants: the target's name.
        opset: of the standard operations; left out, the least that the encodings need.
        simplify: run onnxsim over the file, and keep what it makes if that computes the same.
        dynamic_batch: leave the batch size open, where the network allows it.
        dynamic_size: leave height and width of images open; a network whose code fixes them is refused.
        metadata: written into the file.
        interface: the type of inputs and outputs; integers where their first and last operations are in such.
        layout: of images at the file's inputs.
        keeps_rules: refuse a file that breaks a rule of its target, and note what the engine runs slowly.

    Raises:
        InvalidInput: the network cannot be traced or converted, or the encodings, the target and the opset do not fit.
        GateFailed: the conversion left another opset, lost a tensor, or made an invalid file, or it breaks a rule.
    """
    path = Path(path)
    encodings = encodings or {}
    opset = _opset(path, opset, encodings)
    dialect = target_named(target)
    plain, inputs = _contiguous(model, example_inputs)
    graph = trace(plain, inputs, dynamic_batch=dynamic_batch, dynamic_size=dynamic_size)
    names = names_of(graph)
    planned = plan_of(graph, encodings, dialect)
    planned.require_products()
    overflows = beyond_half(graph, inputs) if _whole_in_half(planned) else []
    converted = _converted(planned, opset, path)
    notes = [*_notes(planned, converted), *overflows]
    if simplify:
        converted, note = _simplified(converted, example_inputs)
        notes.append(note)
    _finish(converted, names)
    notes += _present(converted, interface, layout, metadata or {}, path)
    _check(converted, opset, path)
    serialized = converted.SerializeToString()
    with new_files(path, overwrite=True) as folder:
        (folder / path.name).write_bytes(serialized)
        if keeps_rules:
            notes += rules.require(folder / path.name, target, path)
    return _account(path, converted, len(serialized), notes, opset)


def _contiguous(model: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """A copy for evaluation, and inputs, with strides that do not show in the file as gathers of elements."""
    plain: nn.Module = evaluation_copy(model).to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    return plain, tuple(x.contiguous() for x in inputs)


def _converted(planned: Plan, opset: int, path: Path) -> ModelProto:
    """The planned graph in ONNX, with its integers, or as a whole in float16, in the forms that the target runs."""
    dialect, whole_in_half = planned.target, _whole_in_half(planned)
    marked: dict[str, qdq.Marked] = {}
    if not whole_in_half:
        marked = qdq.marks(planned)
        _mark(planned, marked)
    program.simplify(planned.graph)
    converted = _convert(planned.graph, opset, path)
    rewrite.use_global_average_pool(converted.graph)
    if dialect.bit_operators:
        marked = use_bit_operators(converted, marked)
    if marked:
        qdq.place(converted.graph, marked, past_moves=dialect.fuses_sums)
        use_integer_kernels(
            converted.graph,
            x86=dialect.x86_kernels,
            rounds_biases=dialect.integer_bias,
            rounds_numbers=dialect.integer_numbers,
        )
        if dialect.rounds_floats:
            qdq.keep_in_float(converted.graph)
    return in_half(converted) if whole_in_half else converted


def _whole_in_half(planned: Plan) -> bool:
    """Whether all of the file is in float16."""
    return planned.target.half_networks and {encoding.kind for encoding in _of_layers(planned)} == {"float16"}


def _of_layers(planned: Plan) -> list[Encoding]:
    return [planned.encodings[each.layer.weight] for each in planned.layers]


def _notes(planned: Plan, converted: ModelProto) -> list[str]:
    """What users should know of the integers of the file: what its scheme gains, and products of bits."""
    notes = []
    if planned.target.engine == ENGINE:
        name = scheme_of(_of_layers(planned), [planned.encodings[value] for value in planned.values])
        notes += [f"{name}: {SCHEMES[name].gain}"] if name is not None and name != "int8" else []
    if converted.functions:
        count = sum(node.domain == bitwise.DOMAIN for node in converted.graph.node)
        notes.append(f"{count} products of bits: by popcounts in the engine bitwise, in floats in any other")
    return notes


def _present(
    converted: ModelProto, interface: Interface, layout: Layout, metadata: Mapping[str, str], path: Path
) -> list[str]:
    """Give the file the interface, layout and metadata that are wanted; notes on what of the interface stays."""
    properties = dict(metadata)
    notes: list[str] = []
    if interface != "float32":
        grids, notes = exchange_integers(converted.graph, interface, path)
        properties |= grids
    if layout == "nhwc":
        take_channels_last(converted.graph)
    onnx.helper.set_model_props(converted, properties)
    return notes


def _account(path: Path, converted: ModelProto, size_bytes: int, notes: list[str], opset: int) -> Exported:
    return Exported(
        path,
        "onnx",
        size_bytes,
        inputs=tuple(value.name for value in converted.graph.input),
        outputs=tuple(value.name for value in converted.graph.output),
        notes=tuple(notes),
        opset=opset,
        contents=contents_of(converted, size_bytes),
        engine="bitwise" if converted.functions else None,
    )


def _opset(path: Path, asked: int | None, encodings: Mapping[str, Encoding]) -> int:
    few_bits = any(e.kind == "integer" and (e.bits not in (7, 8) or e.block is not None) for e in encodings.values())
    least = FEW_BITS_OPSET if few_bits else OLDEST_OPSET
    opset = max(OPSET, least) if asked is None else asked
    if not OLDEST_OPSET <= opset <= NEWEST_OPSET:
        raise InvalidInput(f"export {path}: opset {opset} is not supported; give {OLDEST_OPSET} to {NEWEST_OPSET}")
    if opset < least:
        raise InvalidInput(f"export {path}: opset {opset} has no 4-bit and 16-bit integers; give {least} or newer")
    return opset


def _mark(planned: Plan, marked: Mapping[str, qdq.Marked]) -> None:
    """Put a mark at every tensor of the planned graph that has one."""
    traced = planned.graph.program
    for product in (each.layer for each in planned.layers):
        weight, bias = product.node.all_input_nodes[1], product.bias_node
        site.mark_argument(traced, product.node, weight, qdq.weight_mark(product))
        if bias is not None and qdq.bias_mark(product) in marked:
            site.mark_argument(traced, product.node, bias, qdq.bias_mark(product))
    for node in [node for node in planned.graph.nodes if node.name in planned.values]:
        site.mark_value(traced, node, qdq.activation_mark(node.name))
    traced.graph_module.recompile()


def _convert(graph: Graph, opset: int, path: Path) -> ModelProto:
    try:
        with _quiet(), without_collection(), torchlib.read_once():
            converted = torch.onnx.export(
                program.Convertible.of(graph.program),
                dynamo=True,
                optimize=True,
                external_data=False,
                verbose=False,
                opset_version=opset,
                custom_translation_table=site.translations(),
            )
        assert converted is not None
        return converted.model_proto
    except Exception as error:
        lines = [line.strip() for line in str(error.__cause__ or error).splitlines() if line.strip()]
        reason = re.split(r" : \[|\. See the stack", lines[0])[0] if lines else type(error).__name__
        raise NotConvertible(path, "the network cannot be converted to ONNX", reason) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the converter's remarks about packages that are not needed off the console."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    loggers += [
        logger
        for name, logger in logging.root.manager.loggerDict.items()
        if isinstance(logger, logging.Logger) and name.startswith(("torch.onnx.", "onnxscript.", "onnx_ir."))
    ]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _finish(model: ModelProto, names: Names) -> None:
    rewrite.name_interface(model.graph, names)
    rewrite.drop_unused(model.graph)
    rewrite.unsign_zeros(model.graph)
    rewrite.share_constants(model.graph)
    rewrite.slim(model)
    model.graph.name = "network"
    model.producer_name = "edgepress"
    model.ClearField("producer_version")
    standard = [item for item in model.opset_import if item.domain != bitwise.DOMAIN]
    oldest = bitwise.OLDEST_IR if model.functions else 0
    model.ir_version = max(oldest, onnx.helper.find_min_ir_version_for(standard))


def _check(model: ModelProto, opset: int, path: Path) -> None:
    if model.ByteSize() >= LARGEST_FILE_BYTES:
        raise InvalidInput(
            f"export {path}: the file would have {model.ByteSize()} bytes, and one ONNX file holds less than "
            f"{LARGEST_FILE_BYTES}; quantize or prune the network first"
        )
    got = {item.domain: item.version for item in model.opset_import}
    if got.get("") != opset:
        raise GateFailed(
            f"export {path}: asked for opset {opset}, and the conversion left {got.get('')}; "
            f"ask for that one, or leave the option out"
        )
    foreign = sorted(set(got) - {""} - ({bitwise.DOMAIN} if model.functions else set()))
    if foreign:
        raise GateFailed(f"export {path}: the file would need operations of {foreign[0]!r}, not of ONNX")
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        reason = next((line for line in str(error).splitlines() if line.strip()), "unknown")
        raise GateFailed(f"export {path}: the conversion made an invalid model: {reason}") from error


def _simplified(model: ModelProto, example_inputs: tuple[Tensor, ...]) -> tuple[ModelProto, str]:
    """What onnxsim makes of ``model``, if it computes the same; else ``model`` itself; and what happened."""
    import onnxsim

    try:
        made, _ = onnxsim.simplify(model)
        before, after = _run(model, example_inputs), _run(made, example_inputs)
    except Exception as error:  # noqa: BLE001 - whatever fails, the file as it was is right
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        return model, f"not simplified: onnxsim failed ({reason})"
    same = all(
        a.shape == b.shape and np.allclose(a, b, rtol=1e-4, atol=1e-4 * max(float(np.abs(a).max(initial=0)), 1e-6))
        for a, b in zip(before, after, strict=True)
    )
    if not same:
        return model, "not simplified: what onnxsim made computes something else"
    return made, f"simplified: {len(model.graph.node)} nodes became {len(made.graph.node)}"


def _run(
    model: ModelProto, example_inputs: tuple[Tensor, ...]
) -> list[np.ndarray[tuple[int, ...], np.dtype[np.generic]]]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    feed = {item.name: x.numpy() for item, x in zip(session.get_inputs(), example_inputs, strict=True)}
    return list(session.run(None, feed))
