"""A traced program, written as ``torch.onnx`` converts it at once.

``torch.onnx`` traces every program a second time, to take apart what it has no translation for and to let operations
in place return new values. That is most of its time, and a convolutional network needs little of it: here that little
is written otherwise, and a program in which nothing is left to take apart is converted as it stands.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.export import ExportedProgram
from torch.fx import Node

from compress.fold import DROPOUTS
from compress.graph.trace import Graph, argument

from . import site

aten = torch.ops.aten

_STANDING = frozenset(
    {
        aten.conv1d.default,
        aten.conv2d.default,
        aten.linear.default,
        aten.relu.default,
        aten.clamp.default,
        aten.sigmoid.default,
        aten.hardsigmoid.default,
        aten.hardswish.default,
        aten.silu.default,
        aten.add.Tensor,
        aten.sub.Tensor,
        aten.mul.Tensor,
        aten.div.Tensor,
        aten.cat.default,
        aten.max_pool2d.default,
        aten.avg_pool2d.default,
        aten.mean.dim,
        aten.view.default,
        aten.transpose.int,
        aten.permute.default,
        aten.split.Tensor,
        aten.split_with_sizes.default,
        aten.clone.default,
        aten.dropout.default,
        aten.sym_size.int,
        site.OPERATION,
        operator.getitem,
    }
)
"""What the second trace leaves as it is, where the converter has a translation for it."""


class Convertible(ExportedProgram):
    """A program that is not traced again where it has nothing to take apart."""

    @classmethod
    def of(cls, program: ExportedProgram) -> Convertible:
        """``program`` itself, its graph and tensors shared."""
        return cls(
            root=program.graph_module,
            graph=program.graph,
            graph_signature=program.graph_signature,
            state_dict=program.state_dict,
            range_constraints=program.range_constraints,
            module_call_graph=program.module_call_graph,
            example_inputs=program.example_inputs,
            constants=program.constants,
            verifiers=program.verifiers,
        )

    def run_decompositions(
        self, decomp_table: dict[torch._ops.OperatorBase, Callable[..., Any]] | None = None, **options: Any
    ) -> ExportedProgram:
        """The program without the operations of ``decomp_table`` and without operations in place."""
        if decomp_table is not None and all(_stands(node, decomp_table) for node in self.graph.nodes):
            return self
        decomposed: ExportedProgram = super().run_decompositions(decomp_table, **options)
        return decomposed


def _stands(node: Node, table: Mapping[torch._ops.OperatorBase, object]) -> bool:
    """Whether taking apart what is in ``table`` would leave ``node`` as it is."""
    if node.op in ("placeholder", "output"):
        return True
    return node.op == "call_function" and node.target in _STANDING and node.target not in table


@dataclass(frozen=True)
class _Call:
    """What a node calls, with which arguments."""

    target: object
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any] = field(default_factory=dict)


def simplify(graph: Graph) -> int:
    """Write clips as the converter knows them, and all else where nothing is left to take apart; returns how many."""
    for node in list(graph.calls(*DROPOUTS)):  # the converter loses changes in place behind one
        if not argument(node, "train") and node not in graph.outputs:
            node.replace_all_uses_with(cast(Node, node.args[0]))
            graph.program.graph.erase_node(node)
    plan: dict[Node, _Call] = {}
    for node in graph.calls():
        call = _written(node, plan)
        if call is not None:
            plan[node] = call
    stands = all(_target(node, plan) in _STANDING for node in graph.calls())
    made = {node: call for node, call in plan.items() if stands or call.target is aten.clamp.default}
    for node, call in made.items():
        node.target, node.args, node.kwargs = cast(OpOverload, call.target), call.args, dict(call.kwargs)
    graph.program.graph_module.recompile()
    return len(made)


def _target(node: Node, plan: Mapping[Node, _Call]) -> object:
    return plan[node].target if node in plan else node.target


def _written(node: Node, plan: Mapping[Node, _Call]) -> _Call | None:
    """``node`` in other words, if there are some: in operations that stand, and not in place."""
    target = node.target
    if not isinstance(target, OpOverload):
        return None
    if target._schema.is_mutable:
        twin = _not_in_place(node, target, plan)
        if twin is None:
            return None
        target = twin
    if target in _WRITTEN:
        return _WRITTEN[target](node)
    return None if target is node.target else _Call(target, node.args, node.kwargs)


def _not_in_place(node: Node, target: OpOverload, plan: Mapping[Node, _Call]) -> OpOverload | None:
    """The operation that returns what ``node`` writes into its first argument, if nothing else looks at that one."""
    source = node.args[0] if node.args else None
    packet = getattr(aten, target._schema.name.removeprefix("aten::").removesuffix("_"), None)
    twin = getattr(packet, target._overloadname, None)
    if not isinstance(source, Node) or not isinstance(twin, OpOverload) or twin._schema.is_mutable:
        return None
    own, expected = target._schema.arguments, twin._schema.arguments
    if [str(a.type) for a in own] != [str(a.type) for a in expected]:
        return None
    types = {value.dtype for x in node.all_input_nodes if isinstance(value := x.meta.get("val"), Tensor)}
    if len(types) != 1 or source.op != "call_function" or not _returns_new(source, plan):
        return None
    if any(node < user or (user is not node and not _returns_new(user, plan)) for user in source.users):
        return None
    return twin


def _returns_new(node: Node, plan: Mapping[Node, _Call]) -> bool:
    """Whether what ``node`` yields is no view of what it reads, and what it reads stays as it was."""
    target = _target(node, plan)
    if not isinstance(target, OpOverload) or target in DROPOUTS:  # which return their input itself in evaluation
        return False
    return not target._schema.is_mutable and all(value.alias_info is None for value in target._schema.returns)


def _clip(node: Node) -> _Call:
    six = node.target in (aten.relu6.default, aten.relu6_.default)
    bounds = (0.0, 6.0) if six else (argument(node, "min_val"), argument(node, "max_val"))
    return _Call(aten.clamp.default, (node.args[0], *bounds))


def _pool(node: Node) -> _Call | None:
    """The average of all places, as the mean that it is."""
    if set(argument(node, "output_size")) != {1}:
        return None
    return _Call(aten.mean.dim, (node.args[0], [-1, -2], True))


def _flatten(node: Node) -> _Call | None:
    sizes = [size if isinstance(size, int) else -1 for size in node.meta["val"].shape]
    return _Call(aten.view.default, (node.args[0], sizes)) if sizes.count(-1) <= 1 else None


def _reshape(node: Node) -> _Call | None:
    before: Tensor = node.all_input_nodes[0].meta["val"]
    return _Call(aten.view.default, node.args) if before.is_contiguous() else None


def _chunk(node: Node) -> _Call:
    dimension = argument(node, "dim")
    return _Call(aten.split.Tensor, (node.args[0], node.meta["val"][0].shape[dimension], dimension))


def _order(node: Node) -> _Call:
    return _Call(aten.clone.default, (node.args[0],), {"memory_format": torch.contiguous_format})


_WRITTEN: Mapping[OpOverload, Callable[[Node], _Call | None]] = {
    aten.hardtanh.default: _clip,
    aten.relu6.default: _clip,
    aten.adaptive_avg_pool2d.default: _pool,
    aten.flatten.using_ints: _flatten,
    aten.reshape.default: _reshape,
    aten.chunk.default: _chunk,
    aten.contiguous.default: _order,
}
