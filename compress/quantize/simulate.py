"""A network that computes in floats what the deployed integers will stand for."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node
from torch.nn import functional

from ..graph import trace
from .encoding import Encoding, IntegerParameters
from .flavour import bias_parameters, flavour_named
from .sites import encoded_parts

aten = torch.ops.aten
HALVES = {"float16": torch.float16, "bfloat16": torch.bfloat16}


def simulate(
    model: nn.Module, encodings: Mapping[str, Encoding], example_inputs: tuple[Tensor, ...], *, flavour: str = "ort-x86"
) -> GraphModule:
    """A callable with the inputs and outputs of ``model`` that rounds every encoded tensor as the deployed file does.

    Scales and zero points are those that ``flavour`` deploys. Rounding passes gradients straight through inside of the
    range and stops them outside (Jacob et al., 2017, section 3), and the parameters are the model's own.

    Raises:
        InvalidInput: the encodings are not of this network, or there is no such flavour.
    """
    engine = flavour_named(flavour)
    graph = trace(model, example_inputs, dynamic_batch=True)
    activations, products = encoded_parts(graph, encodings)
    module: GraphModule = graph.program.module(check_guards=False)
    nodes = {node.name: node for node in module.graph.nodes}
    placeholders = (node for node in module.graph.nodes if node.op == "placeholder")  # renamed: "input" is "input_1"
    nodes |= dict(zip((node.name for node in graph.inputs), placeholders, strict=True))
    scales: dict[str, float] = {}
    for node in activations:
        parameters = engine.activation_parameters(encodings[node.name])
        scales[node.name] = float(parameters.scale)
        _round_value(module, nodes[node.name], parameters)
    for product in products:
        node, encoding = nodes[product.node.name], encodings[product.weight]
        if encoding.kind != "integer":
            _shorten_argument(module, node, node.all_input_nodes[1], HALVES[encoding.kind])
            continue
        scale = scales.get(product.read)
        bias = graph.tensor(product.bias_node) if engine.rounds_bias(encodings.get(product.read)) else None
        weight = engine.weight_parameters(encoding, scale, None if bias is None else bias.detach().cpu().numpy())
        _round_argument(module, node, node.all_input_nodes[1], weight)
        if bias is not None and scale is not None:
            _round_argument(module, node, node.all_input_nodes[2], bias_parameters(scale, weight))
    module.graph.lint()
    # A plain module again: an exported one refuses to be told its mode.
    simulated = GraphModule(module, module.graph)
    simulated.eval()
    return simulated


def _round_value(module: GraphModule, node: Node, parameters: IntegerParameters) -> None:
    """Make all that read ``node`` read its rounded values."""
    with module.graph.inserting_after(node):
        rounded = module.graph.call_function(
            aten.fake_quantize_per_tensor_affine.default,
            (node, float(parameters.scale), int(parameters.zero_point), parameters.low, parameters.high),
        )
    node.replace_all_uses_with(rounded, delete_user_cb=lambda user: user is not rounded)


def _round_argument(module: GraphModule, node: Node, argument: Node, parameters: IntegerParameters) -> None:
    """Make ``node`` read ``argument``, a parameter with output channels first, rounded per channel."""
    zeros = torch.zeros(len(parameters.scale), dtype=torch.int32)
    constants = []
    for kind, value in (("scale", torch.from_numpy(parameters.scale)), ("zero", zeros)):
        name = f"{node.name}_{argument.name}_{kind}"
        module.register_buffer(name, value, persistent=False)
        with module.graph.inserting_before(node):
            constants.append(module.graph.get_attr(name))
    bounds = (parameters.low, parameters.high)
    with module.graph.inserting_before(node):
        if parameters.block is None:
            operation = aten.fake_quantize_per_channel_affine.default
            rounded = module.graph.call_function(operation, (argument, *constants, 0, *bounds))
        else:
            rounded = module.graph.call_function(round_blocks, (argument, *constants, parameters.block, *bounds))
    node.replace_input_with(argument, rounded)


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
