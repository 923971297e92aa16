"""Which tensors of a network become integers: decided on the traced graph, for every engine alike.

Integer convolutions and matrix products need their input, weight and output in integers; an activation function that
only clips (ReLU, ReLU6) belongs to the operation before it, so that the tensor to encode is the clipped one. Sums,
products, concatenations, poolings and sigmoids follow where all that they read is in integers already. Operations that
only move or select values (max pooling, reshaping) pass integers through unchanged: what they yield has the encoding of
what they read.
"""

from __future__ import annotations

import fnmatch
import math
import operator
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch.fx import Node

from ..core.edit import Skip
from ..errors import InvalidInput
from ..graph.trace import Graph, named_tensors
from .decompose import decompose, gate, is_scaling, is_shift
from .encoding import Encoding

aten = torch.ops.aten

PRODUCTS = frozenset(
    {
        aten.conv1d.default,
        aten.conv1d.padding,
        aten.conv2d.default,
        aten.conv2d.padding,
        aten.linear.default,
    }
)
SUMS = frozenset({aten.add.Tensor, aten.add_.Tensor})
JOINS = SUMS | {aten.mul.Tensor, aten.mul_.Tensor, aten.cat.default}
CURVES = frozenset({aten.sigmoid.default, aten.sigmoid_.default})
POOLS = frozenset({aten.avg_pool2d.default, aten.adaptive_avg_pool2d.default, aten.mean.dim})
MOVES = frozenset(
    {
        aten.max_pool2d.default,
        aten.adaptive_max_pool2d.default,
        aten.flatten.using_ints,
        aten.view.default,
        aten.reshape.default,
        aten.squeeze.dim,
        aten.squeeze.default,
        aten.squeeze.dims,
        aten.unsqueeze.default,
        aten.permute.default,
        aten.transpose.int,
        aten.slice.Tensor,
        aten.select.int,
        aten.t.default,
        aten.upsample_nearest2d.vec,
        operator.getitem,
    }
)
NOTHING = frozenset(
    {
        aten.dropout.default,
        aten.dropout_.default,
        aten.feature_dropout.default,
        aten.contiguous.default,
        aten.clone.default,
        aten.alias.default,
        aten.detach.default,
        aten.chunk.default,  # the getitem that follows is what selects
        aten.split.Tensor,
        aten.split_with_sizes.default,
    }
)
RELU = frozenset({aten.relu.default, aten.relu_.default})
CLIPS = frozenset(
    {
        *RELU,
        aten.relu6.default,
        aten.relu6_.default,
        aten.hardtanh.default,
        aten.hardtanh_.default,
        aten.clamp.default,
        aten.clamp_.default,
        aten.clamp_min.default,
    }
)


@dataclass(frozen=True)
class IntegerLayer:
    """A convolution or linear layer that can run in integers: its node, what it reads, its weight and its bias.

    ``read`` names the node whose encoded values the layer reads, or nothing where its weight is restored to floats;
    ``weight`` and ``bias`` are qualified parameter names.
    """

    node: Node
    layer: str
    read: str
    weight: str
    bias: str | None

    @property
    def bias_node(self) -> Node | None:
        """The placeholder of the bias, if there is one."""
        return _bias_node(self.node)


@dataclass(frozen=True)
class Placement:
    """What becomes integers.

    ``measured`` names, for each activation to encode, the node whose values give its range: mostly itself.
    ``operations`` names, for each sum, product, pooling or curve that can run in integers, the node after which its
    result is rounded: itself, or the clipping that follows it.
    """

    products: tuple[IntegerLayer, ...]
    measured: Mapping[str, str]
    skipped: tuple[Skip, ...] = ()
    operations: Mapping[str, str] = field(default_factory=dict)


