"""What the weights of an ONNX file take in the memory of an engine, as far as the file tells.

An engine computes once, when it loads a file, all that depends on no input, and keeps what the other nodes take of it:
codes that are looked up in a table of levels are then as many floats. Functions of the file are looked into, as engines
do that have no kernel of their own for them. Shapes are those that ONNX infers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..siblings import runtimes
from .tensors import ITEMSIZES

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto, TensorProto

# Bits of an element that are other than those of the items that its bytes are stored as.
_BITS = {14: 64, 15: 128, 21: 4, 22: 4, 23: 4, 25: 2, 26: 2}
_HALF = (10, 16)  # float16, bfloat16
_LARGEST_SHAPE = 64  # elements of an initializer that may be a shape
# What is not computed when a file is loaded. An engine that computes with integers keeps those of a DequantizeLinear.
_AT_RUN = frozenset({"DequantizeLinear", "QuantizeLinear", "Bernoulli", "Multinomial", "RandomNormal", "RandomUniform"})

_STANDARD = ("", "ai.onnx")


@dataclass(frozen=True)
class Memory:
    """The ``bytes`` that weights take, or more if ``at_least``; None for a file that ONNX cannot read."""

    bytes: int | None
    at_least: bool = False


def memory(content: bytes) -> Memory:
    """What the weights of the ONNX file ``content`` take once it is loaded, without activations and the engine itself.

    It is a lower bound, of what is stored, where integers are dequantized or floats have 16 bits, since an engine may
    hold 32 bits of each, and where the operation or the shape of what is made of weights is not known.
    """
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    try:
        model = onnx.load_model_from_string(content)
        runtimes.files.onnx_sound.require_sound(model, "the file")
    except (DecodeError, runtimes.errors.InvalidModel):
        return Memory(None)
    for tensor in model.graph.initializer:
        if math.prod(tensor.dims) > _LARGEST_SHAPE:
            tensor.ClearField("raw_data")  # shapes do not depend on it
    weights = _Weights(at_least=bool(model.graph.sparse_initializer))
    weights.follow(_with_shapes(model).graph)
    held = [weights.known[name] for name in weights.held]
    return Memory(sum(_bytes(*each) for each in held), weights.at_least or any(kind in _HALF for _, kind in held))


@dataclass
class _Weights:
    """What follows from weights alone: elements and type, if ``known``, and the stored tensors that it is made of."""

    at_least: bool
    known: dict[str, tuple[int, int]] = field(default_factory=dict)
    made_of: dict[str, frozenset[str]] = field(default_factory=dict)
    held: set[str] = field(default_factory=set)

    def follow(self, graph: GraphProto) -> None:
        for tensor in graph.initializer:
            self._store(tensor.name, tensor)
        for info in graph.value_info:
            kind = info.type.tensor_type
            if kind.HasField("shape") and all(d.HasField("dim_value") for d in kind.shape.dim):
                self.known.setdefault(info.name, (math.prod(d.dim_value for d in kind.shape.dim), kind.elem_type))
        for node in graph.node:
            self._node(node)
        self._hold([output.name for output in graph.output])

    def _node(self, node: NodeProto) -> None:
        inner = [each.g for each in node.attribute if each.HasField("g")]
        taken = [name for name in node.input if name]
        if node.op_type == "Constant":
            for each in node.attribute:
                if each.HasField("t"):
                    self._store(node.output[0], each.t)
        elif not inner and taken and self._at_load(node) and all(name in self.made_of for name in taken):
            sources = frozenset[str]().union(*(self.made_of[name] for name in taken))
            self.made_of.update(dict.fromkeys(node.output, sources))
        else:
            self._hold(taken)
            changed = taken[:1] if node.op_type == "DequantizeLinear" else taken
            if changed is not taken or node.domain not in _STANDARD:
                self.at_least |= any(name in self.made_of for name in changed)
        for graph in inner:
            self.follow(graph)

    @staticmethod
    def _at_load(node: NodeProto) -> bool:
        return node.domain in _STANDARD and node.op_type not in _AT_RUN

    def _store(self, name: str, tensor: TensorProto) -> None:
        self.known[name] = math.prod(tensor.dims), tensor.data_type
        self.made_of[name] = frozenset({name})

    def _hold(self, names: list[str]) -> None:
        for name in names:
            if name in self.made_of and name not in self.known:
                self.at_least = True
                self.held |= self.made_of[name]
            elif name in self.made_of:
                self.held.add(name)


def _with_shapes(model: ModelProto) -> ModelProto:
    from onnx.inliner import inline_local_functions
    from onnx.shape_inference import InferenceError, infer_shapes

    try:
        if model.functions:
            model = inline_local_functions(model)
        return infer_shapes(model, data_prop=True)
    except (InferenceError, RuntimeError, ValueError):
        return model  # what has no shape is counted as it is stored


def _bytes(elements: int, data_type: int) -> int:
    bits = _BITS.get(data_type, 8 * ITEMSIZES.get(data_type, 1))
    return -(-elements * bits // 8)
