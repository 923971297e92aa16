"""Reading the file: its nodes, weights, inputs and shapes, and what in it cannot be imported."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.inliner
from onnx import AttributeProto, ModelProto, NodeProto, TensorProto, numpy_helper
from onnx.external_data_helper import uses_external_data

from ....errors import InvalidInput
from ....files.untrusted import require_file
from ..operations import FUNCTIONS, ON_SHAPES
from ..step import DTYPES, Array, Attribute, Unsupported, reason_of
from .beside import load_beside
from .sound import called, require_sound, short, type_name

_OLDEST_OPSET = 7
_LARGEST_BYTES = 2**30
"""Of weights within an ONNX file: its format ends at twice as many."""
_MOST_BYTES = 2**31 - 1  # protobuf's own limit
_QUANTIZED = re.compile(r"QLinear|QuantizeLinear|QAttention|QGemm|Integer$|^Q(Add|Mul|Conv|MatMul)")
Dimensions = tuple[int | None, ...]
"""Sizes of a tensor; None where the file leaves one open."""


def read(path: Path) -> ModelProto:
    """The model with its functions inlined.

    Raises:
        InvalidInput: the file is not readable, quantized already, or of an opset that is too old.
    """
    model = parse(path, weights=True)
    operators = [*model.graph.node, *(node for function in model.functions for node in function.node)]
    quantized = [node for node in operators if _QUANTIZED.search(node.op_type)]
    if quantized:
        raise InvalidInput(
            f"{path}: is quantized already ({len(quantized)} nodes such as {label_of(quantized[0], 0)}); give the "
            "float file that it was made from"
        )
    if model.functions:
        try:
            model = onnx.inliner.inline_local_functions(model)
        except Exception as error:
            raise InvalidInput(f"{path}: its functions cannot be inlined: {reason_of(error)}") from error
    opset = opset_of(model)
    if opset < _OLDEST_OPSET:
        raise InvalidInput(
            f"{path}: is of opset {opset}; the oldest that can be imported is {_OLDEST_OPSET}; convert it with "
            "onnx.version_converter"
        )
    return model


def require_supported(model: ModelProto, path: Path) -> None:
    """Raise InvalidInput, naming them, if there are nodes that cannot be imported or are not valid."""
    supported = {*FUNCTIONS, *ON_SHAPES, "Constant", "SplitToSequence", "SequenceAt"}
    unsupported: dict[str, list[str]] = {}
    for index, node in enumerate(model.graph.node):
        if node.op_type not in supported or node.domain not in ("", "ai.onnx"):
            operator = f"{node.domain}.{node.op_type}" if node.domain not in ("", "ai.onnx") else node.op_type
            unsupported.setdefault(operator, []).append(label_of(node, index))
    if unsupported:
        named = "; ".join(f"{operator} ({_few(labels)})" for operator, labels in sorted(unsupported.items()))
        decided = "; which branch of an If runs is decided by open sizes: give --input-shape"
        hint = decided if "If" in unsupported else ""
        raise InvalidInput(f"{path}: operators that cannot be imported: {named}{hint}")
    if model.graph.sparse_initializer:
        name = model.graph.sparse_initializer[0].values.name
        raise InvalidInput(f"{path}: sparse weights cannot be imported; store {short(name)} dense")
    rules = onnx.checker.C.CheckerContext()
    rules.ir_version, rules.opset_imports = max(model.ir_version, 3), {"": opset_of(model)}
    for index, node in enumerate(model.graph.node):
        if node.op_type == "Select":  # ours, in the place of a branch
            continue
        try:
            onnx.checker.check_node(node, rules)
        except onnx.checker.ValidationError as error:
            raise InvalidInput(f"{path}: {called(node, index)} is not valid: {reason_of(error)}") from error


def _few(labels: list[str]) -> str:
    return ", ".join(labels[:20]) + (f" and {len(labels) - 20} more" if len(labels) > 20 else "")


def parse(path: Path, *, weights: bool = False) -> ModelProto:
    """The model as it stands in the file, once it is known to be sound.

    Args:
        weights: read those that lie in other files, too.

    Raises:
        InvalidInput: the file is missing or damaged, or breaks what :mod:`.sound` looks at.
    """
    if not path.exists():
        raise InvalidInput(f"{path}: no such file")
    require_file(path, "ONNX file")
    size = path.stat().st_size
    if not size:
        raise InvalidInput(f"{path}: the file is empty; expected an ONNX file")
    if size > _MOST_BYTES:
        raise InvalidInput(
            f"{path}: has {size:,} bytes, and an ONNX file has {_MOST_BYTES:,} at most; store its weights in a file "
            "beside it"
        )
    try:
        model = onnx.load_model(str(path), format="protobuf", load_external_data=False)
    except Exception as error:
        raise InvalidInput(
            f"{path}: not a readable ONNX file: it is cut short, damaged, of another kind, or nested too deep "
            f"({reason_of(error)})"
        ) from error
    if not model.graph.node and not model.graph.output:
        raise InvalidInput(f"{path}: not an ONNX file: it holds no graph")
    require_sound(model, str(path))
    if weights:
        load_beside(model, path)
    return model


def write_whole(path: Path, place: Path) -> None:
    """Write the model of the file ``path`` to ``place``, with the weights that lie in other files.

    They come into the file itself; beyond :data:`_LARGEST_BYTES`, into ``place`` with ``.data`` behind it.

    Raises:
        InvalidInput: a file is missing or damaged.
    """
    if not any(uses_external_data(tensor) for tensor in _tensors_of(parse(path))):
        shutil.copyfile(path, place)
        return
    model = parse(path, weights=True)
    large = sum(len(tensor.raw_data) for tensor in _tensors_of(model)) > _LARGEST_BYTES
    onnx.save_model(model, str(place), save_as_external_data=large, location=f"{place.name}.data" if large else None)


def gathered(path: Path) -> bytes | None:
    """The file ``path`` with the weights that lie in other files; None where there are none, or too many.

    ONNX Runtime finds shapes before it opens files beside a model, and refuses one whose shapes or axes lie there.
    """
    if not any(uses_external_data(tensor) for tensor in _tensors_of(parse(path))):
        return None
    model = parse(path, weights=True)
    return model.SerializeToString() if model.ByteSize() < _MOST_BYTES else None


def _tensors_of(model: ModelProto) -> list[TensorProto]:
    graphs, tensors = [model.graph], []
    while graphs:
        graph = graphs.pop()
        tensors += graph.initializer
        for attribute in (attribute for node in graph.node for attribute in node.attribute):
            tensors += [attribute.t] if attribute.HasField("t") else attribute.tensors
            graphs += [attribute.g] if attribute.HasField("g") else attribute.graphs
    return tensors


def opset_of(model: ModelProto) -> int:
    """The version of the operators that the file uses."""
    return max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=1)


def label_of(node: NodeProto, index: int) -> str:
    """What to call the node: its name, its first output, or its operator and place in the graph."""
    return node.name or (node.output[0] if node.output and node.output[0] else f"{node.op_type}_{index}")


def dimensions_of(type_: onnx.TypeProto) -> Dimensions | None:
    """The sizes of a tensor of this type; None if the file does not say even how many."""
    tensor = type_.tensor_type
    if not tensor.HasField("shape"):
        return None
    return tuple(d.dim_value if d.HasField("dim_value") and d.dim_value > 0 else None for d in tensor.shape.dim)


def size_names(model: ModelProto) -> dict[str, tuple[str, ...]]:
    """For every input what the file calls its sizes, "" for one without a name: those of one name are equal."""
    return {
        value.name: tuple(d.dim_param for d in value.type.tensor_type.shape.dim)
        for value in model.graph.input
        if value.type.tensor_type.HasField("shape")
    }


def graph_inputs(model: ModelProto) -> list[tuple[str, int, Dimensions | None]]:
    """Name, element type and sizes of every input that is not a weight."""
    weights = {tensor.name for tensor in model.graph.initializer}
    return [
        (value.name, value.type.tensor_type.elem_type, dimensions_of(value.type))
        for value in model.graph.input
        if value.name not in weights
    ]


def attributes_of(node: NodeProto) -> dict[str, Attribute]:
    """The node's attributes as values of Python and numpy.

    Raises:
        Unsupported: one holds a graph or another type without a counterpart.
    """
    attributes: dict[str, Attribute] = {}
    for attribute in node.attribute:
        value: Any = onnx.helper.get_attribute_value(attribute)
        if attribute.type == AttributeProto.TENSOR:
            value = array_of(attribute.t)
        elif attribute.type == AttributeProto.STRING:
            value = value.decode("utf-8", "replace")
        elif attribute.type in (AttributeProto.INTS, AttributeProto.FLOATS):
            value = tuple(value)
        elif attribute.type == AttributeProto.STRINGS:
            value = tuple(item.decode("utf-8", "replace") for item in value)
        elif attribute.type not in (AttributeProto.INT, AttributeProto.FLOAT):
            raise Unsupported(f"the attribute {short(attribute.name)} of type {attribute.type}")
        attributes[attribute.name] = value
    return attributes


def array_of(tensor: TensorProto) -> Array:
    """The tensor's values.

    Raises:
        Unsupported: numpy has no such elements.
    """
    if tensor.data_type not in DTYPES or tensor.data_type == TensorProto.BFLOAT16:
        raise Unsupported(f"the tensor {short(tensor.name)} of type {type_name(tensor.data_type)}")
    return numpy_helper.to_array(tensor)


def constant_of(attributes: Mapping[str, Attribute]) -> Array:
    """The value of a ``Constant`` node with these attributes.

    Raises:
        Unsupported: it is neither numbers nor a tensor.
    """
    for key, value in attributes.items():
        if key == "value" and isinstance(value, np.ndarray):
            return value
        if key in ("value_float", "value_floats"):
            return np.asarray(value, np.float32)
        if key in ("value_int", "value_ints"):
            return np.asarray(value, np.int64)
    raise Unsupported(f"a constant given as {', '.join(attributes)}")