def clip_bounds(node: Node) -> tuple[float, float] | None:
    """The bounds between which ``node`` clips, if clipping from below at 0 is all it does."""
    if node.target in RELU:
        return 0.0, math.inf
    if node.target in (aten.relu6.default, aten.relu6_.default):
        return 0.0, 6.0
    if node.target not in CLIPS:
        return None
    unset = (-1.0, 1.0) if node.target in (aten.hardtanh.default, aten.hardtanh_.default) else (None, None)
    low = node.args[1] if len(node.args) > 1 else node.kwargs.get("min", node.kwargs.get("min_val", unset[0]))
    high = node.args[2] if len(node.args) > 2 else node.kwargs.get("max", node.kwargs.get("max_val", unset[1]))
    if not isinstance(low, (int, float)) or low != 0 or not (high is None or isinstance(high, (int, float))):
        return None
    return 0.0, math.inf if high is None else float(high)


def placement_of(
    graph: Graph,
    exclude: Iterable[str] = (),
    *,
    floats: Iterable[str] = (),
    encodings: Mapping[str, Encoding] | None = None,
    results: bool = False,
    apart: Mapping[str, str] | None = None,
) -> Placement:
    """Decide which tensors of ``graph`` become integers; activation functions are decomposed in it where that helps.

    Args:
        exclude: patterns (as in ``layer4.*``) of layers to keep in float.
        floats: names of operations, other than layers, to keep in float; what they alone read is not encoded.
        encodings: that a network has already: what they do not encode is not decomposed.
        results: encode what the network returns too, where it is computed from integers.
        apart: names of concatenations that run in float, so that what they join keeps ranges of its own, and why.

    Raises:
        InvalidInput: a pattern matches no layer.
    """
    apart = dict(apart or {}) if encodings is None else _left_apart(graph, encodings)
    decision = _Decision(graph, tuple(exclude), frozenset(floats), apart)
    if encodings is None:
        decompose(graph, lambda node: not decision.excluded(graph.layer(node)) and node.name not in decision.floats)
    else:
        decompose(graph, lambda node: gate(node) in encodings)
    return decision.sites(results=results)


def _left_apart(graph: Graph, encodings: Mapping[str, Encoding]) -> dict[str, str]:
    """The concatenations that ``encodings`` leave in float, and why, in words."""
    cats = (node for node in graph.calls(aten.cat.default) if node.name not in encodings)
    return {
        node.name: "cat runs in float: it was left so by quantization"
        for node in cats
        if not any(user.name in encodings for user in node.users)
    }


