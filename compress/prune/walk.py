"""Labels flow through the traced graph: which elements of which tensors are one channel.

Every index of every dimension of every parameter gets an integer label. Labels then follow the values of the graph:

- an operation that moves data is run on the labels themselves, so that concatenation, channel shuffle, pixel shuffle or
  flattening need no cases of their own;
- an elementwise operation makes the labels that meet equal;
- a convolution or a product with a weight ends the labels of its input in the weight's input dimension, and its output
  carries those of the weight's output dimension;
- whatever is not known, and whatever would change the rest of the network, pins the labels that reach it: they stay.

What has become equal is removed together. By construction the network without those elements equals the network in
which they are zero wherever a weight consumes them.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor
from torch.fx import Node

from ..graph import Graph, shape_of
from .labels import Assumption, Axes, Labels, Product, Site, Value


def walk(graph: Graph, choices: Mapping[str, int] | None = None) -> Labels:
    """The labels of a graph that was traced with static shapes; ``choices`` say how to read a place (the first way)."""
    walker = _Walk(graph, choices or {})
    walker.run()
    return walker.labels


class _Walk:
    """One pass over the nodes; ``values`` holds the labels of what each has yielded."""

    def __init__(self, graph: Graph, choices: Mapping[str, int]) -> None:
        self.graph = graph
        self.choices = choices
        self.labels = Labels()
        self.values: dict[Node, Value] = {}
        self.names: dict[int, str] = {}

    def run(self) -> None:
        for node in self.graph.nodes:
            if node.op == "placeholder":
                self.values[node] = self.parameter(node)
            elif node.op == "output":
                for value in node.all_input_nodes:
                    self.pin_value(value, "its channels are an output of the network")
            elif node.op == "call_function":
                self.values[node] = self.call(node)
            else:
                for value in node.all_input_nodes:
                    self.pin_value(value, f"cannot be followed: {node.op} {node.target}")

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
        for axis, size in enumerate(tensor.shape):
            if size > 1:
                if (name, axis) not in self.labels.sites:
                    self.labels.sites[name, axis] = self.labels.fresh(size)
                axes[axis] = self.labels.sites[name, axis]
        return axes

    # What a rule needs to know of a node.

    def axes(self, value: object) -> Axes:
        found = self.values.get(value, {}) if isinstance(value, Node) else {}
        return {} if isinstance(found, tuple) else found

    def pin_value(self, node: Node, reason: str) -> None:
        found = self.values.get(node, {})
        for axes in found if isinstance(found, tuple) else (found,):
            self.labels.pin(axes, reason)

    def place(self, node: Node) -> str:
        return f"{_name(node)} at {self.graph.source(node)}"

    def site(self, node: object, axis: int) -> Site | None:
        tensor = self.graph.tensor(node)
        name = self.names.get(id(tensor)) if tensor is not None else None
        return (name, axis) if name is not None and (name, axis) in self.labels.sites else None

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

    # The rules.

    def call(self, node: Node) -> Value:
        if node.target is operator.getitem:
            source = self.values.get(node.args[0], {}) if isinstance(node.args[0], Node) else {}
            return source[int(node.args[1])] if isinstance(source, tuple) else {}  # type: ignore[arg-type]
        if not any(self.values.get(source) for source in node.all_input_nodes):
            return {}
        name = _name(node)
        rule = _RULES.get(name)
        if rule is not None:
            return rule(self, node)
        if torch.Tag.pointwise in getattr(node.target, "tags", ()):
            return self.elementwise(node)
        return self.unknown(node)

    def unknown(self, node: Node) -> Value:
        if not node.users and node.meta.get("val") is None:
            return {}  # an assertion
        for source in node.all_input_nodes:
            self.pin_value(source, f"cannot be followed: {self.place(node)}")
        return {}

    def elementwise(self, node: Node) -> Value:
        """Labels that meet become one; what is broadcast along a dimension has nothing there to cut."""
        shape = shape_of(node)
        reason = f"meets values that cannot be cut: {self.place(node)}"
        result: Axes = {}
        for axis, size in enumerate(shape):
            together: Tensor | None = None
            first = True
            for operand in node.all_input_nodes:
                operand_shape = shape_of(operand)
                own = axis - len(shape) + len(operand_shape)
                if own < 0 or size == 1 or operand_shape[own] != size:
                    continue
                found = self.axes(operand).get(own)
                together = found if first else self.meet(together, found, reason)
                first = False
            if together is not None:
                result[axis] = together
        return result

    def same(self, node: Node) -> Value:
        """The first argument's labels, unchanged."""
        return dict(self.axes(node.args[0]))

    def moved(self, node: Node) -> Value:
        """Data movement: the operation itself, on label arrays."""
        source = node.args[0]
        assert isinstance(source, Node)
        if str(node.target).endswith(".dtype"):
            return self.unknown(node)  # bits read as another type
        shape = shape_of(source)
        result: Axes = {}
        for axis, labels in self.axes(source).items():
            full = labels.view([-1 if d == axis else 1 for d in range(len(shape))]).expand(shape)
            operation = torch.ops.aten.reshape.default if _name(node) in ("view", "_unsafe_view") else node.target
            arguments = [full if argument is source else argument for argument in node.args]
            after = operation(*arguments, **node.kwargs)  # type: ignore[operator]
            found = self.along_one_axis(node, after)
            if found is None:
                continue
            new_axis, new_labels = found
            if new_axis in result:  # two dimensions merged into one
                self.labels.pin(result.pop(new_axis), f"dimensions are merged: {self.place(node)}")
                self.labels.pin(new_labels, f"dimensions are merged: {self.place(node)}")
            else:
                result[new_axis] = new_labels
        return result

    def along_one_axis(self, node: Node, full: Tensor) -> tuple[int, Tensor] | None:
        """The dimension along which an array of labels varies, and its labels.

        Where it varies along several, as after a view of C channels as (groups, C / groups), a slice along one of them
        is what can be cut, so the labels within each slice become one. The dimension is the one that the view infers
        (-1) or, of two, the inner one, which code derives from the first; of more, the outer one (channels of maps).
        """
        varying = [d for d in range(full.ndim) if full.shape[d] > 1 and bool((full != full.narrow(d, 0, 1)).any())]
        if not varying:
            self.labels.pin(full, f"is taken apart: {self.place(node)}")
            return None
        axis = varying[0]
        if len(varying) > 1:
            sizes = node.args[1] if len(node.args) > 1 and isinstance(node.args[1], (list, tuple)) else ()
            inferred = [d for d in varying if d < len(sizes) and sizes[d] == -1]
            inner = varying[1:] if _name(node) != "pixel_shuffle" and len(varying) == 2 else []
            read = self.assume(node, full, list(dict.fromkeys([*inferred, *inner, *varying])))
            if read is None:
                return None
            axis = read
        for d in set(range(full.ndim)) - set(varying):
            full = full.narrow(d, 0, 1)
        rows = full.movedim(axis, -1).reshape(-1, full.shape[axis])
        return axis, self.labels.unite_rows(rows, f"is grouped with values that cannot be cut: {self.place(node)}")

    def assume(self, node: Node, labels: Tensor, options: list[int]) -> int | None:
        """The chosen one of the ways to read a place; None, with the labels pinned, where none is right."""
        place = self.place(node)
        self.labels.assumed.append(Assumption(place, torch.unique(labels), len(options)))
        choice = self.choices.get(place, 0)
        if choice < len(options):
            return options[choice]
        self.labels.pin(labels, f"the code does not follow its channel count: {place}")
        return None

    def dim_kept(self, node: Node) -> Value:
        """Operations that mix along given dimensions and keep the shape: softmax, roll, flip, cumsum, ..."""
        source = self.axes(node.args[0])
        ndim = len(shape_of(node))
        return self.pin_axes(source, _dims(node, ndim), f"is mixed with others: {self.place(node)}")

    def dim_reduced(self, node: Node) -> Value:
        """Reductions: the labels of the dimensions that remain."""
        operand = node.args[0]
        assert isinstance(operand, Node)
        ndim = len(shape_of(operand))
        dims = set(_dims(node, ndim))
        axes = self.pin_axes(self.axes(operand), dims, f"is reduced with others: {self.place(node)}")
        value = node.meta["val"]
        first = value[0] if isinstance(value, (tuple, list)) else value
        if first.ndim != ndim:
            axes = {axis - sum(d < axis for d in dims): labels for axis, labels in axes.items()}
        return tuple(dict(axes) for _ in value) if isinstance(value, (tuple, list)) else axes

    def sliced(self, node: Node) -> Value:
        """slice, select, narrow, index_select, unfold: the numbers may be written in the code, so what is cut stays."""
        operand = node.args[0]
        assert isinstance(operand, Node)
        before = shape_of(operand)
        dim = _argument(node, 1, "dim", 0)
        assert isinstance(dim, int)
        dim %= len(before)
        axes = self.axes(operand)
        value = node.meta["val"]
        if isinstance(value, (tuple, list)):  # unbind
            axes = self.pin_axes(axes, (dim,), f"is taken apart: {self.place(node)}")
            return tuple({a - (a > dim): labels for a, labels in axes.items()} for _ in value)
        if shape_of(node) == before and _name(node) in ("slice", "narrow"):
            return dict(axes)
        axes = self.pin_axes(axes, (dim,), f"is cut out by position: {self.place(node)}")
        if len(shape_of(node)) < len(before):
            return {a - (a > dim): labels for a, labels in axes.items()}
        return axes

    def split(self, node: Node) -> Value:
        """chunk, split: equal parts lose the same indices, so that the parts stay equal."""
        operand = node.args[0]
        assert isinstance(operand, Node)
        ndim = len(shape_of(operand))
        dim = _argument(node, 2, "dim", 0)
        assert isinstance(dim, int)
        dim %= ndim
        axes = self.axes(operand)
        parts = [int(value.shape[dim]) for value in node.meta["val"]]
        others = {axis: labels for axis, labels in axes.items() if axis != dim}
        if dim not in axes:
            return tuple(dict(others) for _ in parts)
        if len(set(parts)) != 1:
            self.labels.pin(axes[dim], f"is split into unequal parts: {self.place(node)}")
            return tuple(dict(others) for _ in parts)
        if self.assume(node, axes[dim], [dim]) is None:
            return tuple(dict(others) for _ in parts)
        reason = f"is split beside values that cannot be cut: {self.place(node)}"
        rows = axes[dim].view(len(parts), -1)
        self.labels.unite_rows(rows, reason)
        if rows.shape[1] == 1:
            return tuple(dict(others) for _ in parts)
        return tuple({**others, dim: row} for row in rows)

    def gated(self, node: Node) -> Value:
        """glu: the two halves of a dimension become one."""
        operand = node.args[0]
        assert isinstance(operand, Node)
        dim = _argument(node, 1, "dim", -1)
        assert isinstance(dim, int)
        dim %= len(shape_of(operand))
        axes = dict(self.axes(operand))
        if dim in axes:
            axes[dim] = self.labels.unite_rows(axes[dim].view(2, -1), f"meets others: {self.place(node)}")
        return axes

    def concatenated(self, node: Node) -> Value:
        operands = node.args[0]
        assert isinstance(operands, (list, tuple))
        nodes = [operand for operand in operands if isinstance(operand, Node)]
        shapes = [shape_of(operand) for operand in nodes]
        dim = _argument(node, 1, "dim", 0)
        assert isinstance(dim, int)
        dim %= len(shape_of(node))
        stacked = _name(node) == "stack"
        result: Axes = {}
        for axis in range(len(shape_of(node))):
            own = axis - (stacked and axis > dim)
            found = [self.axes(operand).get(own) for operand in nodes]
            if axis == dim:
                if not stacked and any(labels is not None for labels in found):
                    zeros = [torch.zeros(shape[dim], dtype=torch.int64) for shape in shapes]
                    result[axis] = torch.cat([z if x is None else x for x, z in zip(found, zeros, strict=True)])
                continue
            together = found[0]
            for labels in found[1:]:
                together = self.meet(together, labels, f"stands beside values that cannot be cut: {self.place(node)}")
            if together is not None:
                result[axis] = together
        return result

    def padded(self, node: Node) -> Value:
        """pad: labels on a padded dimension go on with none; any other padding than a constant must leave it alone."""
        operand, pads = node.args[0], node.args[1]
        assert isinstance(operand, Node) and isinstance(pads, (list, tuple))
        ndim = len(shape_of(operand))
        constant = _argument(node, 2, "mode", "constant") == "constant" if _name(node) == "pad" else False
        constant = constant or _name(node) == "constant_pad_nd"
        axes = dict(self.axes(operand))
        for axis, labels in list(axes.items()):
            position = 2 * (ndim - 1 - axis)
            around = [int(p) for p in pads[position : position + 2]] or [0, 0]  # type: ignore[arg-type]
            if around == [0, 0]:
                continue
            if constant and min(around) >= 0:
                axes[axis] = torch.nn.functional.pad(labels, around)
            else:
                axes = self.pin_axes(axes, (axis,), f"is padded with copies: {self.place(node)}")
        return axes

    def spatial(self, node: Node) -> Value:
        """Pooling and resizing: labels stay on the dimensions before the spatial ones."""
        operand = node.args[0]
        assert isinstance(operand, Node)
        dims = 3 if "3d" in _name(node) else 1 if "1d" in _name(node) else 2
        ndim = len(shape_of(operand))
        axes = self.pin_axes(
            self.axes(operand), range(ndim - dims, ndim), f"is a position, not a channel: {self.place(node)}"
        )
        value = node.meta["val"]
        return tuple(dict(axes) for _ in value) if isinstance(value, (tuple, list)) else axes

    def per_channel(self, node: Node) -> Value:
        """batch_norm, instance_norm: parameters along dimension 1."""
        axes = dict(self.axes(node.args[0]))
        channels = axes.get(1)
        reason = f"meets values that cannot be cut: {self.place(node)}"
        for position, argument in enumerate(node.args[1:5]):
            if isinstance(argument, Node):
                channels = self.meet(channels, self.axes(argument).get(0), reason)
                site = self.site(argument, 0)
                if position == 0 and site is not None:
                    self.labels.scales.add(site)
        if channels is None:
            axes.pop(1, None)
        else:
            axes[1] = channels
        if _name(node) == "instance_norm":
            axes = self.pin_axes(axes, range(2, len(shape_of(node))), f"is a position: {self.place(node)}")
        return axes

    def prelu(self, node: Node) -> Value:
        axes, weight = dict(self.axes(node.args[0])), node.args[1]
        assert isinstance(weight, Node)
        if math.prod(shape_of(weight)) > 1:
            together = self.meet(axes.pop(1, None), self.axes(weight).get(0), f"meets others: {self.place(node)}")
            if together is not None:
                axes[1] = together
        return axes

    def normalized(self, node: Node) -> Value:
        """layer_norm, rms_norm, group_norm: statistics over channels change when one goes, so these stay."""
        operand = node.args[0]
        assert isinstance(operand, Node)
        ndim = len(shape_of(operand))
        if _name(node) in ("group_norm", "native_group_norm"):
            mixed: Iterable[int] = range(1, ndim)
        else:
            sizes = node.args[1]
            assert isinstance(sizes, (list, tuple))
            mixed = range(ndim - len(sizes), ndim)
        reason = f"its statistics are taken over channels: {self.place(node)}"
        axes = self.pin_axes(self.axes(operand), mixed, reason)
        for source in node.all_input_nodes[1:]:
            self.pin_value(source, reason)
        value = node.meta["val"]
        return tuple(dict(axes) for _ in value) if isinstance(value, (tuple, list)) else axes

    def produce(self, node: Node, weight: Node, outputs: Tensor | None) -> None:
        """Note which dimension of which parameter holds the filters whose labels are ``outputs``."""
        origin = weight
        while origin.op == "call_function" and isinstance(origin.args[0], Node):
            origin = origin.args[0]
        for axis in range(len(shape_of(origin)) if outputs is not None else 0):
            site = self.site(origin, axis)
            if site is not None and torch.equal(self.labels.sites[site], outputs):  # type: ignore[arg-type]
                self.labels.outputs_of.setdefault(site, self.graph.layer(node) or site[0].rpartition(".")[0])

    def convolution(self, node: Node) -> Value:
        """conv1d, conv2d, conv3d and their transposes, whole, grouped and depthwise."""
        x, weight = node.args[0], node.args[1]
        assert isinstance(x, Node) and isinstance(weight, Node)
        transposed = "transpose" in _name(node)
        bias = _argument(node, 2, "bias", None)
        groups = _argument(node, 6, "groups", 1)
        assert isinstance(groups, int)
        weight_shape, out_shape, in_shape = shape_of(weight), shape_of(node), shape_of(x)
        channel_dim = len(in_shape) - (len(weight_shape) - 1)
        source, of_weight = self.axes(x), self.axes(weight)
        place = self.place(node)
        self.pin_axes(of_weight, range(2, len(weight_shape)), f"is a kernel position: {place}")
        batch = self.pin_axes(source, range(channel_dim + 1, len(in_shape)), f"is a position, not a channel: {place}")
        inputs = batch.pop(channel_dim, None)
        into, out_of = (0, 1) if transposed else (1, 0)
        reason = f"its input cannot be cut: {place}"
        in_labels, out_labels = of_weight.get(into), of_weight.get(out_of)
        positions = math.prod(in_shape if transposed else out_shape) // (
            in_shape[channel_dim] if transposed else out_shape[channel_dim]
        )
        constant = positions * math.prod(weight_shape[2:])
        in_channels, out_channels = in_shape[channel_dim], out_shape[channel_dim]
        depthwise = groups > 1 and groups == in_channels
        outputs: Tensor | None
        if depthwise:
            multiplier = out_channels // groups
            if transposed:
                self.meet(inputs, in_labels, reason)
                if multiplier > 1 and out_labels is not None:
                    self.labels.pin(out_labels, f"each input channel makes {multiplier}: {place}")
                outputs = None if in_labels is None else in_labels.repeat_interleave(multiplier)
            else:
                repeated = None if inputs is None else inputs.repeat_interleave(multiplier)
                outputs = self.meet(out_labels, repeated, reason)
            self.labels.products.append(
                Product(self.graph.layer(node), constant, None, _or_zeros(outputs, out_channels))
            )
        else:
            per_group = in_channels // groups
            together = inputs
            if inputs is not None and groups > 1:
                together = self.labels.unite_rows(inputs.view(groups, -1), reason)
            if transposed and groups > 1 and in_labels is not None:
                in_labels = self.labels.unite_rows(in_labels.view(groups, -1), reason)
            self.meet(together, in_labels, reason)
            if together is not None and in_labels is not None and inputs is not None:
                self.labels.consumed[node] = (0, channel_dim, inputs)
            outputs = out_labels
            if outputs is not None and groups > 1:
                if transposed:
                    outputs = outputs.repeat(groups)
                elif out_channels == groups:
                    self.labels.pin(outputs, f"each group makes one channel: {place}")
                    outputs = None
                else:
                    self.labels.unite_rows(outputs.view(groups, -1), reason)
            self.labels.products.append(
                Product(
                    self.graph.layer(node),
                    constant,
                    _or_zeros(together, per_group),
                    _or_zeros(outputs, out_channels),
                )
            )
        if isinstance(bias, Node):
            found = self.axes(bias).get(0)
            outputs = self.meet(outputs, found, f"its bias cannot be cut: {place}")
        self.produce(node, weight, in_labels if depthwise and transposed else out_labels)
        if outputs is not None:
            batch[channel_dim] = outputs
        return batch

    def linear(self, node: Node) -> Value:
        x, weight, bias = node.args[0], node.args[1], _argument(node, 2, "bias", None)
        return self.product(node, x, weight, 1, 0, bias)

    def addmm(self, node: Node) -> Value:
        return self.product(node, node.args[1], node.args[2], 0, 1, node.args[0], position=1)

    def matmul(self, node: Node) -> Value:
        """x @ weight, where the weight is a parameter, perhaps transposed; two activations are left alone."""
        x, weight = node.args[0], node.args[1]
        if isinstance(weight, Node) and len(shape_of(weight)) == 2 and self.is_parameter(weight):
            return self.product(node, x, weight, 0, 1, None)
        return self.unknown(node)

    def is_parameter(self, node: Node) -> bool:
        while node.op == "call_function" and _RULES.get(_name(node)) is _Walk.moved and isinstance(node.args[0], Node):
            node = node.args[0]
        return self.graph.tensor(node) is not None

    def product(
        self, node: Node, x: object, weight: object, into: int, out_of: int, bias: object, position: int = 0
    ) -> Value:
        assert isinstance(x, Node) and isinstance(weight, Node)
        place = self.place(node)
        last = len(shape_of(x)) - 1
        axes = dict(self.axes(x))
        inputs = axes.pop(last, None)
        of_weight = self.axes(weight)
        consuming = of_weight.get(into)
        self.meet(inputs, consuming, f"its input cannot be cut: {place}")
        if inputs is not None and consuming is not None:
            self.labels.consumed[node] = (position, last, inputs)
        outputs = of_weight.get(out_of)
        weight_shape = shape_of(weight)
        self.labels.products.append(
            Product(
                self.graph.layer(node),
                math.prod(shape_of(x)[:-1]),
                _or_zeros(inputs, weight_shape[into]),
                _or_zeros(outputs, weight_shape[out_of]),
            )
        )
        if isinstance(bias, Node):
            found = self.axes(bias).get(len(shape_of(bias)) - 1)
            outputs = self.meet(outputs, found, f"its bias cannot be cut: {place}")
        self.produce(node, weight, of_weight.get(out_of))
        if outputs is not None:
            axes[last] = outputs
        return axes

    def embedding(self, node: Node) -> Value:
        weight = node.args[0]
        axes = self.axes(weight)
        self.pin_axes(axes, (0,), f"is a row of a table: {self.place(node)}")
        if isinstance(node.args[1], Node):
            self.pin_value(node.args[1], f"is an index: {self.place(node)}")
        assert isinstance(weight, Node)
        self.produce(node, weight, axes.get(1))
        return {len(shape_of(node)) - 1: axes[1]} if 1 in axes else {}


