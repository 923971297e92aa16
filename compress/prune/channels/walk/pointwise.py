"""Operations that work element by element, along a dimension or on maps: what meets becomes one."""

from __future__ import annotations

from torch import Tensor
from torch.fx import Node

from ....graph.trace import shape_of
from ..labels import Axes, Value
from .operations import dim_of, dims_of, name_of
from .rules import rule
from .walker import Walker


@rule("elementwise hardswish hardsigmoid relu6 selu celu softsign hardshrink expand_as rrelu copy where masked_fill")
def elementwise(walker: Walker, node: Node) -> Value:
    """Labels that meet become one; what is broadcast along a dimension has nothing there to cut."""
    shape = shape_of(node)
    reason = f"meets values that cannot be cut: {walker.place(node)}"
    result: Axes = {}
    for axis, size in enumerate(shape):
        together: Tensor | None = None
        first = True
        for operand in node.all_input_nodes:
            operand_shape = shape_of(operand)
            own = axis - len(shape) + len(operand_shape)
            if own < 0 or size == 1 or operand_shape[own] != size:
                continue
            labels = walker.axes(operand).get(own)
            together = labels if first else walker.meet(together, labels, reason)
            first = False
        if together is not None:
            result[axis] = together
    return result


@rule(
    "alias detach lift_fresh lift_fresh_copy clone contiguous to _to_copy type_as dropout feature_dropout "
    "alpha_dropout zeros_like ones_like full_like rand_like randn_like empty_like fill zero bernoulli"
)
def same(walker: Walker, node: Node) -> Value:
    """The first argument's labels, unchanged."""
    return dict(walker.axes(node.args[0]))


@rule("new_zeros new_ones new_empty new_full")
def created(_walker: Walker, _node: Node) -> Value:
    """A new tensor, of which only dtype and device come from the argument."""
    return {}


@rule("mean amax amin std var var_mean std_mean max min logsumexp")
def statistic(walker: Walker, node: Node) -> Value:
    """A statistic over channels is one over those that are left."""
    return reduced(walker, node, absent=True)


@rule("sum norm linalg_vector_norm")
def summed(walker: Walker, node: Node) -> Value:
    """A sum over channels to which masked ones add nothing."""
    return reduced(walker, node, absent=False)


@rule("prod median argmax argmin any all")
def taken_together(walker: Walker, node: Node) -> Value:
    """Reductions that positions matter to: channels stay."""
    operand = _operand(node)
    reason = f"is reduced with others: {walker.place(node)}"
    axes = walker.pin_axes(walker.axes(operand), dims_of(node, len(shape_of(operand))), reason)
    return _remaining(node, axes)


def reduced(walker: Walker, node: Node, *, absent: bool) -> Value:
    """The labels of the dimensions that remain."""
    operand = _operand(node)
    if isinstance(node.args[1] if len(node.args) > 1 else None, Node):  # max(x, y)
        return elementwise(walker, node)
    for dim in dims_of(node, len(shape_of(operand))):
        labels = walker.axes(operand).get(dim)
        if labels is not None:
            if absent:
                walker.labels.absent.setdefault(node, []).append((dim, labels))
            else:
                walker.labels.consumed.setdefault(node, []).append((operand, dim, labels))
    gone = set(dims_of(node, len(shape_of(operand))))
    return _remaining(node, {axis: labels for axis, labels in walker.axes(operand).items() if axis not in gone})


def _operand(node: Node) -> Node:
    operand = node.args[0]
    assert isinstance(operand, Node)
    return operand


def _remaining(node: Node, axes: Axes) -> Value:
    operand = _operand(node)
    ndim = len(shape_of(operand))
    dims = set(dims_of(node, ndim))
    value = node.meta["val"]
    first = value[0] if isinstance(value, (tuple, list)) else value
    if first.ndim != ndim:
        axes = {axis - sum(d < axis for d in dims): labels for axis, labels in axes.items()}
    return tuple(dict(axes) for _ in value) if isinstance(value, (tuple, list)) else axes


@rule("softmax log_softmax _softmax _log_softmax")
def softmax(walker: Walker, node: Node) -> Value:
    """Shares of what is left."""
    operand = _operand(node)
    axes = dict(walker.axes(operand))
    dim = dim_of(node, len(shape_of(operand)))
    if dim in axes:
        walker.labels.absent.setdefault(node, []).append((dim, axes[dim]))
    return axes


@rule("roll flip cumsum sort")
def mixed(walker: Walker, node: Node) -> Value:
    """Operations that mix along given dimensions and keep the shape."""
    operand = _operand(node)
    axes = walker.axes(operand)
    axes = walker.pin_axes(axes, dims_of(node, len(shape_of(operand))), f"is mixed with others: {walker.place(node)}")
    value = node.meta["val"]
    return tuple(dict(axes) for _ in value) if isinstance(value, (tuple, list)) else axes


@rule("glu")
def gated(walker: Walker, node: Node) -> Value:
    """The two halves of a dimension become one."""
    operand = _operand(node)
    dim = dim_of(node, len(shape_of(operand)))
    axes = dict(walker.axes(operand))
    if dim in axes:
        axes[dim] = walker.labels.unite_rows(axes[dim].view(2, -1), f"meets others: {walker.place(node)}")
    return axes


@rule(
    "avg_pool1d avg_pool2d avg_pool3d max_pool1d max_pool2d max_pool3d max_pool2d_with_indices lp_pool2d "
    "adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d "
    "adaptive_max_pool3d _adaptive_avg_pool2d upsample_nearest1d upsample_nearest2d upsample_nearest3d "
    "_upsample_nearest_exact2d upsample_linear1d upsample_bilinear2d upsample_bicubic2d upsample_trilinear3d "
    "_upsample_bilinear2d_aa _upsample_bicubic2d_aa grid_sampler grid_sampler_2d grid_sampler_3d"
)
def spatial(walker: Walker, node: Node) -> Value:
    """Pooling and resizing: labels stay on the dimensions before the spatial ones."""
    operand = _operand(node)
    dims = 3 if "3d" in name_of(node) else 1 if "1d" in name_of(node) else 2
    ndim = len(shape_of(operand))
    reason = f"is a position, not a channel: {walker.place(node)}"
    axes = walker.pin_axes(walker.axes(operand), range(ndim - dims, ndim), reason)
    for other in node.all_input_nodes[1:]:
        walker.pin_value(other, reason)
    value = node.meta["val"]
    return tuple(dict(axes) for _ in value) if isinstance(value, (tuple, list)) else axes