class _Decision:
    def __init__(
        self, graph: Graph, exclude: tuple[str, ...], floats: frozenset[str], apart: Mapping[str, str]
    ) -> None:
        self.graph = graph
        self.exclude = exclude
        self.floats = floats
        self.apart = apart
        self.names: dict[str, list[str]] = {}
        for name, first in graph.module_names.items():
            self.names.setdefault(first, []).append(name)
        self.measured: dict[str, str] = {}
        self.in_integers: set[str] = set()
        self.operations: dict[str, str] = {}
        self.skips: dict[tuple[str, str], Skip] = {}
        self.returned = frozenset(node.name for node in graph.outputs)
        self.used: set[Node] = set()

    def sites(self, *, results: bool = False) -> Placement:
        unmatched = set(self.exclude)
        for name in (name for names in self.names.values() for name in names):
            unmatched -= {pattern for pattern in unmatched if fnmatch.fnmatchcase(name, pattern)}
        if unmatched:
            layers = [name for name, module in self.graph.model.named_modules() if not any(module.children())]
            raise InvalidInput(
                f"exclude {sorted(unmatched)[0]!r}: matches no layer of the network; "
                f"it has {', '.join(layers[:8])}, ..."
            )
        self.used = _used(self.graph)  # not before activation functions were decomposed in it
        products = tuple(p for node in self.graph.calls(*PRODUCTS) if (p := self._product(node)) is not None)
        for product in products:
            self._require(_tensor_argument(product.node))
            self._follow(product.node, may_stay_float=product.node.target is aten.linear.default)
        for node in self.graph.calls():
            if is_scaling(node):
                if self._encoded(node.args[0]):
                    self.in_integers.add(node.name)
            elif node.target in JOINS | POOLS | CURVES and node in self.used and self._joins_integers(node):
                self.operations[node.name] = self._follow(node)
                self.in_integers.add(node.name)
            elif node.target in MOVES and node.name not in self.measured and not self._is_result(node):
                source = _source(node)
                if source is not None and source.name in self.measured and self._is_float(node):
                    self.measured[node.name] = self.measured[source.name]
        for node in self.graph.outputs if results else ():
            if self._is_float(node) and any(self._encoded(source) for source in node.all_input_nodes):
                self.measured.setdefault(node.name, node.name)
        self._share_concatenations()
        for name, at in self.measured.items():
            while self.measured[at] != at:
                at = self.measured[at]
            self.measured[name] = at
        self._account_for_the_rest()
        return Placement(products, self.measured, tuple(self.skips.values()), self.operations)

    def _product(self, node: Node) -> IntegerLayer | None:
        weight = self.graph.tensor_name(node.args[1])
        bias = self.graph.tensor_name(_bias_node(node))
        source = _source(node)
        layer = self.graph.layer(node) or (weight or "").rpartition(".")[0]
        if self.excluded(layer):
            self._skip(layer, "kept in float: excluded")
            return None
        if node not in self.used:
            self._skip(layer, "kept in float: no result of the network depends on it")
            return None
        if weight is None:
            self._skip(layer, "kept in float: its weight is computed in the network, not stored")
            return None
        if bias is None and _bias_node(node) is not None:
            self._skip(layer, "kept in float: its bias is computed in the network, not stored")
            return None
        if source is None or not self._is_float(source) or not self._is_float(node):
            self._skip(layer, f"kept in float: it computes in {node.meta['val'].dtype}, expected float32")
            return None
        return IntegerLayer(node, layer, source.name, weight, bias)

    def _skip(self, layer: str, reason: str) -> None:
        self.skips.setdefault((layer, reason), Skip(layer, reason))

    def excluded(self, layer: str) -> bool:
        """Whether a pattern keeps ``layer``, by any name that it has, in float."""
        names = self.names.get(layer, [layer])
        return any(fnmatch.fnmatchcase(name, pattern) for pattern in self.exclude for name in names)

    @staticmethod
    def _is_float(node: Node) -> bool:
        value = node.meta.get("val")
        return isinstance(value, torch.Tensor) and value.dtype == torch.float32

    @staticmethod
    def _computes(node: Node) -> bool:
        """Whether ``node`` computes floats, one tensor or, as a recurrent layer, several, of the values of others."""
        value = node.meta.get("val")
        each = value if isinstance(value, (tuple, list)) else (value,)
        floats = any(isinstance(item, torch.Tensor) and item.dtype == torch.float32 for item in each)
        return floats and any(isinstance(item.meta.get("val"), torch.Tensor) for item in node.all_input_nodes)

    def _require(self, node: Node | None) -> None:
        """Encode ``node``, or what it passes on, and everything on the way."""
        way: list[str] = []
        while node is not None and node.name not in self.measured:
            if node.target not in NOTHING:
                if not self._is_float(node):
                    break
                way.append(node.name)
            if node.op != "call_function" or node.target not in MOVES | NOTHING:
                break
            node = _tensor_argument(node)
        if way:
            at = way[-1] if node is None else self.measured.get(node.name, way[-1])
            self.measured.update(dict.fromkeys(way, at))

    def _follow(self, node: Node, *, may_stay_float: bool = False) -> str:
        """Encode what ``node`` yields: after the clipping that is all that reads it, if there is one; returns where.

        What may stay in float does, where nothing that reads it runs in integers: the network's result, for one.
        """
        if self._feeds_floats_alone(node):
            return node.name
        way = [node]
        while (user := self._only_user(way[-1])) is not None and user.target in MOVES | NOTHING:
            way.append(user)
        if user is not None and len(way) == 1 and node.target in PRODUCTS and self._is_clipped_shift(user):
            self.in_integers.add(user.name)  # the bias takes the shift in
            way, user = [user], self._only_user(user)
        if user is not None and clip_bounds(user) is not None and self._is_float(user):
            self.in_integers.add(user.name)
            passed = [step for step in way[1:] if step.target not in NOTHING]
            if passed:  # the values are moved before they are clipped; clipping first gives the same
                passed.insert(0, node)
            self.measured.update({step.name: user.name for step in (*passed, user)})
            return user.name
        if node.name not in self.measured and not (may_stay_float and not self._read_by_integers(node)):
            self.measured[node.name] = node.name
        return node.name

    def _feeds_floats_alone(self, node: Node) -> bool:
        """Whether all that reads ``node``, perhaps moved or clipped, are operations that are to stay in float."""
        if not self.floats or not node.users or node.name in self.returned:
            return False
        return all(
            user.name in self.floats or (user.target in MOVES | NOTHING | CLIPS and self._feeds_floats_alone(user))
            for user in node.users
        )

    def _only_user(self, node: Node) -> Node | None:
        users = list(node.users)
        return (
            users[0] if len(users) == 1 and node.name not in self.returned and users[0].op == "call_function" else None
        )

    def _is_clipped_shift(self, node: Node) -> bool:
        """Whether ``node`` adds a number to what is clipped at once."""
        user = self._only_user(node) if is_shift(node) else None
        return user is not None and clip_bounds(user) is not None and self._is_float(user)

    def _read_by_integers(self, node: Node) -> bool:
        return any(
            user.target in PRODUCTS | JOINS | POOLS | CURVES
            or (user.target in MOVES | NOTHING and self._read_by_integers(user))
            for user in node.users
        )

    def _is_result(self, node: Node) -> bool:
        """Whether ``node`` is only returned, perhaps moved."""
        return all(
            user.op == "output" or (user.target in MOVES | NOTHING and self._is_result(user)) for user in node.users
        )

    def _joins_integers(self, node: Node) -> bool:
        if not self._is_float(node) or self.excluded(self.graph.layer(node)):
            return False
        if node.name in self.floats or node.name in self.apart:
            return False
        if node.target in POOLS and not _pools_space(node):
            return False
        if node.target in SUMS and node.kwargs.get("alpha", 1) != 1:
            return False
        if is_shift(node):
            return self._is_clipped_shift(node) and self._encoded(node.args[0])
        read = _items(node.args[0]) if node.target is aten.cat.default else node.args[:2]
        return all(self._encoded(item) for item in (read[:1] if node.target in POOLS | CURVES else read))

    def _encoded(self, item: object) -> bool:
        """Whether ``item`` is a value in integers, perhaps scaled."""
        source = source_of(item)
        while source is not None and is_scaling(source):
            source = _source(source)
        return source is not None and source.name in self.measured

    def _share_concatenations(self) -> None:
        """Give a tensor that only concatenations read the encoding of the whole: nothing is rounded twice.

        Not where some parts start at 0, after a ReLU, and others do not: the former would lose their zero point.
        """
        own = dict(self.measured)
        starts_at_zero: dict[str, bool] = {}
        for node in self.graph.nodes:
            if own.get(node.name) == node.name:
                parts = [source_of(item) for item in _items(node.args[0])] if node.target is aten.cat.default else []
                starts_at_zero[node.name] = clip_bounds(node) is not None or (
                    bool(parts)
                    and all(part is not None and starts_at_zero.get(own.get(part.name, "")) for part in parts)
                )
        joined = {
            node.name: {part for item in _items(node.args[0]) if (part := source_of(item)) is not None}
            for node in self.graph.calls(aten.cat.default)
            if own.get(node.name) == node.name and node.name in self.in_integers
        }
        whole: dict[str, str] = {}
        for name in reversed(joined):  # the latest that joins all of this and more, as in a dense block
            covering = (other for other in whole if joined[name] < joined[other] and other not in self.returned)
            same = (other for other in covering if starts_at_zero[other] == starts_at_zero[name])
            wider = None if name in self.returned else next(same, None)
            whole[name] = name if wider is None else whole[wider]
        self.measured.update(whole)
        for part in {part for parts in joined.values() for part in parts}:
            wholes = {whole.get(user.name) for user in part.users}
            if len(wholes) != 1 or None in wholes or own[part.name] != part.name:
                continue
            if part.name in self.returned or part.name in joined:
                continue
            at = str(wholes.pop())
            if starts_at_zero[part.name] == starts_at_zero[at]:
                self.measured[part.name] = at

    def _account_for_the_rest(self) -> None:
        """A skip for every operation on float values that stays in float."""
        for node in self.graph.calls():
            if node.target in PRODUCTS | NOTHING | MOVES or node.name in self.in_integers or not self._computes(node):
                continue
            operation = str(getattr(node.target, "_opname", None) or getattr(node.target, "__name__", node.target))
            reason = self.apart.get(node.name, f"{operation.rstrip('_')} runs in float")
            self._skip(self.graph.layer(node), reason)


