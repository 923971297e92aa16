"""What a network costs: parameters, multiply-adds, bytes and receptive fields, per operation of its traced graph.

Conventions, so that the figures can be compared with others:

- ``macs``: one multiply-add is one. Counted are convolutions, linear layers, matrix products, attention and recurrent
  layers, as arithmetic on dense tensors: multiplications by padding count, the addition of a bias does not.
- Not counted are batch norm (Fold takes it into the layer beside it), other normalisations, activations, poolings,
  additions and everything else; ``Cost.uncounted`` names every one of them, and those that are not known.
- ``bit_operations``: ``macs`` times the bits of both factors, 32 of a float (:mod:`compress.cost.bit_operations`).
- Everything is for one sample. Views (reshape, transpose, slices, dropout in evaluation) cost nothing and have no row.
- ``memory_access_bytes`` of an operation: its inputs and weights read once, its outputs written once (Ma et al.,
  "ShuffleNet V2" (2018), section 2, G1), with no account of caches or of operations that an engine fuses.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Node

from ..graph.trace import Graph, argument, shape_of, trace
from ..integers.plan import Plan
from .bit_operations import operand_bits
from .receptive_field import CONVOLUTION, TRANSPOSED, base_name, receptive_fields

RECURRENT = frozenset({"gru", "lstm", "rnn_tanh", "rnn_relu"})
MATRIX_PRODUCTS = {"matmul": "self", "mm": "self", "bmm": "self", "mv": "self", "dot": "self"} | {
    "addmm": "mat1",
    "baddbmm": "batch1",
    "addmv": "mat",
}
NO_ARITHMETIC = frozenset({"dropout", "feature_dropout", "alpha_dropout", "getitem", "_assert_tensor_metadata"})

_NAMES_BY_REASON = {
    "activation": "relu relu6 hardtanh hardswish hardsigmoid sigmoid tanh silu gelu mish elu selu celu leaky_relu prelu"
    " softplus softsign log_sigmoid glu",
    "softmax": "softmax log_softmax _softmax _log_softmax",
    "normalisation: Fold takes it into the layer beside it where it can": "batch_norm",
    "normalisation": "layer_norm group_norm instance_norm rms_norm normalize _weight_norm local_response_norm",
    "pooling": "max_pool1d max_pool2d max_pool3d avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d"
    " adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d",
    "reduction": "mean sum amax amin max min var std prod argmax argmin cumsum norm linalg_vector_norm all any topk",
    "interpolation": "upsample_nearest1d upsample_nearest2d upsample_nearest3d upsample_linear1d upsample_bilinear2d"
    " upsample_trilinear3d upsample_bicubic2d grid_sampler",
    "moves data, no arithmetic": "cat stack pad constant_pad_nd clone _to_copy copy roll flip index index_select gather"
    " repeat tile channel_shuffle pixel_shuffle pixel_unshuffle masked_fill where embedding repeat_interleave"
    " tril triu",
    "constant": "zeros ones full arange zeros_like ones_like full_like new_zeros new_ones new_full eye scalar_tensor"
    " lift_fresh_copy empty",
}
REASONS = {name: reason for reason, names in _NAMES_BY_REASON.items() for name in names.split()}


@dataclass(frozen=True)
class LayerCost:
    """One operation, in the order in which they run; a module that is called twice has two.

    Args:
        layer: the module that calls it; "" is the network itself.
        operation: "conv2d", "relu", ...
        params: the parameters that it is the first to use.
        macs: multiply-adds; 0 where none are counted.
        bit_operations: of these.
        activation_bytes: of its output.
        memory_access_bytes: of its inputs, weights and outputs.
        output_shape: (1, C, H, W).
        sees: tells the receptive field, which few ask for.
    """

    layer: str
    operation: str
    params: int
    macs: int
    bit_operations: int
    activation_bytes: int
    memory_access_bytes: int
    output_shape: tuple[int, ...]
    sees: Callable[[], tuple[int, ...] | None] = field(default=lambda: None, repr=False, compare=False)

    @property
    def receptive_field(self) -> tuple[int, ...] | None:
        """(rows, columns) of the input, or (length,); the size of the input where an element of the output sees all of
        it; None where it cannot be followed.
        """
        return self.sees()

    def to_json(self) -> dict[str, Any]:
        """Every figure of the layer by its name, in the plain values that JSON has."""
        plain = {each.name: getattr(self, each.name) for each in fields(self) if each.name != "sees"}
        return _listed(plain | {"receptive_field": self.receptive_field})


@dataclass(frozen=True)
class Uncounted:
    """An operation of a layer that ``macs`` leaves out, how often it runs, and why."""

    layer: str
    operation: str
    count: int
    reason: str


@dataclass(frozen=True)
class Cost:
    """The cost of a network on one sample.

    Args:
        params: parameters, those that layers share once.
        macs: multiply-adds.
        size_bytes: of the parameters and the buffers of its state dict, in the types that they have.
        layers: every operation but views.
        uncounted: what is not in ``macs``.
    """

    params: int
    macs: int
    size_bytes: int
    layers: tuple[LayerCost, ...]
    uncounted: tuple[Uncounted, ...]

    @property
    def bit_operations(self) -> int:
        """The bit operations of all layers together: multiply-adds times the bits of both factors."""
        return sum(layer.bit_operations for layer in self.layers)

    @property
    def activation_bytes(self) -> int:
        """Bytes of all outputs together, not of those alive at one time."""
        return sum(layer.activation_bytes for layer in self.layers)

    @property
    def memory_access_bytes(self) -> int:
        """Bytes read and written by all operations together."""
        return sum(layer.memory_access_bytes for layer in self.layers)

    def to_json(self) -> dict[str, Any]:
        """A mapping of plain values, the totals first."""
        return {
            "params": self.params,
            "macs": self.macs,
            "bit_operations": self.bit_operations,
            "size_bytes": self.size_bytes,
            "activation_bytes": self.activation_bytes,
            "memory_access_bytes": self.memory_access_bytes,
            "layers": [layer.to_json() for layer in self.layers],
            "uncounted": [asdict(entry) for entry in self.uncounted],
        }


def cost(network: nn.Module | Graph, example_inputs: tuple[Tensor, ...], planned: Plan | None = None) -> Cost:
    """What ``network`` costs on the first sample of ``example_inputs``.

    Args:
        network: a network, left as it is, or its graph (used as it is if it was traced on one sample).
        example_inputs: one tensor per input of the network, batch first.
        planned: the integers of a quantized network, which bit operations are counted with.

    Raises:
        InvalidInput: the network cannot be traced on one sample.
    """
    if isinstance(network, Graph) and all(shape_of(node)[:1] in ((), (1,)) for node in network.inputs):
        graph = network
    else:
        model = network.model if isinstance(network, Graph) else network
        batched = len({x.shape[0] for x in example_inputs if x.ndim}) == 1
        graph = trace(model, tuple(x[:1] if batched and x.ndim else x for x in example_inputs))
    seen_by = functools.cache(lambda: receptive_fields(graph))
    layers: list[LayerCost] = []
    uncounted: dict[tuple[str, str, str], int] = {}
    seen: set[int] = set()
    for node in graph.calls():
        operation = base_name(node)
        if _is_view(node, operation):
            continue
        weights = list(_weights(graph, node))
        new = {id(tensor): tensor for tensor in weights if isinstance(tensor, nn.Parameter) and id(tensor) not in seen}
        seen.update(new)
        macs, reason = _macs(node, operation)
        if reason:
            key = (graph.layer(node), operation, reason)
            uncounted[key] = uncounted.get(key, 0) + 1
        output_bytes = _bytes(node)
        layers.append(
            LayerCost(
                layer=graph.layer(node),
                operation=operation,
                params=sum(tensor.numel() for tensor in new.values()),
                macs=macs,
                bit_operations=macs * math.prod(operand_bits(graph, node, planned)),
                activation_bytes=output_bytes,
                memory_access_bytes=output_bytes + sum(_bytes(source) for source in node.all_input_nodes),
                output_shape=_first_shape(node),
                sees=lambda node=node: seen_by().get(node),  # type: ignore[misc]
            )
        )
    stored = {id(t): t for _, t in _stored(graph.model)}.values()
    return Cost(
        params=sum(parameter.numel() for parameter in graph.model.parameters()),
        macs=sum(layer.macs for layer in layers),
        size_bytes=sum(tensor.numel() * tensor.element_size() for tensor in stored),
        layers=tuple(layers),
        uncounted=tuple(Uncounted(layer, name, count, why) for (layer, name, why), count in uncounted.items()),
    )


def _listed(record: dict[str, Any]) -> dict[str, Any]:
    return {key: list(value) if isinstance(value, tuple) else value for key, value in record.items()}


def _stored(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The tensors of the state dict, themselves and not copies."""
    for name, value in model.state_dict(keep_vars=True).items():
        if isinstance(value, Tensor):
            yield name, value


