"""Operations that move data: they are run on the labels themselves."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.fx import Node

from ....graph.trace import argument, shape_of
from ..labels import Axes, Value
from .operations import dim_of, name_of
from .rules import rule
from .walker import Walker

_RESHAPES = ("view", "_unsafe_view", "reshape", "flatten", "unflatten", "view_as", "reshape_as")


@rule(
    "view _unsafe_view reshape flatten unflatten view_as reshape_as permute transpose t numpy_T mT matrix_H swapaxes "
    "swapdims movedim moveaxis squeeze unsqueeze expand repeat tile repeat_interleave pixel_shuffle pixel_unshuffle "
    "channel_shuffle diagonal tril triu unfold"
)
def moved(walker: Walker, node: Node) -> Value:
    """Data movement: the operation itself, on label arrays."""
    source = node.args[0]
    assert isinstance(source, Node)
    if str(node.target).endswith(".dtype"):
        return walker.unknown(node)  # bits read as another type
    ahead = _shuffle(walker, node)
    if ahead is not None:
        return ahead
    result: Axes = {}
    spoilt: set[int] = set()
    for axis, labels in walker.axes(source).items():
        after = _run(node, _spread(labels, axis, shape_of(source)))
        moved = _along_one_axis(walker, node, after)
        if moved is None:
            continue
        new_axis, new_labels = moved
        named = name_of(node) in _RESHAPES and len(new_labels) == len(labels) and _names_sizes(node)
        if named and walker.assume(node, new_labels, 1) is None:
            continue
        if new_axis in result or new_axis in spoilt:  # dimensions merged into one
            spoilt.add(new_axis)
            walker.labels.pin(result.pop(new_axis, new_labels), f"dimensions are merged: {walker.place(node)}")
            walker.labels.pin(new_labels, f"dimensions are merged: {walker.place(node)}")
            continue
        if name_of(node) in _RESHAPES or name_of(node) in ("expand", "repeat"):
            walker.sized(node, len(labels), labels)
            walker.sized(node, len(new_labels), new_labels)
            if len(new_labels) != len(labels):
                _perhaps_tied(walker, node, new_labels)
        result[new_axis] = new_labels
    return result


def _names_sizes(node: Node) -> bool:
    """Whether a reshape names sizes besides the batch and one to infer, as ``x.view(-1, 512)`` does."""
    sizes = node.args[1] if len(node.args) > 1 else ()
    return isinstance(sizes, (list, tuple)) and any(isinstance(s, int) and s > 1 for s in sizes[1:])


def _spread(labels: Tensor, axis: int, shape: tuple[int, ...]) -> Tensor:
    """Labels along one dimension, as an array of the whole shape."""
    return labels.view([-1 if d == axis else 1 for d in range(len(shape))]).expand(shape)


def _run(node: Node, full: Tensor) -> Tensor:
    source = node.args[0]
    if name_of(node) in _RESHAPES:
        return full.reshape(shape_of(node))
    if name_of(node) in ("tril", "triu"):
        return full
    arguments = [full if given is source else given for given in node.args]
    after: Tensor = node.target(*arguments, **node.kwargs)  # type: ignore[operator]
    return after


def _varying(full: Tensor) -> list[int]:
    """The dimensions along which an array of labels is not constant."""
    dimensions = []
    for d in range(full.ndim):
        if full.shape[d] > 1 and full.stride(d) != 0:
            if bool((full != full.narrow(d, 0, 1)).any()):
                dimensions.append(d)
            else:
                full = full.narrow(d, 0, 1)
    return dimensions


def _along_one_axis(walker: Walker, node: Node, full: Tensor) -> tuple[int, Tensor] | None:
    """The dimension along which an array of labels varies, and its labels.

    Where it varies along several, as after a view of C channels as (heads, C / heads), a slice along one of them is
    what can be cut, so the labels within each slice become one. The dimension is the one that the view infers (-1), or
    else the inner ones first, which code derives from the outer ones; of channels to pixels, the outer one.
    """
    varying = _varying(full)
    if not varying:
        labels = full.flatten()[:1]
        if bool((labels != 0).all()):
            walker.labels.pin(labels, f"is taken apart: {walker.place(node)}")
        return None
    for d in set(range(full.ndim)) - set(varying):
        full = full.narrow(d, 0, 1)
    axis = varying[0]
    if len(varying) > 1:
        sizes = node.args[1] if len(node.args) > 1 and isinstance(node.args[1], (list, tuple)) else ()
        inferred = [d for d in varying if d < len(sizes) and sizes[d] == -1]
        order = varying if name_of(node) == "pixel_shuffle" else varying[::-1]
        options = list(dict.fromkeys([*inferred, *order]))
        choice = walker.assume(node, full, len(options))
        if choice is None:
            return None
        axis = options[choice]
    rows = full.movedim(axis, -1).reshape(-1, full.shape[axis])
    return axis, walker.labels.unite_rows(rows, f"is grouped with values that cannot be cut: {walker.place(node)}")


def _perhaps_tied(walker: Walker, node: Node, labels: Tensor) -> None:
    """Dimensions merged into one as wide as the module's own input (``reshape(B, N, C)``): the code may mean that."""
    width = _module_input(walker, node, len(labels))
    if width is None or torch.equal(width, labels):
        return
    choice = walker.assume(node, labels, 2, ties=True)
    if choice == 1:
        walker.labels.unite(labels, width, f"is as wide as the module's input: {walker.place(node)}")
    elif choice is None:
        walker.labels.pin(width, f"the code does not follow its channel count: {walker.place(node)}")


