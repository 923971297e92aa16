"""Fold: batch normalisation with fixed statistics becomes part of the convolution or linear layer next to it.

In evaluation mode a batch norm is an affine map per channel, ``y = scale * x + shift`` with
``scale = gamma / sqrt(var + eps)`` and ``shift = beta - mean * scale`` (Ioffe and Szegedy, "Batch Normalization"
(2015), algorithm 2), so it can be multiplied into the weights of the layer that feeds it, or of the layer that it feeds
(Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference" (2017),
section 3.2). Which layer that is, is read from the traced graph.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.fx import Node
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._pytree import tree_leaves

from .edits import replay
from .graph.trace import Graph, argument, shape_of, trace
from .stage import Config, Context, Edit, Result, Skip, evaluation_copy

aten = torch.ops.aten

CONVOLUTIONS = frozenset(
    {
        aten.conv1d.default,
        aten.conv1d.padding,
        aten.conv2d.default,
        aten.conv2d.padding,
        aten.conv3d.default,
        aten.conv3d.padding,
    }
)
TRANSPOSED = frozenset({aten.conv_transpose1d.default, aten.conv_transpose2d.input, aten.conv_transpose3d.input})
LAYERS = CONVOLUTIONS | TRANSPOSED | {aten.linear.default}
RESHAPES = frozenset({aten.flatten.using_ints, aten.reshape.default, aten.view.default, aten.squeeze.dims})
DROPOUTS = frozenset({aten.dropout.default, aten.feature_dropout.default, aten.alpha_dropout.default})
COPIES = frozenset({aten.contiguous.default, aten.clone.default, aten.detach.default, aten.alias.default})

TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}
"""The largest change of an output, relative to the output's largest value, that counts as rounding."""


class Fold(Config):
    """Fold every batch norm that can be folded into the layer before it, or else into the layer after it.

    Convolutions of one to three dimensions (grouped, depthwise, transposed) and linear layers take a batch norm in,
    where it is the only one to read the layer's output. A batch norm that stands before a layer is folded into it if
    it feeds nothing else and the layer pads nothing (padding is 0 *after* the batch norm, so a shift could not be
    moved past it). Weights that several calls share stay as they are.
    """

    def apply(self, model: nn.Module, context: Context) -> Result:
        """The network with ``nn.Identity`` in the place of every folded batch norm; the others are skipped.

        The products are computed in float64 and rounded once to the type of the weights. The outputs on the example
        inputs are compared with those before: a fold that changes them by more than rounding is not done.

        Raises:
            InvalidInput: the network cannot be traced on the example inputs.
        """
        source = evaluation_copy(model)
        graph = trace(source, context.example_inputs)
        norms, skipped = _batch_norms(graph)
        expected = _outputs(evaluation_copy(source), context)
        plan = _plan(graph, norms)
        context.progress("fold", 0, 1, f"{len(plan.folded)} of {len(norms) + len(skipped)} batch norms")
        folded = _fold(source, plan)
        if _change(folded, expected, context):
            folded, plan, refused = _fold_one_by_one(source, graph, plan, expected, context)
            skipped += refused
        context.progress("fold", 1, 1)
        return Result(folded, tuple(plan.edits()), (*skipped, *plan.skipped))


@dataclass(frozen=True)
class _Norm:
    """A batch norm with a module of its own, called once; ``names`` are all the names of that module."""

    node: Node
    layer: str
    names: tuple[str, ...]
    scale: Tensor
    shift: Tensor


@dataclass
class _Layer:
    """A layer that takes batch norms in, its weights in float64 as (groups, first, second, kernel elements).

    Convolutions have (groups, out, in, kernel), transposed ones (groups, in, out, kernel), linear layers
    (1, out, in, 1), with the channels of one group.
    """

    weight_name: str
    bias_name: str
    weight: Tensor
    bias: Tensor
    transposed: bool
    new_bias: bool
    norms: list[_Norm] = field(default_factory=list)

    def scale_outputs(self, norm: _Norm) -> None:
        """Follow the layer by ``scale * y + shift``."""
        scale = norm.scale.reshape(self.weight.shape[0], -1)
        self.weight = self.weight * (scale[:, None, :, None] if self.transposed else scale[:, :, None, None])
        self.bias = self.bias * norm.scale + norm.shift
        self.norms.append(norm)

    def scale_inputs(self, norm: _Norm, repeats: int) -> None:
        """Precede the layer by ``scale * x + shift``, each channel of which is ``repeats`` inputs of this layer."""
        groups = self.weight.shape[0]
        scale = norm.scale.repeat_interleave(repeats).reshape(groups, -1)
        shift = norm.shift.repeat_interleave(repeats).reshape(groups, -1)
        weight = self.weight.transpose(1, 2) if self.transposed else self.weight
        self.bias = self.bias + torch.einsum("goik,gi->go", weight, shift).flatten()
        self.weight = self.weight * (scale[:, :, None, None] if self.transposed else scale[:, None, :, None])
        self.norms.append(norm)