def _used(graph: Graph) -> set[Node]:
    """The nodes that the results of the network are computed from."""
    used, waiting = set[Node](), list(graph.outputs)
    while waiting:
        node = waiting.pop()
        if node not in used:
            used.add(node)
            waiting += node.all_input_nodes
    return used


def encoded_placement(graph: Graph, encodings: Mapping[str, Encoding]) -> Placement:
    """The placement of the tensors that ``encodings`` encode; its products are those whose weights are among them.

    Activation functions that they encode the parts of are decomposed in ``graph``.

    A product runs in integers where what it reads is encoded as well, and its weight is not to be restored; else its
    weight alone is stored in fewer bits.

    Raises:
        InvalidInput: an encoding is of no tensor of this graph, or that of a weight has another number of channels.
    """
    placement = placement_of(graph, encodings=encodings)
    nodes = {node.name for node in graph.nodes}
    tensors = {name for name, _ in named_tensors(graph.model)}
    unknown = [name for name in encodings if name not in nodes and name not in tensors]
    if unknown:
        raise InvalidInput(
            f"encodings: {unknown[0]!r} is no tensor of this network; they were made for another one, quantize again"
        )
    left = [p for p in placement.products if p.weight not in encodings]
    encoded = (p for p in placement.products if p.weight in encodings)
    products = tuple(replace(p, read="") if encodings[p.weight].restored else p for p in encoded)
    for product in products:
        _require_ranges(graph, product, encodings[product.weight])
    skipped = (*placement.skipped, *(Skip(p.layer, "kept in float: it was left so by quantization") for p in left))
    return replace(placement, products=products, skipped=tuple(dict.fromkeys(skipped)))


