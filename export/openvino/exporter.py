"""OpenVINO: a network (.xml) and its weights (.bin), in float32, in float16, or with integers.

The network is converted to ONNX with QuantizeLinear and DequantizeLinear in the target ``openvino``, which OpenVINO's
own reader takes for FakeQuantize, the operation that its low precision transformations start from.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import openvino as ov
from openvino._offline_transformations import apply_moc_transformations
from openvino.preprocess import PrePostProcessor

from compress.clock import LayerShape, Precision
from compress.errors import GateFailed, InvalidInput
from compress.files.outputs import new_files

from .. import rules
from ..format import Exported, Job, NotConvertible
from ..onnx.exporter import for_conversion as write_onnx
from ..onnx.one_layer import layer_file
from ..rules.encodings import require_whole_blocks

TITLE = "OpenVINO"
SUFFIX = ".xml"
ENGINE = "openvino"
TARGETS = ("openvino", "openvino-avx2")
SIZES_VARY = True
INSTALL = "pip install openvino"

_XML_NAME = re.compile(r"[A-Za-z_][\w.-]*")
_WHERE = re.compile(
    r"Exception from|Check '|Errors during|FrontEnd API failed|Model wasn't fully|While validating|-- |Summary:"
)
"""How the lines of OpenVINO's messages begin that do not say what is wrong."""
_INTEGERS = re.compile(r"(scale|zero_point):(.+)")


def export(job: Job, path: Path) -> Exported:
    """The account of the files that were written to ``path`` and, with the suffix .bin, beside it.

    Labels and metadata stand in the file's ``rt_info`` under ``model_info``, labels as OpenVINO Model API reads them:
    with spaces between them, and underscores in them. What integers at inputs and outputs stand for stands under
    ``quantization``.

    Raises:
        InvalidInput: the network cannot be converted, a name of metadata cannot be written, or not to there.
        GateFailed: the conversion went wrong.
    """
    _require_names(job.metadata, path)
    require_whole_blocks(job.model, job.encodings, job.target)
    with tempfile.TemporaryDirectory() as scratch:
        source = Path(scratch) / "network.onnx"
        encodings = {} if job.in_half else job.encodings
        written = write_onnx(replace(job, encodings=encodings, layout="nchw", labels=(), metadata={}), source)
        notes = [*written.notes, *rules.require(source, job.target, path)]
        if any(encoding.kind == "bfloat16" for encoding in job.encodings.values()):
            notes.append("bfloat16: OpenVINO stores these weights as float32; fp16 halves the file")
        model = _read(source, path)
        integers = {entry.key: entry.value for entry in onnx.load(str(source)).metadata_props}
    if job.layout == "nhwc":
        model = _channels_last(model)
    apply_moc_transformations(model, cf=False)
    _tell(model, job, integers)
    with new_files(path, overwrite=True) as folder:
        try:
            ov.save_model(model, folder / path.name, compress_to_fp16=job.in_half)
        except RuntimeError as error:
            raise GateFailed(f"export {path}: OpenVINO cannot write the network: {_reason(error)}") from error
        files = tuple(path.parent / file.name for file in sorted(folder.iterdir()))
        size_bytes = sum(file.stat().st_size for file in folder.iterdir())
    return Exported(
        path,
        "openvino",
        size_bytes,
        beside=tuple(file for file in files if file != path),
        inputs=written.inputs,
        outputs=written.outputs,
        notes=tuple(notes),
    )


def write_layer(layer: LayerShape, precision: Precision, target: str, path: Path) -> None:
    """Write one layer with random weights, from float to float, without a trace: what latencies are measured on."""
    with tempfile.TemporaryDirectory() as scratch:
        source = Path(scratch) / "layer.onnx"
        onnx.save(layer_file(layer, precision, target), source)
        model = _read(source, path)
    apply_moc_transformations(model, cf=False)
    ov.save_model(model, path, compress_to_fp16=False)


def _require_names(metadata: Mapping[str, str], path: Path) -> None:
    """Refuse what cannot be written as XML, before anything is converted."""
    if path.suffix != SUFFIX:
        raise InvalidInput(f"export {path}: expected a name that ends with {SUFFIX}, the weights are written beside it")
    bad = next((key for key in metadata if not _XML_NAME.fullmatch(key) or key == "labels"), None)
    if bad is not None:
        raise InvalidInput(
            f"export {path}: metadata {bad!r}: expected a name of letters, digits, '_', '.' and '-' that starts with a "
            f"letter and is not 'labels'; rename it"
        )


def _read(source: Path, path: Path) -> ov.Model:
    try:
        return ov.Core().read_model(str(source))
    except RuntimeError as error:
        raise NotConvertible(path, "OpenVINO cannot convert the network", _reason(error)) from error


def _channels_last(model: ov.Model) -> ov.Model:
    """``model`` with images (N, H, W, C) at its inputs of four dimensions."""
    images = [port for port in model.inputs if len(port.get_partial_shape()) == 4]
    if not images:
        return model
    steps = PrePostProcessor(model)
    for port in images:
        step = steps.input(port.get_any_name())
        step.tensor().set_layout(ov.Layout("NHWC"))
        step.model().set_layout(ov.Layout("NCHW"))
    return steps.build()


def _tell(model: ov.Model, job: Job, integers: Mapping[str, str]) -> None:
    for key, value in job.metadata.items():
        model.set_rt_info(str(value), ["model_info", key])
    if job.labels:
        model.set_rt_info(" ".join("_".join(label.split()) for label in job.labels), ["model_info", "labels"])
    for key, value in integers.items():
        match = _INTEGERS.fullmatch(key)
        if match is not None:
            model.set_rt_info(value, ["quantization", match[2], match[1]])


def _reason(error: Any) -> str:
    """The lines of a message that say what, not where in OpenVINO's source."""
    lines = [line.strip() for line in str(error).splitlines()]
    messages = [line for line in lines if line and not _WHERE.match(line)]
    return "; ".join(messages[:3]) or type(error).__name__
