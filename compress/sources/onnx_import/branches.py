"""Branches: where the condition is known before the network runs, what the chosen one computes takes their place.

Where it is computed, both are, and one of their values is taken: a branch computes nothing but its values.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx
import torch
from onnx import GraphProto, ModelProto, NodeProto
from torch import Tensor

from ...files.limits import Measured
from .operations import FUNCTIONS, ON_SHAPES, run
from .reading.read import Dimensions, array_of, attributes_of, constant_of, dimensions_of, label_of, opset_of
from .step import Array, Call, Step

_ROUNDS = 50
_LARGEST = 4096  # elements that a condition is computed from


def settle(model: ModelProto, sizes: Mapping[str, Dimensions] | None = None) -> None:
    """Put into ``model``, for every If on a condition that follows from weights and sizes, the chosen branch.

    A branch within a branch is settled as well. What only other branches or their conditions needed is taken out. In
    the place of an If on a value that the inputs decide come both branches, and ``Select`` between what they yield.

    Args:
        sizes: of the inputs, where the user gave what the file leaves open.
    """
    settled = False
    for _ in range(_ROUNDS):
        if not any(node.op_type == "If" for node in model.graph.node):
            break
        if not _settle_once(model, sizes or {}, both=False) and not _settle_once(model, sizes or {}, both=True):
            break
        settled = True
    if settled:
        _drop_unused(model.graph)


def _settle_once(model: ModelProto, sizes: Mapping[str, Dimensions], *, both: bool) -> bool:
    known = _Known.of(model, sizes)
    graph = model.graph
    taken = set(_names(graph))
    nodes: list[NodeProto] = []
    for node in graph.node:
        chosen = known.condition(node.input[0]) if node.op_type == "If" and node.input else None
        branches = {attribute.name: attribute.g for attribute in node.attribute}
        branch = branches.get("then_branch" if chosen else "else_branch")
        if both and node.op_type == "If" and len(branches) == 2 and known.is_value(node.input[0]):
            nodes.extend(_selected(branches, node, graph, taken))
            continue
        if chosen is None or branch is None:
            nodes.append(node)
            continue
        nodes.extend(_inlined(branch, node, graph, taken))
    changed = len(nodes) != len(graph.node) or any(a is not b for a, b in zip(nodes, graph.node, strict=True))
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes] if changed else []
    if changed:
        del graph.node[:]
        graph.node.extend(copies)
    return changed


def _selected(
    branches: Mapping[str, GraphProto], node: NodeProto, graph: GraphProto, taken: set[str]
) -> Iterator[NodeProto]:
    """The nodes of both branches, and a ``Select`` for every output of ``node``."""
    ends: dict[str, list[str]] = {}
    for branch, end in (("then_branch", "then"), ("else_branch", "else")):
        ends[branch] = [f"{output}:{end}" if output else "" for output in node.output]
        taken.update(name for name in ends[branch] if name)
        renamed = NodeProto(op_type="If", output=ends[branch])
        yield from _inlined(branches[branch], renamed, graph, taken)
    for then, other, output in zip(ends["then_branch"], ends["else_branch"], node.output, strict=True):
        if output:
            yield onnx.helper.make_node("Select", [node.input[0], then, other], [output], name=node.name)


def _inlined(branch: GraphProto, node: NodeProto, graph: GraphProto, taken: set[str]) -> Iterator[NodeProto]:
    """The nodes of ``branch`` under names that are free in ``graph``, where its weights go; its outputs are those of
    ``node``."""
    made = [tensor.name for tensor in branch.initializer]
    made += [name for inner in branch.node for name in inner.output if name]
    renamed: dict[str, str] = {}
    for name in made:
        free, count = name, 1
        while free in taken:
            count += 1
            free = f"{name}_{count}"
        taken.add(free)
        renamed[name] = free
    for tensor in branch.initializer:
        graph.initializer.add().CopyFrom(tensor)
        graph.initializer[-1].name = renamed[tensor.name]
    for inner in branch.node:
        yield _with_names(inner, renamed)
    for value, output in zip(branch.output, node.output, strict=False):
        if output:
            yield onnx.helper.make_node("Identity", [renamed.get(value.name, value.name)], [output])


def _with_names(node: NodeProto, renamed: Mapping[str, str]) -> NodeProto:
    copy = NodeProto()
    copy.CopyFrom(node)
    copy.input[:] = [renamed.get(name, name) for name in node.input]
    copy.output[:] = [renamed.get(name, name) for name in node.output]
    for attribute in copy.attribute:
        for graph in (attribute.g, *attribute.graphs) if attribute.HasField("g") else attribute.graphs:
            nodes = [_with_names(inner, renamed) for inner in graph.node]
            del graph.node[:]
            graph.node.extend(nodes)
            for value in graph.output:
                value.name = renamed.get(value.name, value.name)
            for tensor in graph.initializer:
                tensor.name = renamed.get(tensor.name, tensor.name)
    return copy


def _names(graph: GraphProto) -> Iterator[str]:
    yield from (value.name for value in graph.input)
    yield from (tensor.name for tensor in graph.initializer)
    for node in graph.node:
        yield from (name for name in node.output if name)


def _drop_unused(graph: GraphProto) -> None:
    needed = {value.name for value in graph.output}
    nodes: list[NodeProto] = []
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            nodes.append(node)
            needed.update(_taken(node))
    copies = [NodeProto.FromString(node.SerializeToString()) for node in reversed(nodes)]
    del graph.node[:]
    graph.node.extend(copies)


def _taken(node: NodeProto) -> Iterator[str]:
    """What the node takes, in graphs within it too."""
    yield from node.input
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs) if attribute.HasField("g") else attribute.graphs:
            yield from (value.name for value in graph.output)
            for inner in graph.node:
                yield from _taken(inner)


class _Open:
    """A size that the file leaves open: it may be moved, and not computed with."""

    def _refuse(self, *_: object) -> bool:
        raise TypeError("a size is open")

    __bool__ = __index__ = __int__ = __float__ = __eq__ = __lt__ = __gt__ = __le__ = __ge__ = _refuse
    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __neg__ = __floordiv__ = __rfloordiv__ = _refuse
    __hash__ = object.__hash__


@dataclass
class _Known:
    """What follows from the weights and the fixed sizes of a model, computed when it is asked for."""

    opset: int
    producers: Mapping[str, tuple[int, NodeProto]]
    shapes: Mapping[str, tuple[int | None, ...]]
    weights: Mapping[str, onnx.TensorProto]
    values: dict[str, Array | None] = field(default_factory=dict)

    @classmethod
    def of(cls, model: ModelProto, sizes: Mapping[str, Dimensions]) -> _Known:
        if sizes:
            model = _with_sizes(model, sizes)
        try:
            graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
        except Exception:  # noqa: BLE001 - then fewer sizes are known
            graph = model.graph
        dimensions = {v.name: dimensions_of(v.type) for v in (*graph.input, *graph.value_info, *graph.output)}
        producers = {name: (i, node) for i, node in enumerate(model.graph.node) for name in node.output if name}
        weights = {tensor.name: tensor for tensor in model.graph.initializer}
        return cls(opset_of(model), producers, {n: d for n, d in dimensions.items() if d is not None}, weights)

    def is_value(self, name: str) -> bool:
        """Whether ``name`` is computed from values of the inputs, and not from their sizes alone."""
        waiting, seen = [name], set[str]()
        while waiting:
            each = waiting.pop()
            if each in seen or each in self.weights:
                continue
            seen.add(each)
            if each not in self.producers:
                return True
            node = self.producers[each][1]
            waiting += [] if node.op_type in ("Shape", "Size") else [name for name in node.input if name]
        return False

    def condition(self, name: str) -> bool | None:
        """The one truth value that ``name`` stands for, None where it is not known."""
        waiting = [name]
        while waiting:
            missing = (
                [] if waiting[-1] in self.values else [n for n in self._needed(waiting[-1]) if n not in self.values]
            )
            if missing:
                waiting.extend(missing)
            else:
                last = waiting.pop()
                if last not in self.values:
                    self._compute(last)
        value = self.values[name]
        if value is None or value.size != 1 or isinstance(value.reshape(-1)[0], _Open):
            return None
        return bool(value.reshape(-1)[0])

    def _needed(self, name: str) -> list[str]:
        if name in self.weights or name not in self.producers:
            return []
        node = self.producers[name][1]
        return [] if node.op_type in ("Shape", "Size") else [each for each in node.input if each]

    def _compute(self, name: str) -> None:
        self.values[name] = None
        try:
            if name in self.weights:
                self.values[name] = _small(array_of(self.weights[name]))
            elif name in self.producers:
                index, node = self.producers[name]
                for output, value in zip(node.output, self._results(node, index), strict=False):
                    self.values[output] = value
        except Exception:  # noqa: BLE001 - it is not known then, and its node is looked at when the network is built
            return

    def _results(self, node: NodeProto, index: int) -> tuple[Array | None, ...]:
        attributes = attributes_of(node)
        if node.op_type == "Constant":
            return (_small(constant_of(attributes)),)
        step = Step(node.op_type, label_of(node, index), tuple(node.input), tuple(node.output), attributes, self.opset)
        if node.op_type in ("Shape", "Size"):
            sizes = np.empty(len(self.shapes[node.input[0]]), object)
            sizes[:] = [_Open() if size is None else size for size in self.shapes[node.input[0]]]
            if node.op_type == "Size":
                return (np.asarray(int(np.prod([int(size) for size in sizes]))),)
            start, end = step.integer("start"), step.integer("end", len(sizes))
            return (_plain(sizes[start:end]),)
        arrays = [self.values[each] if each else None for each in node.input]
        if any(array is None and name for array, name in zip(arrays, node.input, strict=True)):
            return ()
        if not arrays or (node.op_type not in FUNCTIONS and node.op_type not in ON_SHAPES):
            return ()
        with Measured(), torch.no_grad():
            results = run(Call(step, arrays))
        return tuple(_small(value.numpy() if isinstance(value, Tensor) else _plain(value)) for value in results)


def _with_sizes(model: ModelProto, sizes: Mapping[str, Dimensions]) -> ModelProto:
    """A copy of ``model`` whose inputs have these sizes."""
    sized = ModelProto()
    sized.CopyFrom(model)
    for value in sized.graph.input:
        if value.name in sizes:
            for place, size in zip(value.type.tensor_type.shape.dim, sizes[value.name], strict=False):
                if size is not None:
                    place.dim_value = size
    del sized.graph.value_info[:]
    return sized


def _small(array: Array) -> Array | None:
    return array if array.size <= _LARGEST else None


def _plain(array: Array) -> Array:
    """``array`` of integers, where none of its sizes is open."""
    if array.dtype == object and not any(isinstance(item, _Open) for item in array.reshape(-1)):
        return array.astype(np.int64)
    return array
