"""What a node of a traced graph tells of its operation: its name and the dimensions that it names."""

from __future__ import annotations

import operator
from collections.abc import Iterable

from torch.fx import Node

from ....graph.trace import argument


def name_of(node: Node) -> str:
    """ "relu" for aten.relu_.default: in-place operations label alike; "getitem" for Python's."""
    if node.target is operator.getitem:
        return "getitem"
    text = str(node.target)
    return text.split(".")[1].removesuffix("_") if text.startswith("aten.") else text


def has_argument(node: Node, name: str) -> bool:
    """Whether the operation's schema knows the argument."""
    schema = getattr(node.target, "_schema", None)
    return schema is not None and any(described.name == name for described in schema.arguments)


def dims_of(node: Node, ndim: int) -> list[int]:
    """The dimensions that an operation names as ``dim`` or ``dims``; all of them where it names none."""
    name = next((name for name in ("dim", "dims") if has_argument(node, name)), None)
    named = argument(node, name) if name is not None else None
    if isinstance(named, int) and not isinstance(named, bool):
        return [named % ndim]
    if isinstance(named, Iterable):
        dims = [int(d) % ndim for d in named]
        return dims or list(range(ndim))
    return list(range(ndim))


def dim_of(node: Node, ndim: int) -> int:
    """The one dimension that an operation names."""
    return int(argument(node, "dim")) % ndim
