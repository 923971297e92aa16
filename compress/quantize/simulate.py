"""A network that computes in floats what the deployed integers will stand for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node
from torch.nn import functional

from ..graph import Graph, argument, trace
from ..integers.encoding import Encoding, Integer, IntegerParameters
from ..integers.placement import SUMS, IntegerLayer, encoded_parts, integers_of_levels, pools_in_one_scale
from ..integers.target import Target, bias_parameters, target_named

aten = torch.ops.aten
HALVES = {"float16": torch.float16, "bfloat16": torch.bfloat16}


class Rounding(Protocol):
    """How rounding is written into a module: as one operation in floats, or as an engine's own pair of them."""

    def value(self, module: GraphModule, node: Node, parameters: IntegerParameters, dtype: Integer) -> None:
        """Make all that read ``node`` read its rounded values."""
        ...

    def argument(
        self, module: GraphModule, node: Node, argument: Node, tensor: Tensor, parameters: IntegerParameters, dtype: str
    ) -> None:
        """Make ``node`` read the parameter ``argument``, of value ``tensor``, rounded per channel or block."""
        ...


def simulate(
    model: nn.Module, encodings: Mapping[str, Encoding], example_inputs: tuple[Tensor, ...], *, target: str = "ort-x86"
) -> GraphModule:
    """A callable with the inputs and outputs of ``model`` that rounds every encoded tensor as the deployed file does.

    Scales and zero points are those that ``target`` deploys. Rounding passes gradients straight through inside of the
    range and stops them outside (Jacob et al., 2017, section 3), and the parameters are the model's own.

    Raises:
        InvalidInput: the encodings are not of this network, or there is no such target.
    """
    return rounded(model, encodings, example_inputs, target_named(target), InFloats())


def rounded(
    model: nn.Module,
    encodings: Mapping[str, Encoding],
    example_inputs: tuple[Tensor, ...],
    engine: Target,
    rounding: Rounding,
) -> GraphModule:
    """A callable with the inputs and outputs of ``model`` in which ``rounding`` stands at every encoded tensor.

    Raises:
        InvalidInput: the encodings are not of this network.
    """
    graph = trace(model, example_inputs, dynamic_batch=True)
    activations, products = encoded_parts(graph, encodings)
    encodings = integers_of_levels(encodings, products)
    products = tuple(p for p in products if encodings[p.weight].kind != "levels")  # they are on their levels
    if engine.pools_in_one_scale:
        encodings = pools_in_one_scale(graph, encodings)
    module: GraphModule = graph.program.module(check_guards=False)
    nodes = {node.name: node for node in module.graph.nodes}
    placeholders = (node for node in module.graph.nodes if node.op == "placeholder")  # renamed: "input" is "input_1"
    nodes |= dict(zip((node.name for node in graph.inputs), placeholders, strict=True))
    scales: dict[str, float] = {}
    if engine.products_only:
        activations = ()
        products = tuple(
            p for p in products if encodings[p.weight].kind != "integer" or in_integers(p, encodings, engine)
        )
    if engine.fuses_sums:
        fused = _fused_into_sums(graph, products, encodings)
        activations = tuple(node for node in activations if node.name not in fused)
    for node in activations:
        parameters = engine.activation_parameters(encodings[node.name])
        scales[node.name] = float(parameters.scale)
        rounding.value(module, nodes[node.name], parameters, engine.activation_type(encodings[node.name]))
    for product in products:
        node, encoding = nodes[product.node.name], encodings[product.weight]
        if encoding.kind != "integer":
            _shorten_argument(module, node, node.all_input_nodes[1], HALVES[encoding.kind])
            continue
        if engine.products_only:
            read = encodings[product.read]
            parameters = engine.activation_parameters(read)
            scales[product.read] = float(parameters.scale)
            with module.graph.inserting_before(node):
                own = module.graph.call_function(aten.alias.default, (node.args[0],))
            node.update_arg(0, own)
            rounding.value(module, own, parameters, engine.activation_type(read))
        scale = scales.get(product.read)
        bias = graph.tensor(product.bias_node) if engine.rounds_bias(encodings.get(product.read)) else None
        numbers = None if bias is None else bias.detach().cpu().numpy()
        weight = engine.weight_parameters(encoding, scale, numbers, groups_of(product.node))
        tensor = graph.tensor(product.node.args[1])
        assert tensor is not None, product.weight
        dtype = "int4" if encoding.bits <= 4 else "int8"
        rounding.argument(module, node, node.all_input_nodes[1], tensor, weight, dtype)
        if bias is not None and scale is not None:
            rounding.argument(module, node, node.all_input_nodes[2], bias, bias_parameters(scale, weight), "int32")
    module.graph.lint()
    # A plain module again: an exported one refuses to be told its mode.
    plain = GraphModule(module, module.graph)
    plain.eval()
    return plain


