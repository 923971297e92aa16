"""ONNX files of a few nodes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

FLOAT = TensorProto.FLOAT
GENERATOR = np.random.default_rng(0)


def real(*shape: int) -> np.ndarray:
    """Random numbers in float32."""
    return GENERATOR.standard_normal(shape).astype(np.float32)


def write(
    path: Path,
    nodes: Sequence[NodeProto],
    inputs: dict[str, tuple[int, Sequence[int | str] | None]],
    weights: dict[str, Any] | None = None,
    outputs: dict[str, int] | None = None,
    opset: int = 17,
) -> Path:
    """The graph as a file; inputs have a type and a shape, outputs a type, weights are arrays or tensors."""
    tensors = [
        value if isinstance(value, TensorProto) else numpy_helper.from_array(np.asarray(value), name)
        for name, value in (weights or {}).items()
    ]
    graph = helper.make_graph(
        list(nodes),
        "graph",
        [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in inputs.items()],
        [helper.make_tensor_value_info(name, kind, None) for name, kind in (outputs or {"y": FLOAT}).items()],
        tensors,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10), path)
    return path