@dataclass
class _Plan:
    """What is folded into what. A folded batch norm counts as an identity when the graph is read further."""

    graph: Graph
    layers: dict[Node, _Layer] = field(default_factory=dict)
    folded: dict[Node, _Norm] = field(default_factory=dict)
    skipped: list[Skip] = field(default_factory=list)

    def edits(self) -> Iterable[Edit]:
        """The account of the plan; those that change the structure rebuild it on the source network."""
        for layer in self.layers.values():
            for norm in layer.norms:
                for name in norm.names:
                    kind = type(self.graph.model.get_submodule(name)).__name__
                    yield Edit(name, "module", kind, "Identity", "module")
            with_norms = "folded with " + ", ".join(norm.layer for norm in layer.norms)
            owner, _, attribute = layer.weight_name.rpartition(".")
            yield Edit(owner, attribute, "as stored", with_norms, "weights")
            owner, _, attribute = layer.bias_name.rpartition(".")
            if layer.new_bias:
                yield Edit(owner, attribute, None, tuple(layer.bias.shape), "tensor")
            else:
                yield Edit(owner, attribute, "as stored", with_norms, "weights")

    def _is_identity(self, node: Node) -> bool:
        if node.target in DROPOUTS:
            return not argument(node, "train")
        return node in self.folded or node.target in COPIES

    def producer(self, node: Node) -> Node:
        """The call whose result reaches ``node`` as its input."""
        source = node.args[0]
        while isinstance(source, Node) and self._is_identity(source):
            source = source.args[0]
        assert isinstance(source, Node), f"{node.name} takes no tensor"
        return source

    def consumers(self, node: Node) -> list[Node]:
        """The calls (and the network's output) that the result of ``node`` reaches."""
        readers: list[Node] = []
        for user in node.users:
            readers += self.consumers(user) if self._is_identity(user) else [user]
        return readers

    def describe(self, node: Node) -> str:
        """``node`` in words for a reason."""
        if node.op == "output":
            return "the network's output"
        if node.op == "placeholder":
            return "the network's input"
        operation = getattr(node.target, "_opname", None) or node.name
        layer = self.graph.layer(node)
        return f"{operation} of {layer}" if layer else f"{operation}"

    def fold_into_producer(self, norm: _Norm) -> str:
        """Fold into the layer before, or say why not; "" is success."""
        node = self.producer(norm.node)
        if node.target not in LAYERS:
            return f"its input comes from {self.describe(node)}, not from a convolution or linear layer"
        readers = self.consumers(node)
        if len(readers) > 1:
            others = ", ".join(self.describe(reader) for reader in readers if reader is not norm.node)
            return f"the output of {self.describe(node)} goes to {others} as well"
        if len(shape_of(node)) != _batched_dimensions(node):
            return f"{self.describe(node)} yields {shape_of(node)}, whose dimension 1 is not the layer's outputs"
        layer = self._layer(node)
        if isinstance(layer, str):
            return layer
        layer.scale_outputs(norm)
        return self._done(node, layer, norm)

    def fold_into_consumer(self, norm: _Norm) -> str:
        """Fold into the layer after, or say why not; "" is success."""
        readers = self.consumers(norm.node)
        if len(readers) != 1:
            return f"its output goes to {len(readers)} places"
        node, feeds, repeats = readers[0], norm.node, 1
        if node.target in RESHAPES:
            before, after = shape_of(norm.node), shape_of(node)
            readers = self.consumers(node)
            if after == (before[0], math.prod(before[1:])) and [r.target for r in readers] == [aten.linear.default]:
                node, feeds, repeats = readers[0], node, after[1] // before[1]
        if node.target not in LAYERS or self.producer(node) is not feeds:
            return f"its output goes to {self.describe(node)}, not to a convolution or linear layer"
        dimensions = len(shape_of(argument(node, "input")))
        if dimensions != _batched_dimensions(node):
            return f"{self.describe(node)} takes {shape_of(argument(node, 'input'))}: dimension 1 is not its inputs"
        if bool(norm.shift.any()) and not pads_nothing(node):
            return f"{self.describe(node)} pads its input with 0 after the batch norm has shifted it"
        layer = self._layer(node)
        if isinstance(layer, str):
            return layer
        layer.scale_inputs(norm, repeats)
        return self._done(node, layer, norm)

    def _done(self, node: Node, layer: _Layer, norm: _Norm) -> str:
        self.layers[node] = layer
        self.folded[norm.node] = norm
        return ""

    def _layer(self, node: Node) -> _Layer | str:
        """The layer called at ``node``, ready to take a batch norm in, or why its weights cannot be changed."""
        if node in self.layers:
            return self.layers[node]
        graph, name = self.graph, self.graph.layer(node)
        weight_node, bias_node = argument(node, "weight"), argument(node, "bias")
        weight, bias = graph.tensor(weight_node), graph.tensor(bias_node)
        weight_name, bias_name = graph.tensor_name(weight_node), graph.tensor_name(bias_node)
        stored = graph.model.state_dict()
        if weight is None or weight_name not in stored or (bias_node is not None and bias_name not in stored):
            return f"the weights of {self.describe(node)} are computed, not stored"
        for tensor in (weight, bias):
            calls = 0 if tensor is None else uses(graph, tensor)
            if calls > 1:
                return f"the weights of {self.describe(node)} are used {calls} times"
        transposed = node.target in TRANSPOSED
        groups = 1 if node.target is aten.linear.default else int(argument(node, "groups"))
        outputs = weight.shape[1] * groups if transposed else weight.shape[0]
        values = weight.detach().double().reshape(groups, weight.shape[0] // groups, weight.shape[1], -1)
        offsets = values.new_zeros(outputs) if bias is None else bias.detach().double()
        if bias is None:
            module = graph.model.get_submodule(name)
            if "bias" not in module._parameters or getattr(module, "weight", None) is not weight:
                return f"{self.describe(node)} has no bias, and its module has no place for one"
            bias_name = f"{name}.bias" if name else "bias"
        return _Layer(
            weight_name=weight_name,
            bias_name=str(bias_name),
            weight=values,
            bias=offsets,
            transposed=transposed,
            new_bias=bias is None,
        )


def _batched_dimensions(node: Node) -> int:
    """How many dimensions the inputs and outputs of a layer have when dimension 1 is its channels."""
    return len(shape_of(argument(node, "weight")))


def uses(graph: Graph, tensor: Tensor) -> int:
    """How often operations read a parameter, under whatever name."""
    placeholders = (node for node in graph.nodes if node.op == "placeholder")
    alike = (node for node in placeholders if getattr(node.meta.get("val"), "shape", None) == tensor.shape)
    return sum(len(node.users) for node in alike if graph.tensor(node) is tensor)


def pads_nothing(node: Node) -> bool:
    """Whether each output of the layer sees a whole kernel of inputs, so that a constant input is a constant output."""
    if node.target is aten.linear.default:
        return True
    kernel = shape_of(argument(node, "weight"))[2:]
    padding = argument(node, "padding")
    unpadded = padding == "valid" or (
        math.prod(kernel) == 1
        if padding == "same"
        else not any(padding if isinstance(padding, Iterable) else [padding])
    )
    if node.target not in TRANSPOSED:
        return bool(unpadded)
    # A transposed convolution sees a part of the kernel at each place, another one at the next.
    stride, extra = _numbers(argument(node, "stride")), _numbers(argument(node, "output_padding"))
    return bool(unpadded) and math.prod(kernel) == 1 and set(stride) <= {1} and not any(extra)


def _numbers(value: int | list[int]) -> list[int]:
    return value if isinstance(value, list) else [value]


def _batch_norms(graph: Graph) -> tuple[list[_Norm], list[Skip]]:
    """The batch norms that are fixed affine maps with a module of their own, and the reasons for the others."""
    norms: list[_Norm] = []
    skipped: list[Skip] = []
    calls_within: dict[str, list[Node]] = {}
    for node in graph.calls():
        for name in graph.layers(node):
            calls_within.setdefault(name, []).append(node)
    names = list(graph.model.named_modules(remove_duplicate=False))
    seen: set[nn.Module] = set()
    for node in graph.calls(aten.batch_norm.default):
        layer = graph.layer(node)
        module = graph.model.get_submodule(layer)
        if module in seen:
            continue
        if not isinstance(module, _BatchNorm):
            skipped.append(Skip(layer, f"no module to replace: a batch norm is called at {graph.source(node)}"))
            continue
        seen.add(module)
        norm = affine(graph, node)
        if (count := len(calls_within[layer])) > 1:
            operations = sorted({str(call.target) for call in calls_within[layer]})
            norm = f"it is called {count} times" if len(operations) == 1 else f"its module does {', '.join(operations)}"
        if isinstance(norm, str):
            skipped.append(Skip(layer, norm))
        else:
            aliases = tuple(name for name, other in names if other is module)
            norms.append(_Norm(node, layer, aliases, *norm))
    for layer, module in graph.model.named_modules():
        if isinstance(module, _BatchNorm) and module not in seen:
            skipped.append(Skip(layer, "the trace of the network shows no call of it"))
    return norms, skipped


def affine(graph: Graph, node: Node) -> tuple[Tensor, Tensor] | str:
    """The scale and the shift of a batch norm in float64, each (C,), or why it has none."""
    if argument(node, "training"):
        return "it normalises by the statistics of the batch: it has no running ones"
    mean, variance, gamma, beta = (
        graph.tensor(argument(node, name)) for name in ("running_mean", "running_var", "weight", "bias")
    )
    given = [name for name in ("weight", "bias") if argument(node, name) is not None]
    if mean is None or variance is None or any(graph.tensor(argument(node, name)) is None for name in given):
        return "its statistics, its scale or its shift are computed, not stored"
    inverse = torch.rsqrt(variance.detach().double() + float(argument(node, "eps")))
    scale = inverse if gamma is None else gamma.detach().double() * inverse
    shift = -mean.detach().double() * scale
    shift = shift if beta is None else beta.detach().double() + shift
    if not bool((scale.isfinite() & shift.isfinite()).all()):
        return "its statistics or parameters are not finite"
    return scale, shift


def _plan(graph: Graph, norms: Iterable[_Norm], allowed: Collection[str] | None = None) -> _Plan:
    """Fold what can be folded, again until nothing changes: a fold can make room for another."""
    plan = _Plan(graph)
    waiting = [norm for norm in norms if allowed is None or norm.layer in allowed]
    while True:
        reasons: list[Skip] = []
        remaining: list[_Norm] = []
        for norm in waiting:
            before = plan.fold_into_producer(norm)
            after = before and plan.fold_into_consumer(norm)
            if after:
                remaining.append(norm)
                reasons.append(Skip(norm.layer, f"{before}; {after}"))
        if len(remaining) == len(waiting):
            plan.skipped = reasons
            return plan
        waiting = remaining


def _fold(source: nn.Module, plan: _Plan) -> nn.Module:
    """A copy of ``source`` with the edits made and the weights set."""
    folded = evaluation_copy(source)
    replay(folded, plan.edits())
    for layer in plan.layers.values():
        for name, value in ((layer.weight_name, layer.weight), (layer.bias_name, layer.bias)):
            owner, _, attribute = name.rpartition(".")
            tensor: Tensor = getattr(folded.get_submodule(owner), attribute)
            # New storage: another tensor may be a view of the old one.
            tensor.data = torch.empty_like(tensor).copy_(value.reshape(tensor.shape))
    return folded


def _fold_one_by_one(
    source: nn.Module, graph: Graph, whole: _Plan, expected: list[Tensor], context: Context
) -> tuple[nn.Module, _Plan, list[Skip]]:
    """Fold the batch norms of ``whole`` that leave the outputs as they were."""
    norms = list(whole.folded.values())
    accepted: list[str] = []
    refused: list[Skip] = []
    for done, norm in enumerate(norms):
        context.progress("fold", done, len(norms), norm.layer)
        plan = _plan(graph, norms, [*accepted, norm.layer])
        if norm.node not in plan.folded:
            refused += [skip for skip in plan.skipped if skip.layer == norm.layer]
        elif problem := _change(_fold(source, plan), expected, context):
            refused.append(Skip(norm.layer, problem))
        else:
            accepted.append(norm.layer)
    plan = _plan(graph, norms, accepted)
    plan.skipped += whole.skipped
    return _fold(source, plan), plan, refused


def _outputs(model: nn.Module, context: Context) -> list[Tensor]:
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(context.seed)
        outputs = model(*context.example_inputs)
    return [leaf.detach().clone() for leaf in tree_leaves(outputs) if isinstance(leaf, Tensor)]


def _change(folded: nn.Module, expected: list[Tensor], context: Context) -> str:
    """How folding changed the outputs beyond rounding, in words; "" if it did not."""
    try:
        got = _outputs(folded, context)
    except Exception as error:  # noqa: BLE001 - the user's own code runs here, and may look into its batch norms
        return f"without it the network does not run: {type(error).__name__}: {error}"
    if [tuple(t.shape) for t in got] != [tuple(t.shape) for t in expected]:
        return "without it the outputs have other shapes"
    for before, after in zip(expected, got, strict=True):
        if not before.is_floating_point() or not before.numel():
            continue
        finite = before.isfinite()
        if not torch.equal(finite, after.isfinite()):
            return "folding it changes where the outputs are finite"
        zero = before.new_zeros(())
        largest = float(torch.where(finite, before, zero).abs().max()) or 1.0
        change = float(torch.where(finite, after.double() - before.double(), zero.double()).abs().max()) / largest
        tolerance = TOLERANCE.get(before.dtype, 1e-4)
        if change > tolerance:
            return f"folding it changes the outputs by {change:.1e} of their largest value, more than {tolerance:.0e}"
    return ""