def multiplies_integers(node: Node) -> bool:
    """Whether an engine that has integers for products only has them for ``node``: over planes, or of vectors."""
    rank = node.all_input_nodes[0].meta["val"].ndim
    planes = node.target in (aten.conv2d.default, aten.conv2d.padding)
    return rank == 4 if planes else node.target is aten.linear.default and rank == 2


def in_integers(product: IntegerLayer, encodings: Mapping[str, Encoding], engine: Target) -> bool:
    """Whether ``engine``, which has integers for products only, multiplies integers in ``product``."""
    kept = engine.float_depthwise and is_depthwise(product.node)
    return product.read in encodings and multiplies_integers(product.node) and not kept


def is_depthwise(node: Node) -> bool:
    """Whether ``node`` is a convolution of each input channel by itself."""
    return bool(1 < groups_of(node) == node.all_input_nodes[0].meta["val"].shape[1])


def _fused_into_sums(graph: Graph, products: Iterable[IntegerLayer], encodings: Mapping[str, Encoding]) -> set[str]:
    """The convolutions whose results are summed up before they are rounded: the first that each sum alone reads."""
    alone = {p.node.name for p in products if p.read in encodings and len(p.node.users) == 1}
    found = (next((x.name for x in node.all_input_nodes if x.name in alone), None) for node in graph.calls(*SUMS))
    return {name for name in found if name is not None}


def groups_of(node: Node) -> int:
    """The number of groups of a convolution; 1 of a linear layer."""
    return 1 if node.target is aten.linear.default else int(argument(node, "groups"))


class InFloats:
    """Rounding as one operation whose result is a float again."""

    def value(self, module: GraphModule, node: Node, parameters: IntegerParameters, dtype: Integer) -> None:
        """Make all that read ``node`` read its rounded values."""
        with module.graph.inserting_after(node):
            rounded = module.graph.call_function(
                aten.fake_quantize_per_tensor_affine.default,
                (node, float(parameters.scale), int(parameters.zero_point), parameters.low, parameters.high),
            )
        node.replace_all_uses_with(rounded, delete_user_cb=lambda user: user is not rounded)

    def argument(
        self, module: GraphModule, node: Node, argument: Node, tensor: Tensor, parameters: IntegerParameters, dtype: str
    ) -> None:
        """Make ``node`` read ``argument``, a parameter with output channels first, rounded."""
        zeros = torch.zeros(len(parameters.scale), dtype=torch.int32)
        constants = []
        for kind, value in (("scale", torch.from_numpy(parameters.scale)), ("zero", zeros)):
            constants.append(constant(module, node, f"{node.name}_{argument.name}_{kind}", value))
        bounds = (parameters.low, parameters.high)
        with module.graph.inserting_before(node):
            if parameters.block is None:
                operation = aten.fake_quantize_per_channel_affine.default
                rounded = module.graph.call_function(operation, (argument, *constants, 0, *bounds))
            else:
                rounded = module.graph.call_function(round_blocks, (argument, *constants, parameters.block, *bounds))
        node.replace_input_with(argument, rounded)


def constant(module: GraphModule, node: Node, name: str, value: Tensor) -> Node:
    """A new buffer of ``module``, as it is read in front of ``node``."""
    module.register_buffer(name, value, persistent=False)
    with module.graph.inserting_before(node):
        return module.graph.get_attr(name)


def round_blocks(weight: Tensor, scale: Tensor, zero: Tensor, block: int, low: int, high: int) -> Tensor:
    """``weight`` (channels, features) rounded with one of ``scale`` (channels * blocks,) for ``block`` neighbours."""
    channels, features = weight.shape
    rows = functional.pad(weight, (0, -features % block)).reshape(-1, block)
    rounded = torch.fake_quantize_per_channel_affine(rows, scale, zero, 0, low, high)
    return rounded.reshape(channels, -1)[:, :features]


def _shorten_argument(module: GraphModule, node: Node, argument: Node, dtype: torch.dtype) -> None:
    """Make ``node`` read ``argument`` as it comes back from being stored in ``dtype``."""
    with module.graph.inserting_before(node):
        stored = module.graph.call_function(aten._to_copy.default, (argument,), {"dtype": dtype})
        restored = module.graph.call_function(aten._to_copy.default, (stored,), {"dtype": torch.float32})
    node.replace_input_with(argument, restored)
