"""Products: a dimension over which a sum is taken ends there, the others go on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from string import ascii_letters

import torch
from torch import Tensor
from torch.fx import Node

from ....graph.trace import argument, shape_of
from ..labels import Axes, Product, Value
from .operations import name_of
from .rules import rule
from .walker import Walker

Operand = tuple[Node, str]
"""A tensor and a letter for each of its dimensions, as in Einstein's notation."""


def contract(walker: Walker, node: Node, operands: Sequence[Operand], out: str) -> Axes:
    """The labels of a sum of products. What one operand labels and another does not cannot be cut."""
    place = walker.place(node)
    sizes: dict[str, int] = {}
    labels_of: dict[str, Tensor] = {}
    bare: set[str] = set()
    for operand, letters in operands:
        for axis, (letter, size) in enumerate(zip(letters, shape_of(operand), strict=True)):
            if size == 1:
                continue
            sizes[letter] = size
            labels = walker.axes(operand).get(axis)
            if labels is None:
                bare.add(letter)
            elif letter in labels_of:
                labels_of[letter] = walker.labels.unite(
                    labels_of[letter], labels, f"meets values that cannot be cut: {place}"
                )
            else:
                labels_of[letter] = labels
    for letter in bare & labels_of.keys():
        walker.labels.pin(labels_of.pop(letter), f"its input cannot be cut: {place}")
    for letter in labels_of.keys() - set(out):
        operand, axis = next(
            (o, t.index(letter)) for o, t in operands if letter in t and shape_of(o)[t.index(letter)] > 1
        )
        walker.labels.consumed.setdefault(node, []).append((operand, axis, labels_of[letter]))
    _count(walker, node, sizes, labels_of, out)
    for operand, letters in operands:
        if walker.graph.tensor(walker.origin(operand)) is not None:
            for letter in labels_of.keys() & set(letters) & set(out):
                walker.produce(node, operand, labels_of[letter])
    return {axis: labels_of[letter] for axis, letter in enumerate(out) if letter in labels_of}


def _count(walker: Walker, node: Node, sizes: dict[str, int], labels_of: dict[str, Tensor], out: str) -> None:
    """Note the multiply-adds: those of the first labelled dimension that ends, times the first that goes on."""
    ending = next((letter for letter in labels_of if letter not in out), None)
    staying = next((letter for letter in reversed(labels_of) if letter in out), None)
    constant = math.prod(size for letter, size in sizes.items() if letter not in (ending, staying))
    sides = (None if letter is None else labels_of[letter] for letter in (ending, staying))
    walker.labels.products.append(Product(walker.graph.layer(node), constant, *sides))


def _with_bias(walker: Walker, node: Node, axes: Axes, bias: object) -> Axes:
    """The sum with a bias along the last dimension."""
    if isinstance(bias, Node):
        last = len(shape_of(node)) - 1
        own = len(shape_of(bias)) - 1
        reason = f"its bias cannot be cut: {walker.place(node)}"
        labels = walker.meet(axes.pop(last, None), walker.axes(bias).get(own), reason)
        if labels is not None:
            axes[last] = labels
    return axes


@rule("linear")
def linear(walker: Walker, node: Node) -> Value:
    """x (..., i) times weight (o, i), plus bias (o,)."""
    x, weight = node.args[0], node.args[1]
    assert isinstance(x, Node) and isinstance(weight, Node)
    batch = ascii_letters[: len(shape_of(x)) - 1]
    axes = contract(walker, node, [(x, f"{batch}Y"), (weight, "ZY")], f"{batch}Z")
    return _with_bias(walker, node, axes, argument(node, "bias"))


@rule("matmul mm bmm mv dot")
def matmul(walker: Walker, node: Node) -> Value:
    """(..., n, k) times (..., k, m), with broadcast dimensions before."""
    return _matmul(walker, node, node.args[0], node.args[1])


def _matmul(walker: Walker, node: Node, x: object, y: object) -> Axes:
    assert isinstance(x, Node) and isinstance(y, Node)
    left, right = len(shape_of(x)), len(shape_of(y))
    batch = ascii_letters[: max(left, right, 2) - 2]
    of_x = "Y" if left == 1 else f"{batch[len(batch) - left + 2 :]}XY"
    of_y = "Y" if right == 1 else f"{batch[len(batch) - right + 2 :]}YZ"
    out = batch + ("X" if left > 1 else "") + ("Z" if right > 1 else "")
    return contract(walker, node, [(x, of_x), (y, of_y)], out)