def _is_view(node: Node, operation: str) -> bool:
    if operation in NO_ARITHMETIC or not _values(node):  # what gives no tensor asks for a size, or holds it to limits
        return True
    return isinstance(node.target, torch._ops.OpOverload) and bool(node.target.is_view)


def _weights(graph: Graph, node: Node) -> Iterator[Tensor]:
    """The stored tensors that reach ``node``, directly or through views."""
    for source in node.all_input_nodes:
        tensor = graph.tensor(source)
        if tensor is not None:
            yield tensor
        elif source.op == "call_function" and _is_view(source, base_name(source)):
            yield from _weights(graph, source)


def _values(node: Node) -> list[Tensor]:
    value = node.meta.get("val")
    return [v for v in (value if isinstance(value, (tuple, list)) else (value,)) if isinstance(v, Tensor)]


def _sizes(value: Tensor) -> tuple[int, ...]:
    """The shape, with 0 for a size that depends on the values, as that of a selection by a condition."""
    return tuple(size if isinstance(size, int) else 0 for size in value.shape)


def _bytes(node: Node) -> int:
    return sum(math.prod(_sizes(value)) * value.element_size() for value in _values(node))


def _first_shape(node: Node) -> tuple[int, ...]:
    values = _values(node)
    return _sizes(values[0]) if values else ()


