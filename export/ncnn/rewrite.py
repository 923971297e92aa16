"""What the traced graph is rewritten to before the conversion, where ncnn has the values in another form only."""

from __future__ import annotations

import operator
from itertools import pairwise

import torch
from torch.fx import Node

from compress.graph.trace import Graph, argument, shape_of

aten = torch.ops.aten


def split_packed(graph: Graph) -> int:
    """Take queries, keys and values apart before they are given heads, in place; returns how often.

    Attention is often written as ``x.reshape(n, t, 3, heads, d).permute(2, 0, 3, 1, 4).unbind(0)``: five dimensions,
    and the batch in the second. Slices of ``x``, each with heads of its own, are the same in four.
    """
    packed = [unbind for unbind in graph.calls(aten.unbind.int) if _is_packed(unbind)]
    for unbind in packed:
        permute = unbind.args[0]
        assert isinstance(permute, Node) and isinstance(permute.args[0], Node)
        for item in list(unbind.users):
            item.replace_all_uses_with(_own(graph, item, permute.args[0], permute))
    if packed:
        graph.program.graph.eliminate_dead_code()
        graph.program.graph.lint()
        graph.program.graph_module.recompile()
    return len(packed)


def _is_packed(unbind: Node) -> bool:
    """Whether ``unbind`` takes apart the first of several dimensions that the last one was reshaped to."""
    chain = [unbind]
    for target in ((aten.permute.default,), (aten.reshape.default, aten.view.default)):
        source = chain[-1].args[0]
        if not isinstance(source, Node) or source.target not in target:
            return False
        chain.append(source)
    _, permute, reshape = chain
    packed = reshape.args[0]
    if any(list(source.users) != [user] for user, source in pairwise(chain)) or not isinstance(packed, Node):
        return False
    axis, sizes = len(shape_of(packed)) - 1, shape_of(reshape)
    dims = permute.args[1]
    assert isinstance(dims, (list, tuple)) and isinstance(dims[0], int)
    first = dims[0] % len(sizes)
    return (
        argument(unbind, "dim") == 0
        and first == axis > 0
        and sizes[:axis] == shape_of(packed)[:-1]
        and all(user.target is operator.getitem for user in unbind.users)
    )


def _own(graph: Graph, item: Node, reshape: Node, permute: Node) -> Node:
    """What ``item`` is, from a slice of the packed values."""
    packed, sizes, dims = reshape.args[0], shape_of(reshape), permute.args[1]
    number = item.args[1]
    assert isinstance(packed, Node) and isinstance(dims, (list, tuple)) and isinstance(number, int)
    axis = len(shape_of(packed)) - 1
    number, width = number % sizes[axis], shape_of(packed)[-1] // sizes[axis]
    order = [dim % len(sizes) for dim in dims[1:] if isinstance(dim, int)]
    call = graph.program.graph.call_function
    with graph.program.graph.inserting_before(item):
        own: Node = call(aten.slice.Tensor, (packed, axis, number * width, (number + 1) * width))
        own = call(aten.reshape.default, (own, [*sizes[:axis], *sizes[axis + 1 :]]))
        own = call(aten.permute.default, (own, [dim - (dim > axis) for dim in order]))
    own.meta = dict(item.meta)
    return own