Rule = Callable[[_Walk, Node], Value]


def _name(node: Node) -> str:
    """ "relu" for aten.relu_.default: in-place operations label alike."""
    text = str(node.target)
    return text.split(".")[1].removesuffix("_") if text.startswith("aten.") else text


def _argument(node: Node, position: int, name: str, default: object) -> object:
    return node.args[position] if len(node.args) > position else node.kwargs.get(name, default)


def _dims(node: Node, ndim: int) -> list[int]:
    """The dimensions that an operation names as ``dim`` or ``dims``; all of them where it names none."""
    position = {"roll": 2, "norm": 2, "linalg_vector_norm": 2}.get(_name(node), 1)
    found = _argument(node, position, "dims" if _name(node) in ("roll", "flip") else "dim", None)
    if isinstance(found, int) and not isinstance(found, bool):
        return [found % ndim]
    if isinstance(found, (list, tuple)) and found:
        return [int(d) % ndim for d in found]
    return list(range(ndim))


def _or_zeros(labels: Tensor | None, count: int) -> Tensor:
    return torch.zeros(count, dtype=torch.int64) if labels is None else labels


_TABLE: tuple[tuple[Rule, str], ...] = (
    (
        _Walk.moved,
        "view _unsafe_view reshape flatten unflatten permute transpose t numpy_T mT swapaxes swapdims movedim moveaxis "
        "squeeze unsqueeze expand repeat tile repeat_interleave pixel_shuffle pixel_unshuffle channel_shuffle",
    ),
    (
        _Walk.same,
        "alias detach lift_fresh lift_fresh_copy clone contiguous to _to_copy type_as dropout feature_dropout "
        "alpha_dropout zeros_like ones_like full_like rand_like randn_like empty_like",
    ),
    (_Walk.elementwise, "hardswish hardsigmoid relu6 selu celu softsign hardshrink expand_as rrelu copy"),
    (
        _Walk.dim_reduced,
        "mean sum amax amin prod std var norm linalg_vector_norm logsumexp max min median argmax argmin any all",
    ),
    (_Walk.dim_kept, "softmax log_softmax _softmax _log_softmax roll flip cumsum"),
    (
        _Walk.spatial,
        "avg_pool1d avg_pool2d avg_pool3d max_pool1d max_pool2d max_pool3d max_pool2d_with_indices lp_pool2d "
        "adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d "
        "adaptive_max_pool3d _adaptive_avg_pool2d upsample_nearest1d upsample_nearest2d upsample_nearest3d "
        "_upsample_nearest_exact2d upsample_linear1d upsample_bilinear2d upsample_bicubic2d upsample_trilinear3d "
        "_upsample_bilinear2d_aa _upsample_bicubic2d_aa",
    ),
    (_Walk.sliced, "slice select narrow index_select unbind"),
    (_Walk.split, "chunk split split_with_sizes tensor_split unsafe_chunk unsafe_split"),
    (_Walk.concatenated, "cat concat concatenate stack"),
    (_Walk.padded, "pad constant_pad_nd reflection_pad1d reflection_pad2d replication_pad2d"),
    (_Walk.per_channel, "batch_norm instance_norm"),
    (_Walk.normalized, "layer_norm rms_norm group_norm native_layer_norm native_group_norm"),
    (_Walk.convolution, "conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d"),
    (_Walk.gated, "glu"),
    (_Walk.prelu, "prelu"),
    (_Walk.linear, "linear"),
    (_Walk.addmm, "addmm"),
    (_Walk.matmul, "matmul mm"),
    (_Walk.embedding, "embedding"),
)
_RULES: dict[str, Rule] = {name: rule for rule, names in _TABLE for name in names.split()}
