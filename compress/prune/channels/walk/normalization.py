"""Normalizations: parameters along the channels, statistics within one or over those that are left."""

from __future__ import annotations

import math

from torch.fx import Node

from ....graph.trace import argument, shape_of
from ..labels import Value
from .operations import has_argument, name_of
from .pointwise import elementwise
from .rules import rule
from .walker import Walker


@rule("batch_norm instance_norm _native_batch_norm_legit_no_training native_batch_norm cudnn_batch_norm")
def per_channel(walker: Walker, node: Node) -> Value:
    """Parameters and statistics along dimension 1."""
    operand = node.args[0]
    axes = dict(walker.axes(operand))
    channels = axes.get(1)
    reason = f"meets values that cannot be cut: {walker.place(node)}"
    for position, parameter in enumerate(node.args[1:5]):
        if isinstance(parameter, Node):
            channels = walker.meet(channels, walker.axes(parameter).get(0), reason)
            site = walker.site(parameter, 0)
            if position == 0 and site is not None:
                walker.labels.scales.add(site)
    if channels is None:
        axes.pop(1, None)
    else:
        axes[1] = channels
    batch_statistics = has_argument(node, "training") and argument(node, "training")
    if batch_statistics or name_of(node) == "instance_norm":  # as standardized weights have: (1, O, I * h * w)
        for dim, labels in axes.items():
            if dim != 1:
                walker.labels.absent.setdefault(node, []).append((dim, labels))
    value = node.meta["val"]
    return (axes, *({} for _ in value[1:])) if isinstance(value, (tuple, list)) else axes


@rule("prelu")
def prelu(walker: Walker, node: Node) -> Value:
    """One slope for all, or one per channel along dimension 1."""
    axes, weight = dict(walker.axes(node.args[0])), node.args[1]
    assert isinstance(weight, Node)
    if math.prod(shape_of(weight)) > 1:
        reason = f"meets others: {walker.place(node)}"
        together = walker.meet(axes.pop(1, None), walker.axes(weight).get(0), reason)
        if together is not None:
            axes[1] = together
    return axes


@rule("layer_norm rms_norm native_layer_norm")
def over_last(walker: Walker, node: Node) -> Value:
    """layer_norm, rms_norm: statistics over the last dimensions, of the channels that are left."""
    operand = node.args[0]
    assert isinstance(operand, Node)
    ndim, sizes = len(shape_of(operand)), argument(node, "normalized_shape")
    axes = dict(walker.axes(operand))
    reason = f"meets values that cannot be cut: {walker.place(node)}"
    for dim in range(ndim - len(sizes), ndim):
        for name in ("weight", "bias"):
            parameter = argument(node, name) if has_argument(node, name) else None
            if isinstance(parameter, Node):
                labels = walker.meet(axes.pop(dim, None), walker.axes(parameter).get(dim - ndim + len(sizes)), reason)
                if labels is not None:
                    axes[dim] = labels
        if dim in axes:
            walker.labels.absent.setdefault(node, []).append((dim, axes[dim]))
            walker.sized(node, sizes[dim - ndim + len(sizes)], axes[dim])
    value = node.meta["val"]
    return (axes, *({} for _ in value[1:])) if isinstance(value, (tuple, list)) else axes


@rule("group_norm native_group_norm")
def over_groups(walker: Walker, node: Node) -> Value:
    """Statistics over groups of channels, each of which loses the same indices, so that the groups stay equal."""
    operand = node.args[0]
    assert isinstance(operand, Node)
    axes = dict(walker.axes(operand))
    reason = f"meets values that cannot be cut: {walker.place(node)}"
    channels = axes.pop(1, None)
    axes = walker.pin_axes(axes, range(2, len(shape_of(operand))), f"is a position: {walker.place(node)}")
    for name in ("weight", "bias"):
        parameter = argument(node, name)
        if isinstance(parameter, Node):
            channels = walker.meet(channels, walker.axes(parameter).get(0), reason)
    if channels is not None:
        groups = argument(node, "num_groups") if has_argument(node, "num_groups") else argument(node, "group")
        if groups > 1:
            walker.labels.unite_rows(channels.view(groups, -1), reason)
        walker.labels.absent.setdefault(node, []).append((1, channels))
        axes[1] = channels
    value = node.meta["val"]
    return (axes, *({} for _ in value[1:])) if isinstance(value, (tuple, list)) else axes


@rule("local_response_norm")
def across(walker: Walker, node: Node) -> Value:
    """Neighbouring channels are mixed, so they stay."""
    walker.pin_value(node.args[0], f"is mixed with its neighbours: {walker.place(node)}")  # type: ignore[arg-type]
    return elementwise(walker, node)