def _module_input(walker: Walker, node: Node, size: int) -> Tensor | None:
    """The labels, ``size`` of them, of a value that enters the module in which ``node`` is called."""
    layer = walker.graph.layer(node)
    inside = walker.inside(layer)
    for other in inside:
        for source in other.all_input_nodes:
            if source not in inside and walker.graph.tensor(source) is None:
                for labels in walker.axes(source).values():
                    if len(labels) == size:
                        return labels
    return None


def _shuffle(walker: Walker, node: Node) -> Value | None:
    """Channels as a grid, transposed, and in one row again (a channel shuffle), or None where this is none.

    The order of the channels that are left follows from their counts in each row of the grid, which stay equal.
    """
    if name_of(node) not in ("view", "reshape", "unflatten", "channel_shuffle"):
        return None
    source = node.args[0]
    assert isinstance(source, Node)
    for axis, labels in walker.axes(source).items():
        if len(torch.unique(labels)) != len(labels):
            continue
        chain = [node]
        full = _run(node, _spread(labels, axis, shape_of(source)))
        split = _varying(full)
        if len(split) != 2 and name_of(node) != "channel_shuffle":
            continue
        rows = int(argument(node, "groups")) if name_of(node) == "channel_shuffle" else full.shape[split[0]]
        while name_of(node) != "channel_shuffle" and len(_varying(full)) == 2:
            users = list(chain[-1].users)
            if len(users) != 1 or name_of(users[0]) not in (*_RESHAPES, "transpose", "permute", "contiguous", "clone"):
                break
            chain.append(users[0])
            full = _run(users[0], full) if name_of(users[0]) not in ("contiguous", "clone") else full
        varying = _varying(full)
        if len(varying) != 1 or full.shape[varying[0]] != len(labels):
            continue
        others = {a: theirs for a, theirs in walker.axes(source).items() if a != axis}
        if others:
            continue
        choice = walker.assume(node, labels, 1 if name_of(node) == "channel_shuffle" else 2)
        if choice is None:
            return {}
        if not walker.exact or choice == 1:
            reason = f"is shuffled with values that cannot be cut: {walker.place(node)}"
            grid = labels.view(rows, -1)
            walker.labels.unite_rows(grid if choice == 0 else grid.T, reason)
        end = varying[0]
        index = [slice(None) if d == end else 0 for d in range(full.ndim)]
        result: Value = {end: full[tuple(index)].clone()}
        for passed in chain:
            walker.values[passed] = result
        return result
    return None