def _require_ranges(graph: Graph, product: IntegerLayer, encoding: Encoding) -> None:
    """Raise InvalidInput unless the encoding of a weight has a range for each of its channels or blocks."""
    tensor = graph.tensor(product.node.args[1])
    ranges = 0 if tensor is None else encoding.ranges(tuple(tensor.shape))
    if ranges != len(encoding.low):
        parts = "output channels" if encoding.block is None else f"blocks of {encoding.block}"
        raise InvalidInput(
            f"encodings: {product.weight} has {ranges} {parts}, and its encoding {len(encoding.low)}; "
            f"it was made for another network, quantize again"
        )


def without_layers(
    graph: Graph, encodings: Mapping[str, Encoding], layers: Iterable[str], operations: Iterable[str] = ()
) -> dict[str, Encoding]:
    """``encodings`` with these layers and operations in float: of what is still read or made in integers.

    Args:
        graph: of the network, no activation functions decomposed but by an earlier call.
        operations: names of nodes, other than layers.
    """
    known = {name for name, _ in graph.model.named_modules()}  # an operation in a forward may be named after itself
    placement = placement_of(graph, known & set(layers), floats=operations, results=True)
    wanted = {*placement.measured, *(product.weight for product in placement.products)}
    return {name: encoding for name, encoding in encodings.items() if name in wanted}