@rule("addmm baddbmm")
def addmm(walker: Walker, node: Node) -> Value:
    """A bias, plus a product."""
    return _with_bias(walker, node, _matmul(walker, node, node.args[1], node.args[2]), node.args[0])


@rule("einsum")
def einsum(walker: Walker, node: Node) -> Value:
    """The notation itself; an ellipsis or a diagonal is not followed."""
    equation, operands = node.args[0], node.args[1]
    assert isinstance(equation, str) and isinstance(operands, (list, tuple))
    left, arrow, out = equation.replace(" ", "").partition("->")
    letters = left.split(",")
    if not arrow or "." in equation or any(len(set(term)) != len(term) for term in letters):
        return walker.unknown(node)
    return contract(walker, node, [(o, t) for o, t in zip(operands, letters, strict=True) if isinstance(o, Node)], out)


@rule("scaled_dot_product_attention")
def attention(walker: Walker, node: Node) -> Value:
    """softmax(q k^T * scale) v, with q (..., l, d), k (..., s, d), v (..., s, e).

    Without an explicit scale it is 1 / sqrt(d), so that d has to stay.
    """
    q, k, v = node.args[:3]
    assert isinstance(q, Node) and isinstance(k, Node) and isinstance(v, Node)
    ndim = len(shape_of(q))
    batch = ascii_letters[: ndim - 2]
    place = walker.place(node)
    if argument(node, "scale") is None:
        for operand in (q, k):
            walker.pin_axes(walker.axes(operand), (ndim - 1,), f"its scale follows its size: {place}")
    mask = argument(node, "attn_mask")
    if isinstance(mask, Node):
        heads, own = walker.axes(mask), len(shape_of(mask)) - 3
        if own in heads:
            walker.meet(walker.axes(q).get(ndim - 3), heads[own], f"meets values that cannot be cut: {place}")
    scores = contract(walker, node, [(q, f"{batch}XY"), (k, f"{batch}SY")], f"{batch}XS")
    for axis in (ndim - 2, ndim - 1):
        if axis in scores:
            walker.labels.pin(scores[axis], f"is a position, not a channel: {place}")
    if any(shape_of(k)[d] != shape_of(q)[d] for d in range(ndim - 2)):  # queries share keys
        for operand in (q, k, v):
            walker.pin_axes(walker.axes(operand), range(ndim - 2), f"heads share keys: {place}")
    axes = walker.pin_axes(walker.axes(v), (ndim - 2,), f"is a position, not a channel: {place}")
    axes = {axis: labels for axis, labels in axes.items() if axis != ndim - 2}
    for axis in range(ndim - 2):
        labels = walker.meet(axes.pop(axis, None), scores.get(axis), f"meets values that cannot be cut: {place}")
        if labels is not None:
            axes[axis] = labels
    return axes


@rule("embedding")
def embedding(walker: Walker, node: Node) -> Value:
    """Rows of a table: its columns are channels."""
    weight = node.args[0]
    axes = walker.axes(weight)
    walker.pin_axes(axes, (0,), f"is a row of a table: {walker.place(node)}")
    if isinstance(node.args[1], Node):
        walker.pin_value(node.args[1], f"is an index: {walker.place(node)}")
    assert isinstance(weight, Node)
    walker.produce(node, weight, axes.get(1))
    return {len(shape_of(node)) - 1: axes[1]} if 1 in axes else {}


