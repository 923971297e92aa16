"""Residual blocks in a traced graph: modules that compute ``x + f(x)``, so that the network is whole without them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import Interpreter, Node
from torch.utils._pytree import tree_leaves

from ...graph.trace import Graph, shape_of
from ...stage import Skip

_IDENTITIES = frozenset({"alias", "clone", "contiguous", "detach", "dropout", "feature_dropout", "alpha_dropout"})
_RESHAPES = frozenset({"view", "reshape", "_unsafe_view", "flatten", "unflatten", "squeeze", "unsqueeze"})
"""Elements keep their order, so that several in a row that end in the first shape change nothing."""
_NORMALIZATIONS = frozenset({"batch_norm", "group_norm", "instance_norm", "layer_norm", "rms_norm"})


@dataclass(frozen=True)
class Block:
    """A module that the network can do without: it yields ``output``, shaped as its only ``input``."""

    name: str
    kind: str
    input: Node
    output: Node


def blocks(graph: Graph) -> tuple[tuple[Block, ...], tuple[Skip, ...]]:
    """The residual blocks of ``graph`` in the order of their calls, and the modules with a sum that are none, and why.

    A block is the innermost module around a sum of two activations that is called once, takes and returns one tensor of
    the same shape, and whose output is its input plus something (He et al., "Identity Mappings in Deep Residual
    Networks" (2016), equation 3), with nothing on the way but activations and normalizations after the sum.
    """
    search = _Search(graph)
    by_name: dict[str, Block] = {}
    skipped: dict[str, str] = {}
    for node in graph.calls():
        if not search.is_sum(node):
            continue
        owners = [name for name in graph.layers(node) if name]
        if not owners:
            reason = f"its own forward adds, at {graph.source(node)}; only modules within it can be removed"
            skipped.setdefault("", reason)
        for name in reversed(owners):
            verdict = search.read(name)
            if isinstance(verdict, Block):
                by_name[name] = verdict
                break
            if not verdict.startswith("takes"):
                skipped.setdefault(name, verdict)
                break
            if name == owners[0]:
                skipped.setdefault(owners[-1], verdict)
    innermost = [b for b in by_name.values() if not any(other.startswith(f"{b.name}.") for other in by_name)]
    outside = {
        name: reason
        for name, reason in skipped.items()
        if not any(f"{name}.".startswith(f"{block.name}.") for block in innermost)
    }
    return tuple(innermost), tuple(Skip(name, reason) for name, reason in outside.items())


def bypassed_outputs(graph: Graph, removed: Mapping[str, Block], inputs: tuple[Tensor, ...]) -> list[Tensor]:
    """The outputs of the traced network on ``inputs``, in order, where each removed block yields what it is given."""
    with torch.no_grad():
        outputs = _Bypassed(graph, removed).run(*graph.arguments(inputs))
    return [output for output in tree_leaves(outputs) if isinstance(output, Tensor)]


class _Bypassed(Interpreter):
    def __init__(self, graph: Graph, removed: Mapping[str, Block]) -> None:
        super().__init__(graph.program.graph_module, garbage_collect_values=False)
        self.instead = {block.output.name: block.input for block in removed.values()}

    def run_node(self, n: Node) -> Any:
        source = self.instead.get(n.name)
        # A copy: the network may go on in place.
        return super().run_node(n) if source is None else self.env[source].clone()


class _Search:
    """What the search for blocks knows of a graph."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.activations = set(graph.inputs)
        self.members: dict[str, set[Node]] = {}
        self.calls: dict[str, set[str]] = {}
        for node in graph.calls():
            if not self.activations.isdisjoint(node.all_input_nodes):
                self.activations.add(node)
            # The stack maps each call, "L__self__conv" and then "L__self__conv@1", to the module's name and type.
            for name, call in zip(graph.layers(node), node.meta.get("nn_module_stack") or (), strict=True):
                self.members.setdefault(name, set()).add(node)
                self.calls.setdefault(name, set()).add(call)
        names: dict[int, list[str]] = {}
        for name, module in graph.model.named_modules(remove_duplicate=False):
            names.setdefault(id(module), []).append(name)
        self.shared = {name for several in names.values() if len(several) > 1 for name in several}

    def operands(self, node: Node) -> list[Node]:
        """The arguments of ``node`` that depend on the network's inputs."""
        return [source for source in node.all_input_nodes if source in self.activations]

    def is_sum(self, node: Node) -> bool:
        return _name(node) == "add" and len(self.operands(node)) == 2

    def read(self, name: str) -> Block | str:
        """The block that the module ``name`` is, or why it is none."""
        inside = self.members[name]
        inputs = {s for node in inside for s in self.operands(node) if s not in inside}
        results = self.returned(inside)
        if len(self.calls[name]) > 1 or name in self.shared:
            return "is used more than once"
        if len(inputs) != 1:
            return f"takes {len(inputs)} tensors"
        if len(results) != 1:
            return f"returns {len(results)} tensors"
        source, result = inputs.pop(), results.pop()
        if not isinstance(source.meta["val"], Tensor) or not isinstance(result.meta["val"], Tensor):
            return "takes or returns something else than one tensor"
        if shape_of(source) != shape_of(result):
            return f"its output {shape_of(result)} has another shape than its input {shape_of(source)}"
        if not self.carries(result, source, inside):
            return "its shortcut is not the identity"
        module = self.graph.model.get_submodule(name)
        if not any(True for _ in module.parameters()):
            return "has no weights"
        return Block(name, type(module).__name__, source, result)

    def returned(self, inside: set[Node]) -> set[Node]:
        return {node for node in inside if node in self.activations and any(user not in inside for user in node.users)}

    def carries(self, node: Node, source: Node, inside: set[Node]) -> bool:
        """Whether ``node`` is ``source`` plus something, perhaps normalized and activated afterwards."""
        open_ends = [(node, False)]
        seen = set()
        while open_ends:
            place = open_ends.pop()
            current, untouched = place
            if current is source and untouched:
                return True
            if place in seen or current not in inside:
                continue
            seen.add(place)
            operands = self.operands(current)
            if self.is_sum(current):
                open_ends += [(operand, True) for operand in operands]
            elif len(operands) == 1 and _passes(current):
                open_ends.append((operands[0], untouched and _name(current) in _IDENTITIES | _RESHAPES))
        return False


def _name(node: Node) -> str:
    text = str(node.target)
    return text.split(".")[1].removesuffix("_") if text.startswith("aten.") else text


def _passes(node: Node) -> bool:
    pointwise = torch.Tag.pointwise in getattr(node.target, "tags", ())
    return bool(pointwise) or _name(node) in _IDENTITIES | _RESHAPES | _NORMALIZATIONS