def _is_open(node: Node) -> bool:
    """Whether a size of what the node yields or takes depends on the values."""
    values = [value for each in (node, *node.all_input_nodes) for value in _values(each)]
    return any(not isinstance(size, int) for value in values for size in value.shape)


def _macs(node: Node, operation: str) -> tuple[int, str]:
    """Multiply-adds, and the reason for what is not counted ("" if nothing is left out)."""
    if _is_open(node):
        return 0, "its size depends on the values: what it takes is told only when it runs"
    elements = math.prod(_first_shape(node))
    if operation in CONVOLUTION:
        return elements * math.prod(shape_of(argument(node, "weight"))[1:]), ""
    if operation in TRANSPOSED:
        return math.prod(shape_of(argument(node, "input"))) * math.prod(shape_of(argument(node, "weight"))[1:]), ""
    if operation == "linear":
        return elements * shape_of(argument(node, "weight"))[-1], ""
    if operation in MATRIX_PRODUCTS:
        return elements * shape_of(argument(node, MATRIX_PRODUCTS[operation]))[-1], ""
    if operation == "scaled_dot_product_attention":
        query, key, value = (shape_of(argument(node, name)) for name in ("query", "key", "value"))
        return math.prod(query[:-1]) * key[-2] * (query[-1] + value[-1]), "softmax"
    if operation == "einsum":
        return _einsum(node)
    if operation in RECURRENT:
        return _recurrent(node), "activation"
    if operation in REASONS:
        return 0, REASONS[operation]
    if isinstance(node.target, torch._ops.OpOverload) and torch.Tag.pointwise in node.target.tags:
        return 0, "elementwise"
    return 0, "unknown operation: its multiply-adds, if it has any, are missing"


def _einsum(node: Node) -> tuple[int, str]:
    """A contraction of two tensors: the sizes of all its indices, multiplied."""
    equation, operands = str(argument(node, "equation")).replace(" ", ""), argument(node, "tensors")
    terms = equation.split("->")[0].split(",")
    if len(operands) != 2:
        return 0, f"einsum of {len(operands)} tensors: its cost depends on the order of the contractions"
    sizes: dict[str, int] = {}
    for term, operand in zip(terms, operands, strict=True):
        shape = shape_of(operand)
        before, dots, after = term.partition("...")
        letters = zip([*before, *after], [*shape[: len(before)], *shape[len(shape) - len(after) :]], strict=True)
        for letter, size in letters:
            sizes[letter] = max(size, sizes.get(letter, 1))
        if dots:
            for place, size in enumerate(reversed(shape[len(before) : len(shape) - len(after)])):
                sizes[f"...{place}"] = max(size, sizes.get(f"...{place}", 1))
    return math.prod(sizes.values()), ""


def _recurrent(node: Node) -> int:
    """Every weight matrix is applied once per step and sample (gates' elementwise work is left out)."""
    source = shape_of(argument(node, "input"))
    matrices = [shape_of(weight) for weight in argument(node, "params")]
    return math.prod(source[:-1]) * sum(math.prod(shape) for shape in matrices if len(shape) == 2)
