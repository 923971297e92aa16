"""Weights told apart in ncnn's files: each product is converted with a weight of its own that stands in for the real.

The stand-ins are random, so each is found again by its bytes, wherever the conversion put it; then the real values, or
integers, take its place. Nothing is matched by name or by guess: what is not found is an error.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.fx import GraphModule, Node

from compress.errors import GateFailed
from compress.graph.trace import Graph
from compress.integers.encoding import IntegerParameters
from compress.integers.placement import PRODUCTS
from compress.integers.plan import multiplies_integers
from compress.integers.simulate import constant

from .convert import Converted
from .param import Layer

FLOAT_TAG, HALF_TAG, INTEGER_TAG = 0x00000000, 0x01306B47, 0x000D4B38
"""What stands before a weight, and tells its type (ncnn, modelbin.cpp)."""

TYPES = {FLOAT_TAG: "<f4", HALF_TAG: "<f2", INTEGER_TAG: "i1"}

SCALES, REQUANTIZES = "8", 100
"""The parameter that says that a layer is in integers, and how much is added where its result is as well."""

WEIGHTED = {"Convolution": "6", "ConvolutionDepthWise": "6", "InnerProduct": "2"}
"""Layers whose weights may become integers, and the parameter that has their number of elements."""


@dataclass
class Weight:
    """A product's weight.

    Args:
        node: of the product, by name.
        values: the real ones, output channels first.
        stand_in: what it was converted with.
        may_be_integers: it belongs to a layer that ncnn has integers for.
        integers: how its values become integers, where they do.
        input_scale: then also: what a value that the product reads is multiplied by to become an integer.
        output_scale: likewise of its result, where only products in integers read that.
        half: stored as float16.
        layer: of ncnn that has it, where that is one that may have integers.
        parts: so many layers have a part of it each, in place of that one.
        offset: of its first byte behind the tag.
    """

    node: str
    values: NDArray[np.float32]
    stand_in: NDArray[np.float32]
    may_be_integers: bool
    integers: IntegerParameters | None = None
    input_scale: float = 0.0
    output_scale: float = 0.0
    half: bool = False
    layer: Layer | None = None
    parts: int = 1
    offset: int = 0


def stand_in(module: GraphModule, graph: Graph) -> list[Weight]:
    """Give every product of ``module``, the one of ``graph``, a weight of its own, in place; the list of them."""
    nodes = {node.name: node for node in module.graph.nodes}
    stand_ins: list[Weight] = []
    for node in graph.calls(*PRODUCTS):
        tensor = graph.tensor(node.args[1])
        if tensor is None:
            continue
        values = tensor.detach().cpu().contiguous().numpy().astype(np.float32)
        other = np.random.default_rng(len(stand_ins)).standard_normal(values.shape, np.float32)
        stand_ins.append(Weight(node.name, values, other, multiplies_integers(node)))
        _replace(module, nodes[node.name], other)
    module.graph.lint()
    module.recompile()
    return stand_ins


def _replace(module: GraphModule, node: Node, values: NDArray[np.float32]) -> None:
    node.update_arg(1, constant(module, node, f"{node.name}_weight", torch.from_numpy(values)))


def locate(weights: Sequence[Weight], converted: Converted, path: object) -> None:
    """Find where each weight went: its offset in the file of weights, and the layer it belongs to.

    Raises:
        GateFailed: one is not there, or there twice, or it is not certain which layer has it.
    """
    for weight in weights:
        pattern = weight.stand_in.tobytes()
        weight.offset = converted.weights.find(pattern)
        again = converted.weights.find(pattern, weight.offset + 1)
        tag = converted.weights[weight.offset - 4 : weight.offset]
        if weight.offset < 4 or again >= 0 or tag != FLOAT_TAG.to_bytes(4, "little"):
            how = "lost or changed" if weight.offset < 0 else "did not keep apart"
            raise GateFailed(f"export {path}: the conversion {how} the weight of {weight.node}")
    layers = [each for each in converted.layers if each.kind in WEIGHTED and not each.number("19")]
    placed = sorted((w for w in weights if w.may_be_integers), key=lambda weight: weight.offset)
    fits = len(layers) == len(placed) and all(
        layer.number(WEIGHTED[layer.kind]) == weight.values.size and layer.number("0") == len(weight.values)
        for layer, weight in zip(layers, placed, strict=True)
    )
    if not fits:
        raise GateFailed(
            f"export {path}: the conversion made {len(layers)} convolutions and linear layers of {len(placed)}, "
            f"and it is not certain which is which"
        )
    for layer, weight in zip(layers, placed, strict=True):
        weight.layer = layer


def write(weights: Sequence[Weight], converted: Converted) -> bytes:
    """The file of weights with the real ones, and behind integers the scales that their layers read."""
    made, done = bytearray(), 0
    for weight in sorted(weights, key=lambda weight: weight.offset):
        made += converted.weights[done : weight.offset - 4]
        done = weight.offset + weight.stand_in.nbytes
        if weight.integers is None:
            made += tagged(weight.values, HALF_TAG if weight.half else FLOAT_TAG)
        else:
            size = 4 * len(weight.values) if has_bias(weight.layer) else 0
            made += _in_integers(weight, np.frombuffer(converted.weights[done : done + size], "<f4"))
            done += size
    return bytes(made + converted.weights[done:])


def has_bias(layer: Layer | None) -> bool:
    """Whether a bias follows the weight of ``layer``."""
    return layer is not None and bool(layer.number("1" if layer.kind == "InnerProduct" else "5"))


def tagged(values: NDArray[Any], tag: int) -> bytes:
    """A weight in the type of ``tag``, filled up to whole words."""
    stored = values.astype(TYPES[tag]).tobytes()
    return tag.to_bytes(4, "little") + stored + bytes(-len(stored) % 4)


def _in_integers(weight: Weight, bias: NDArray[np.float32]) -> bytes:
    """Part by part: the weight, the bias, the scales of the weight, of what is read, and of an integer result."""
    assert weight.layer is not None and weight.integers is not None
    ends = [weight.input_scale]
    if weight.layer.number(SCALES) > REQUANTIZES:
        ends.append(weight.output_scale)
    # A part has one group, so a scale for each of its channels.
    scales = weight_scales(weight) if weight.parts == 1 else _channel_scales(weight.integers)
    values = weight.integers.quantize(weight.values, 0)
    parts = (np.split(each, weight.parts) for each in (values, bias, scales))
    return b"".join(
        tagged(rows, INTEGER_TAG) + np.concatenate([offsets, factors, ends]).astype("<f4").tobytes()
        for rows, offsets, factors in zip(*parts, strict=True)
    )


def weight_scales(weight: Weight) -> NDArray[np.float32]:
    """What real weights are multiplied by to become integers: for each output channel, or group of a grouped layer."""
    assert weight.integers is not None and weight.layer is not None
    scales = _channel_scales(weight.integers)
    if weight.layer.kind != "ConvolutionDepthWise":
        return scales
    return scales[:: len(scales) // weight.layer.number("7", 1)]


def _channel_scales(integers: IntegerParameters) -> NDArray[np.float32]:
    return (1 / integers.scale.astype(np.float64)).astype(np.float32)
