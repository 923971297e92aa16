"""One pass over the nodes of a traced graph, which holds the labels of what each has yielded."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.fx import Node

from ....graph.trace import Graph, shape_of
from ..labels import Assumption, Axes, Labels, Site, Sized, Value
from .operations import name_of

Rule = Callable[["Walker", Node], Value]
"""What the labels of an operation's inputs become, those of its output."""


class Walker:
    """What the rules see: the labels so far (``values`` per node) and the ways to change them."""

    def __init__(
        self, graph: Graph, rules: Mapping[str, Rule], choices: Mapping[str, int], labels: Labels, exact: bool
    ) -> None:
        self.graph = graph
        self.rules = rules
        self.choices = choices
        self.labels = labels
        self.exact = exact
        self.values: dict[Node, Value] = {}
        self.names: dict[int, str] = {}
        self._inside: dict[str, set[Node]] = defaultdict(set)
        self.seen: Counter[tuple[str, str]] = Counter()

    def run(self) -> None:
        for node in self.graph.nodes:
            if node in self.values:
                continue  # a rule has looked ahead
            if node.op == "placeholder":
                self.values[node] = self.parameter(node)
            elif node.op == "output":
                for value in node.all_input_nodes:
                    self.pin_value(value, "its channels are an output of the network")
            elif node.op == "call_function":
                self.values[node] = self.call(node)
            elif node.op != "get_attr":
                for value in node.all_input_nodes:
                    self.pin_value(value, f"cannot be followed: {node.op} {node.target}")

    def call(self, node: Node) -> Value:
        if not any(self.values.get(source) for source in node.all_input_nodes):
            return {}
        rule = self.rules.get(name_of(node))
        if rule is None and torch.Tag.pointwise in getattr(node.target, "tags", ()):
            rule = self.rules["elementwise"]
        return self.unknown(node) if rule is None else rule(self, node)

    def unknown(self, node: Node) -> Value:
        """Nothing is known of the operation: all that reaches it stays."""
        if not node.users and node.meta.get("val") is None:
            return {}  # an assertion
        for source in node.all_input_nodes:
            self.pin_value(source, f"cannot be followed: {self.place(node)}")
        return {}

    def parameter(self, node: Node) -> Axes:
        tensor, name = self.graph.tensor(node), self.graph.tensor_name(node)
        if (
            tensor is None
            or name is None
            or node.name in self.graph.program.graph_signature.inputs_to_lifted_tensor_constants
        ):
            return {}
        name = self.names.setdefault(id(tensor), name)  # a shared tensor has the labels of its first name
        axes: Axes = {}
        owner = self.graph.model.get_submodule(name.rpartition(".")[0])
        positions = isinstance(owner, nn.modules.conv._ConvNd) and tensor.ndim > 2  # of a kernel: no channels
        for axis, size in enumerate(tensor.shape):
            if size > 1 and not (positions and axis > 1):
                if (name, axis) not in self.labels.sites:
                    self.labels.sites[name, axis] = self.labels.fresh(size)
                axes[axis] = self.labels.sites[name, axis]
        return axes

    # What a rule needs to know of a node.

    def axes(self, value: object) -> Axes:
        """The labels of one tensor, by dimension."""
        axes = self.values.get(value, {}) if isinstance(value, Node) else {}
        return {} if isinstance(axes, tuple) else axes

    def place(self, node: Node) -> str:
        """ "view at net.py:14: x = x.view(-1, 512)"."""
        return f"{name_of(node)} at {self.graph.source(node)}"

    def site(self, node: object, axis: int) -> Site | None:
        """The dimension of a parameter that ``node`` stands for, under the parameter's first name."""
        tensor = self.graph.tensor(node)
        name = self.names.get(id(tensor)) if tensor is not None else None
        return (name, axis) if name is not None and (name, axis) in self.labels.sites else None

    # What a rule does to labels.

    def pin_value(self, node: Node, reason: str) -> None:
        """Keep everything that ``node`` yields."""
        labelled = self.values.get(node, {})
        for axes in labelled if isinstance(labelled, tuple) else (labelled,):
            self.labels.pin(axes, reason)

    def pin_axes(self, axes: Axes, which: Iterable[int], reason: str) -> Axes:
        """``axes`` without the dimensions in ``which``, whose labels are pinned."""
        gone = set(which)
        for axis in gone & axes.keys():
            self.labels.pin(axes[axis], reason)
        return {axis: labels for axis, labels in axes.items() if axis not in gone}

    def meet(self, first: Tensor | None, second: Tensor | None, reason: str) -> Tensor | None:
        """Both labels made equal; None where either side has none at all, and then the other is pinned."""
        if first is None or second is None:
            for labels in (first, second):
                if labels is not None:
                    self.labels.pin(labels, reason)
            return None
        return self.labels.unite(first, second, reason)

    def assume(self, node: Node, labels: Tensor, options: int, *, ties: bool = False) -> int | None:
        """The chosen one of ``options`` ways to read a place; None, with the labels pinned, where none is right."""
        layer = self.graph.layer(node)
        kind = type(self.graph.model.get_submodule(layer)).__name__
        call = (layer, self.place(node))
        key = f"{kind}: {self.place(node)}" + (f" ({self.seen[call] + 1})" if self.seen[call] else "")
        key += f", {options} ways" if options > 1 else ""
        self.seen[call] += 1
        self.labels.assumed.append(Assumption(key, kind, labels.flatten(), options, ties))
        choice = self.choices.get(key, 0)
        if choice < options:
            return choice
        self.labels.pin(labels, f"the code does not follow its channel count: {self.place(node)}")
        return None

    def sized(self, node: Node, size: int, labels: Tensor) -> None:
        """The code of the module that calls ``node`` names ``size``, which is the count of ``labels``."""
        self.labels.sized.append(Sized(self.graph.layer(node), size, labels))

    def produce(self, node: Node, weight: Node, outputs: Tensor | None) -> None:
        """Note which dimension of which parameter holds the filters whose labels are ``outputs``."""
        if outputs is None:
            return
        origin = self.origin(weight)
        for axis in range(len(shape_of(origin))):
            site = self.site(origin, axis)
            if site is not None and _within(outputs, self.labels.sites[site]):
                self.labels.outputs_of.setdefault(site, self.graph.layer(node) or site[0].rpartition(".")[0])

    def inside(self, layer: str) -> set[Node]:
        """The calls within the module ``layer``."""
        if not self._inside:
            for node in self.graph.calls():
                for name in self.graph.layers(node):
                    self._inside[name].add(node)
        return self._inside[layer]

    def origin(self, node: Node) -> Node:
        """The node at the beginning of a chain of first arguments: the parameter behind a transposed view."""
        while node.op == "call_function" and isinstance(node.args[0], Node):
            node = node.args[0]
        return node


def _within(labels: Tensor, of: Tensor) -> bool:
    """Whether ``labels`` are those of a parameter's dimension, or a part of them (one of three in a fused weight)."""
    return bool(torch.isin(labels, of[of != 0]).all())
