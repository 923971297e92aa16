"""How far each operation of a graph sees: the size in input elements of what one of its output elements depends on.

The recurrence of Araujo, Norris and Sim, "Computing Receptive Fields of Convolutional Neural Networks" (2019),
equation 2, forwards: a window of k elements, d apart, grows the field by ``(k - 1) * d * jump``, and a stride of s
multiplies the jump, the distance in the input between neighbouring elements.

Conventions: branches that meet are taken as aligned, so that the largest field wins; normalisation layers count as
per-element, as their statistics are a matter of scale and not of place.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import torch
from torch.fx import Node

from ..graph.trace import Graph, argument, shape_of

CONVOLUTION = frozenset({"conv1d", "conv2d", "conv3d"})
TRANSPOSED = frozenset({"conv_transpose1d", "conv_transpose2d", "conv_transpose3d"})
POOL = frozenset({"max_pool1d", "max_pool2d", "max_pool3d", "avg_pool1d", "avg_pool2d", "avg_pool3d"})
RESHAPE = frozenset({"flatten", "reshape", "view", "squeeze", "unsqueeze", "unflatten", "_unsafe_view"})
SAME_PLACE = frozenset(
    {
        *("batch_norm", "layer_norm", "group_norm", "instance_norm", "rms_norm"),
        *("dropout", "feature_dropout", "alpha_dropout", "contiguous", "clone", "detach", "alias", "to", "_to_copy"),
        *("hardswish", "hardsigmoid", "prelu", "elu", "selu", "celu", "leaky_relu", "cat", "channel_shuffle"),
        *("pad", "constant_pad_nd", "slice", "chunk", "split", "split_with_sizes", "getitem"),
    }
)
TAPS = {"upsample_nearest": 1, "upsample_linear": 2, "upsample_bilinear": 2, "upsample_trilinear": 2}


@dataclass(frozen=True)
class Field:
    """What one element of a tensor sees of the input.

    Args:
        extent: the size of the input.
        size: of the receptive field.
        jump: the distance in the input between neighbours; None where an element sees the whole input.
        places: the dimensions of the tensor that run over the input's places. One alone stands for all of them, in a
            tensor that is flattened.
    """

    extent: tuple[int, ...]
    size: tuple[Fraction, ...]
    jump: tuple[Fraction, ...] | None
    places: tuple[int, ...]

    @property
    def flattened(self) -> bool:
        """Whether one dimension runs over places of several: its neighbours may lie in different rows."""
        return self.places != () and len(self.places) < len(self.extent)

    def everywhere(self) -> Field:
        """A field that is the whole input."""
        return Field(self.extent, tuple(Fraction(n) for n in self.extent), None, ())


def receptive_fields(graph: Graph) -> dict[Node, tuple[int, ...]]:
    """The receptive field of every call that can be followed, as (rows, columns) of the input, or (length,).

    Inputs are (N, C, *places). A field can be larger than the input: it counts padding.
    """
    fields: dict[Node, Field] = {}
    for node in graph.inputs:
        shape = shape_of(node)
        if len(shape) > 1:
            extent = shape[2:] or shape[1:]
            places = tuple(range(len(shape) - len(extent), len(shape)))
            fields[node] = Field(extent, (Fraction(1),) * len(extent), (Fraction(1),) * len(extent), places)
    for node in graph.calls():
        incoming = [argument for argument in node.all_input_nodes if graph.tensor_name(argument) is None]
        known = [fields[argument] for argument in incoming if argument in fields]
        if known and len(known) == len(incoming) and (field := _step(node, known)):
            fields[node] = field
    return {node: tuple(math.ceil(size) for size in field.size) for node, field in fields.items()}


def base_name(node: Node) -> str:
    """The operation without namespace of ATen, overload and in-place mark: "conv2d", "relu", "library::operation"."""
    target = node.target
    if isinstance(target, torch._ops.OpOverload):
        name = target._schema.name.removeprefix("aten::")
        return name.rstrip("_") if target._schema.name.startswith("aten::") else name
    return getattr(target, "__name__", str(target))


def _step(node: Node, fields: list[Field]) -> Field | None:
    name, field = base_name(node), _merge(fields)
    if field is None or field.jump is None:
        return field
    if name in CONVOLUTION or name in POOL or name in TRANSPOSED:
        return None if field.flattened else _window(node, name, field)
    if name.startswith("adaptive_"):
        return _adaptive(node, field)
    if name.startswith("upsample_"):
        return None if field.flattened else _upsample(node, name, field)
    pointwise = isinstance(node.target, torch._ops.OpOverload) and torch.Tag.pointwise in node.target.tags
    if name in SAME_PLACE or pointwise:
        return field
    if name in RESHAPE:
        return _reshape(node, field)
    if name in ("permute", "transpose"):
        return _permute(node, name, field)
    if name == "linear":
        mixed = len(shape_of(node)) - 1
        return field.everywhere() if field.places == (mixed,) else None if mixed in field.places else field
    if name in ("softmax", "log_softmax", "mean", "sum", "amax", "amin"):
        return _reduce(node, name, field)
    return field.everywhere() if name == "scaled_dot_product_attention" else None


def _merge(fields: list[Field]) -> Field | None:
    first = fields[0]
    if any(field.extent != first.extent for field in fields):
        return None
    if any(field.jump is None for field in fields):
        return first.everywhere()
    if any((field.jump, field.places) != (first.jump, first.places) for field in fields):
        return None
    return replace(first, size=tuple(max(sizes) for sizes in zip(*(field.size for field in fields), strict=True)))


def _spread(value: Any, count: int) -> tuple[int, ...]:
    numbers = tuple(value) if isinstance(value, (list, tuple)) else (value,)
    return tuple(int(number) for number in (numbers * count if len(numbers) == 1 else numbers))


def _window(node: Node, name: str, field: Field) -> Field | None:
    """Convolutions, transposed ones and poolings over the last dimensions."""
    assert field.jump is not None
    source = node.args[0]
    assert isinstance(source, Node)
    count = int(name[-2])
    if field.places != tuple(range(len(shape_of(source)) - count, len(shape_of(source)))):
        return None
    if name in POOL:
        kernel = _spread(argument(node, "kernel_size"), count)
        stride = _spread(argument(node, "stride") or kernel, count)
        dilation = (1,) * count if name.startswith("avg") else _spread(argument(node, "dilation"), count)
    else:
        kernel = shape_of(argument(node, "weight"))[2:]
        stride = _spread(argument(node, "stride"), count)
        dilation = _spread(argument(node, "dilation"), count)
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]
    if name in TRANSPOSED:
        # Of a kernel that is laid down every s elements, an element of the output is under ceil(k / s).
        reach = [math.ceil(Fraction(r, s)) for r, s in zip(reach, stride, strict=True)]
    size = tuple(old + (r - 1) * jump for old, r, jump in zip(field.size, reach, field.jump, strict=True))
    scale = [Fraction(1, s) if name in TRANSPOSED else Fraction(s) for s in stride]
    return replace(field, size=size, jump=tuple(j * s for j, s in zip(field.jump, scale, strict=True)))


def _adaptive(node: Node, field: Field) -> Field | None:
    assert field.jump is not None
    source = node.args[0]
    assert isinstance(source, Node)
    value = node.meta["val"]
    before, after = shape_of(source), tuple((value[0] if isinstance(value, (tuple, list)) else value).shape)
    sizes, outputs = [before[p] for p in field.places], [int(after[p]) for p in field.places]
    if all(n == 1 for n in outputs):
        return field.everywhere()
    if field.flattened or any(n % out for n, out in zip(sizes, outputs, strict=True)):
        return None
    step = [n // out for n, out in zip(sizes, outputs, strict=True)]
    size = tuple(old + (s - 1) * jump for old, s, jump in zip(field.size, step, field.jump, strict=True))
    return replace(field, size=size, jump=tuple(j * s for j, s in zip(field.jump, step, strict=True)))


def _upsample(node: Node, name: str, field: Field) -> Field | None:
    assert field.jump is not None
    source = node.args[0]
    assert isinstance(source, Node)
    taps = next((taps for prefix, taps in TAPS.items() if name.startswith(prefix)), None)
    if taps is None:
        return None
    before, after = shape_of(source), shape_of(node)
    scale = [Fraction(before[p], after[p]) for p in field.places]
    size = tuple(old + (taps - 1) * jump for old, jump in zip(field.size, field.jump, strict=True))
    return replace(field, size=size, jump=tuple(j * s for j, s in zip(field.jump, scale, strict=True)))


def _reshape(node: Node, field: Field) -> Field | None:
    """The places that keep their size keep their meaning; all of them in one dimension are flattened."""
    source = node.args[0]
    assert isinstance(source, Node)
    before, after = shape_of(source), shape_of(node)
    places = []
    for place in field.places:
        ahead = math.prod(before[:place])
        matches = [q for q, n in enumerate(after) if n == before[place] and math.prod(after[:q]) == ahead]
        places += matches[-1:]
    if len(places) == len(field.places):
        return replace(field, places=tuple(places))
    # (N, C, H, W) -> (N, C, H * W) or (N, C * H * W): one dimension holds every place.
    first, last = field.places[0], field.places[-1]
    for place in range(len(after)):
        whole = math.prod(after[: place + 1]) == math.prod(before[: last + 1])
        if whole and math.prod(after[:place]) <= math.prod(before[:first]):
            return replace(field, places=(place,))
    return None


def _permute(node: Node, name: str, field: Field) -> Field:
    dimensions = len(shape_of(node))
    order = list(range(dimensions))
    if name == "permute":
        order = [int(d) % dimensions for d in argument(node, "dims")]
    else:
        a, b = int(argument(node, "dim0")) % dimensions, int(argument(node, "dim1")) % dimensions
        order[a], order[b] = order[b], order[a]
    return replace(field, places=tuple(order.index(place) for place in field.places))


def _reduce(node: Node, name: str, field: Field) -> Field | None:
    source = node.args[0]
    assert isinstance(source, Node)
    dimensions = len(shape_of(source))
    try:
        named = argument(node, "dim")
    except KeyError:
        named = None
    chosen = {d % dimensions for d in (range(dimensions) if named in (None, []) else _spread(named, 1))}
    if chosen >= set(field.places):
        return field.everywhere()
    if chosen & set(field.places):
        return None
    if "softmax" in name or argument(node, "keepdim"):
        return field
    return replace(field, places=tuple(place - sum(d < place for d in chosen) for place in field.places))
