"""What is inside of an ONNX file: operations, and where its bytes went."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx

from compress.errors import InvalidInput
from compress.sources.onnx_import.reading.read import parse


@dataclass(frozen=True)
class Contents:
    """An ONNX file in numbers.

    Args:
        size_bytes: of the file.
        opset: of the standard operations.
        operators: nodes by operation ("Conv": 21), those of subgraphs included; other domains as "domain:Op".
        bytes_by_dtype: of the stored tensors, by element type ("int8": 270000).
        graph_bytes: the rest of the file: nodes, names, attributes.
        nodes: how many there are.
    """

    size_bytes: int
    opset: int
    operators: Mapping[str, int]
    bytes_by_dtype: Mapping[str, int]
    graph_bytes: int
    nodes: int


def load_model(path: str | Path) -> onnx.ModelProto:
    """The model in the file ``path``, with the tensors that it stores beside itself.

    Raises:
        InvalidInput: there is no such file, or it is not a whole ONNX model.
    """
    model = parse(Path(path), weights=True)
    if not model.graph.node or not model.opset_import:
        raise InvalidInput(f"{path}: not an ONNX model: it has no graph; export or copy it again")
    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError as error:
        reason = next((line for line in str(error).splitlines() if line.strip()), "unknown")
        raise InvalidInput(f"{path}: not a valid ONNX model: {reason}") from error
    return model


def read(path: str | Path) -> Contents:
    """The contents of the ONNX file ``path``, whoever wrote it.

    Raises:
        InvalidInput: there is no such file, or it is not a whole ONNX model.
    """
    return contents_of(load_model(path), Path(path).stat().st_size)


def contents_of(model: onnx.ModelProto, size_bytes: int) -> Contents:
    """The contents of ``model``, which takes ``size_bytes`` as a file."""
    operators: Counter[str] = Counter()
    bytes_by_dtype: Counter[str] = Counter()
    for graph in _graphs(model.graph):
        for node in graph.node:
            operators[f"{node.domain}:{node.op_type}" if node.domain not in ("", "ai.onnx") else node.op_type] += 1
            for attribute in node.attribute:
                for tensor in (*([attribute.t] if attribute.HasField("t") else []), *attribute.tensors):
                    _count(tensor, bytes_by_dtype)
        for tensor in graph.initializer:
            _count(tensor, bytes_by_dtype)
    opset = next((item.version for item in model.opset_import if item.domain in ("", "ai.onnx")), 0)
    stored = sum(bytes_by_dtype.values())
    return Contents(
        size_bytes=size_bytes,
        opset=opset,
        operators=dict(sorted(operators.items())),
        bytes_by_dtype=dict(sorted(bytes_by_dtype.items())),
        graph_bytes=max(size_bytes - stored, 0),
        nodes=operators.total(),
    )


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from _graphs(inner)


def _count(tensor: onnx.TensorProto, bytes_by_dtype: Counter[str]) -> None:
    array_bytes = len(tensor.raw_data)
    if not array_bytes:
        array_bytes = onnx.numpy_helper.to_array(tensor).nbytes
    bytes_by_dtype[onnx.TensorProto.DataType.Name(tensor.data_type).lower()] += array_bytes