@rule("getitem")
def getitem(walker: Walker, node: Node) -> Value:
    """One of several results."""
    whole, index = node.args[0], node.args[1]
    source = walker.values.get(whole, {}) if isinstance(whole, Node) else {}
    return source[index] if isinstance(source, tuple) and isinstance(index, int) else {}


@rule("im2col")
def patches(walker: Walker, node: Node) -> Value:
    """(N, C, H, W) to (N, C * h * w, positions): every channel h * w times."""
    operand = node.args[0]
    assert isinstance(operand, Node)
    axes = walker.pin_axes(walker.axes(operand), (2, 3), f"is a position, not a channel: {walker.place(node)}")
    if 1 in axes:
        axes[1] = axes[1].repeat_interleave(shape_of(node)[1] // shape_of(operand)[1])
    return axes


@rule("col2im")
def folded(walker: Walker, node: Node) -> Value:
    """(N, C * h * w, positions) to (N, C, H, W): the h * w values of a channel become one."""
    operand = node.args[0]
    assert isinstance(operand, Node)
    axes = walker.pin_axes(walker.axes(operand), (2,), f"is a position, not a channel: {walker.place(node)}")
    if 1 in axes:
        rows = axes[1].view(shape_of(node)[1], -1).T
        axes[1] = walker.labels.unite_rows(rows, f"is summed with values that cannot be cut: {walker.place(node)}")
    return axes


@rule("slice narrow")
def sliced(walker: Walker, node: Node) -> Value:
    """A part by position. Parts that cover a dimension in equal shares lose the same indices, as after a split."""
    operand = node.args[0]
    assert isinstance(operand, Node)
    before, after = shape_of(operand), shape_of(node)
    dim = dim_of(node, len(before))
    axes = dict(walker.axes(operand))
    if dim not in axes or before == after:
        return axes
    labels = axes.pop(dim)
    start, step = _start(node, before[dim])
    part = labels[start : start + step * after[dim] : step]
    equal = step == 1 and after[dim] > 0 and before[dim] % after[dim] == 0 and start % after[dim] == 0
    if walker.assume(node, labels, 1) is None:
        return axes
    if equal and not walker.exact:
        reason = f"is cut out beside values that cannot be cut: {walker.place(node)}"
        walker.labels.unite_rows(labels.view(-1, after[dim]), reason)
    walker.sized(node, before[dim], labels)
    walker.sized(node, after[dim], part)
    if len(part) > 1:
        axes[dim] = part
    else:
        walker.labels.pin(part, f"is cut out by position: {walker.place(node)}")
    return axes


def _start(node: Node, size: int) -> tuple[int, int]:
    start = argument(node, "start")
    step = argument(node, "step") if name_of(node) == "slice" else 1
    start = start if isinstance(start, int) else 0
    return (start + size if start < 0 else min(start, size)), int(step)


@rule("select index_select unbind")
def selected(walker: Walker, node: Node) -> Value:
    """select, unbind: one index of a dimension, whose labels stay; index_select likewise."""
    operand = node.args[0]
    assert isinstance(operand, Node)
    ndim = len(shape_of(operand))
    dim = dim_of(node, ndim)
    axes = walker.pin_axes(walker.axes(operand), (dim,), f"is cut out by position: {walker.place(node)}")
    if name_of(node) == "index_select":
        return axes
    axes = {axis - (axis > dim): labels for axis, labels in axes.items()}
    value = node.meta["val"]
    return tuple(dict(axes) for _ in value) if isinstance(value, (tuple, list)) else axes


@rule("index gather take_along_dim index_put scatter")
def indexed(walker: Walker, node: Node) -> Value:
    """Advanced indexing along some dimensions: the labels of the others stay where they are."""
    operand, indices = node.args[0], node.args[1]
    assert isinstance(operand, Node)
    if name_of(node) != "index" or not isinstance(indices, (list, tuple)):
        return walker.unknown(node)
    reason = f"is cut out by position: {walker.place(node)}"
    for index in indices:
        if isinstance(index, Node):
            walker.pin_value(index, f"is an index: {walker.place(node)}")
    used = [dim for dim, index in enumerate(indices) if isinstance(index, Node)]
    axes = walker.pin_axes(walker.axes(operand), used, reason)
    shape = shape_of(operand)
    adjacent = used == list(range(used[0], used[-1] + 1)) if used else False
    grown = len(shape_of(node)) - (len(shape) - len(used))
    result: Axes = {}
    for axis, labels in axes.items():
        before = sum(dim < axis for dim in used)
        first = grown if not adjacent or used[0] < axis else 0
        result[axis - before + first] = labels
    return result


@rule("chunk split split_with_sizes tensor_split unsafe_chunk unsafe_split")
def split(walker: Walker, node: Node) -> Value:
    """Equal parts lose the same indices, so that the parts stay equal; unequal ones are cut each on its own."""
    operand = node.args[0]
    assert isinstance(operand, Node)
    dim = dim_of(node, len(shape_of(operand)))
    axes = walker.axes(operand)
    parts = [int(value.shape[dim]) for value in node.meta["val"]]
    others = {axis: labels for axis, labels in axes.items() if axis != dim}
    if dim not in axes or walker.assume(node, axes[dim], 1) is None:
        return tuple(dict(others) for _ in parts)
    rows = torch.split(axes[dim], parts)
    if len(set(parts)) == 1 and not walker.exact:
        reason = f"is split beside values that cannot be cut: {walker.place(node)}"
        walker.labels.unite_rows(torch.stack(rows), reason)
    walker.sized(node, sum(parts), axes[dim])
    for size, row in zip(parts, rows, strict=True):
        walker.sized(node, size, row)
    if 1 in parts:
        walker.labels.pin(axes[dim], f"is taken apart: {walker.place(node)}")
        return tuple(dict(others) for _ in parts)
    return tuple({**others, dim: row} for row in rows)


@rule("cat concat concatenate stack")
def concatenated(walker: Walker, node: Node) -> Value:
    """Labels side by side along the dimension, and as one along the others."""
    operands = node.args[0]
    assert isinstance(operands, (list, tuple))
    nodes = [operand for operand in operands if isinstance(operand, Node)]
    nodes = [operand for operand in nodes if len(shape_of(operand)) > 1 or shape_of(operand) != (0,)]
    shapes = [shape_of(operand) for operand in nodes]
    dim = dim_of(node, len(shape_of(node)))
    stacked = name_of(node) == "stack"
    result: Axes = {}
    for axis in range(len(shape_of(node))):
        own = axis - (stacked and axis > dim)
        parts = [walker.axes(operand).get(own) for operand in nodes]
        if axis == dim:
            if not stacked and any(labels is not None for labels in parts):
                zeros = [torch.zeros(shape[dim], dtype=torch.int64) for shape in shapes]
                result[axis] = torch.cat([z if x is None else x for x, z in zip(parts, zeros, strict=True)])
            continue
        together = parts[0]
        for labels in parts[1:]:
            reason = f"stands beside values that cannot be cut: {walker.place(node)}"
            together = walker.meet(together, labels, reason)
        if together is not None:
            result[axis] = together
    return result


@rule("pad constant_pad_nd reflection_pad1d reflection_pad2d replication_pad2d")
def padded(walker: Walker, node: Node) -> Value:
    """Labels on a padded dimension go on with none; any other padding than a constant must leave it alone."""
    operand, pads = node.args[0], node.args[1]
    assert isinstance(operand, Node) and isinstance(pads, (list, tuple))
    ndim = len(shape_of(operand))
    constant = name_of(node) == "constant_pad_nd" or (name_of(node) == "pad" and argument(node, "mode") == "constant")
    axes = dict(walker.axes(operand))
    for axis, labels in list(axes.items()):
        position = 2 * (ndim - 1 - axis)
        around = [int(p) for p in pads[position : position + 2]] or [0, 0]  # type: ignore[arg-type]
        if around == [0, 0]:
            continue
        if constant and min(around) >= 0:
            axes[axis] = torch.nn.functional.pad(labels, around)
        else:
            axes = walker.pin_axes(axes, (axis,), f"is padded with copies: {walker.place(node)}")
    return axes