def integers_of_levels(encodings: Mapping[str, Encoding], products: Iterable[IntegerLayer]) -> dict[str, Encoding]:
    """``encodings`` in which weights of few levels that are multiplied by integers are integers themselves.

    Raises:
        InvalidInput: the levels of one are not multiples of a step.
    """
    deployed = dict(encodings)
    for product in products:
        encoding = encodings[product.weight]
        if encoding.kind == "levels" and product.read in encodings:
            integers = encoding.in_integers()
            if integers is None:
                raise InvalidInput(
                    f"encodings: {product.weight} has levels that no integers hold, and what it is multiplied by is in "
                    f"integers; quantize weights alone, or with another scheme"
                )
            deployed[product.weight] = integers
    return deployed


def pools_in_one_scale(graph: Graph, encodings: Mapping[str, Encoding]) -> dict[str, Encoding]:
    """``encodings`` in which the average of windows has the range of what it averages, and the other way round.

    Both get the smallest range that holds both, and so does every tensor that shares the encoding of either, such as
    the parts of a concatenation: nothing is rounded once more. LiteRT's specification of 8-bit integers wants that of
    AVERAGE_POOL_2D ("input and outputs must all have same scale/zero_point").
    """
    shared = dict(encodings)
    activations = [node.name for node in graph.nodes if node.name in shared]
    for node in graph.calls(aten.avg_pool2d.default):
        source = source_of(node.args[0])
        read, made = shared.get(source.name) if source is not None else None, shared.get(node.name)
        if read is None or made is None or read == made or read.bits != made.bits:
            continue
        low, high = min(*read.low, *made.low), max(*read.high, *made.high)
        both = replace(read, low=(low,), high=(high,))
        shared.update({name: both for name in activations if shared[name] in (read, made)})
    return shared


def ranges_in_one_scale(graph: Graph, ranges: Mapping[str, str], encodings: Mapping[str, Encoding]) -> dict[str, str]:
    """``ranges``, in which the average of windows shares the range of what it averages; see `pools_in_one_scale`.

    Args:
        ranges: for each activation the name of the node whose range it has.
        encodings: after they were given one scale.
    """
    shared = dict(ranges)
    for node in graph.calls(aten.avg_pool2d.default):
        source = source_of(node.args[0])
        read = None if source is None else source.name
        if read in shared and node.name in shared and encodings.get(read) == encodings.get(node.name):
            own = shared[node.name]
            shared.update({name: shared[read] for name, at in shared.items() if at == own})
    return shared


def _bias_node(node: Node) -> Node | None:
    bias = node.args[2] if len(node.args) > 2 else node.kwargs.get("bias")
    return bias if isinstance(bias, Node) else None


def _items(argument: object) -> tuple[object, ...]:
    return tuple(argument) if isinstance(argument, (tuple, list)) else (argument,)


def _tensor_argument(node: Node) -> Node | None:
    return node.args[0] if node.args and isinstance(node.args[0], Node) else None


def source_of(item: object) -> Node | None:
    """``item`` past operations that do nothing in evaluation."""
    node = item if isinstance(item, Node) else None
    while node is not None and node.target in NOTHING:
        node = _tensor_argument(node)
    return node


def _source(node: Node) -> Node | None:
    return source_of(_tensor_argument(node))


def _pools_space(node: Node) -> bool:
    """Whether ``node`` averages over height and width, the whole or windows."""
    if node.target is aten.mean.dim:
        dims = node.args[1] if len(node.args) > 1 else None
        source = _tensor_argument(node)
        if not isinstance(dims, (tuple, list)) or source is None or source.meta["val"].ndim != 4:
            return False
        return {int(dim) % 4 for dim in dims} == {2, 3}
    if node.target is aten.adaptive_avg_pool2d.default:
        return all(size == 1 for size in _items(node.args[1]))
    return True