@rule("conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d")
def convolution(walker: Walker, node: Node) -> Value:
    """Convolutions and their transposes: whole, grouped and depthwise."""
    x, weight = node.args[0], node.args[1]
    assert isinstance(x, Node) and isinstance(weight, Node)
    groups = int(argument(node, "groups"))
    weight_shape, in_shape = shape_of(weight), shape_of(x)
    channel_dim = len(in_shape) - (len(weight_shape) - 1)
    place = walker.place(node)
    of_weight = walker.axes(weight)
    walker.pin_axes(of_weight, range(2, len(weight_shape)), f"is a kernel position: {place}")
    positions = range(channel_dim + 1, len(in_shape))
    axes = walker.pin_axes(walker.axes(x), positions, f"is a position, not a channel: {place}")
    inputs = axes.pop(channel_dim, None)
    transposed = "transpose" in name_of(node)
    if groups > 1 and groups == in_shape[channel_dim]:
        outputs = _depthwise(walker, node, inputs, of_weight, transposed, channel_dim)
    else:
        outputs = _grouped(walker, node, inputs, of_weight, transposed, channel_dim, groups)
    bias = argument(node, "bias")
    if isinstance(bias, Node):
        outputs = walker.meet(outputs, walker.axes(bias).get(0), f"its bias cannot be cut: {place}")
    walker.produce(node, weight, of_weight.get(0 if not transposed or groups == in_shape[channel_dim] else 1))
    if outputs is not None:
        axes[channel_dim] = outputs
    return axes


def _positions(node: Node, transposed: bool, channel_dim: int) -> int:
    """How many times a kernel is applied, times the positions of a kernel."""
    x, weight = node.args[0], node.args[1]
    assert isinstance(x, Node) and isinstance(weight, Node)
    shape = shape_of(x) if transposed else shape_of(node)
    return math.prod(shape) // shape[channel_dim] * math.prod(shape_of(weight)[2:])


def _depthwise(
    walker: Walker, node: Node, inputs: Tensor | None, of_weight: Axes, transposed: bool, channel_dim: int
) -> Tensor | None:
    x = node.args[0]
    assert isinstance(x, Node)
    place = walker.place(node)
    in_channels, out_channels = shape_of(x)[channel_dim], shape_of(node)[channel_dim]
    multiplier = out_channels // in_channels
    reason = f"its input cannot be cut: {place}"
    outputs: Tensor | None
    if transposed:
        in_labels = walker.meet(inputs, of_weight.get(0), reason)
        if multiplier > 1 and 1 in of_weight:
            walker.labels.pin(of_weight[1], f"each input channel makes {multiplier}: {place}")
        outputs = None if in_labels is None else in_labels.repeat_interleave(multiplier)
    else:
        repeated = None if inputs is None else inputs.repeat_interleave(multiplier)
        outputs = walker.meet(of_weight.get(0), repeated, reason)
    walker.labels.products.append(
        Product(
            walker.graph.layer(node),
            _positions(node, transposed, channel_dim),
            None,
            _or_zeros(outputs, out_channels),
        )
    )
    return outputs


def _grouped(
    walker: Walker, node: Node, inputs: Tensor | None, of_weight: Axes, transposed: bool, channel_dim: int, groups: int
) -> Tensor | None:
    x = node.args[0]
    assert isinstance(x, Node)
    place = walker.place(node)
    reason = f"its input cannot be cut: {place}"
    in_channels, out_channels = shape_of(x)[channel_dim], shape_of(node)[channel_dim]
    into, out_of = (0, 1) if transposed else (1, 0)
    in_labels, outputs = of_weight.get(into), of_weight.get(out_of)
    together = inputs
    if inputs is not None and groups > 1:
        together = walker.labels.unite_rows(inputs.view(groups, -1), reason)
    if transposed and groups > 1 and in_labels is not None:
        in_labels = walker.labels.unite_rows(in_labels.view(groups, -1), reason)
    if together is not None and in_labels is not None and inputs is not None:
        walker.meet(together, in_labels, reason)
        walker.labels.consumed.setdefault(node, []).append((x, channel_dim, inputs))
    else:
        walker.meet(together, in_labels, reason)
    if outputs is not None and groups > 1:
        if transposed:
            outputs = outputs.repeat(groups)
        elif out_channels == groups:
            walker.labels.pin(outputs, f"each group makes one channel: {place}")
            outputs = None
        else:
            walker.labels.unite_rows(outputs.view(groups, -1), reason)
    walker.labels.products.append(
        Product(
            walker.graph.layer(node),
            _positions(node, transposed, channel_dim),
            _or_zeros(together, in_channels // groups),
            _or_zeros(outputs, out_channels),
        )
    )
    return outputs


def _or_zeros(labels: Tensor | None, count: int) -> Tensor:
    return torch.zeros(count, dtype=torch.int64) if labels is None else labels
