"""A network that computes in floats what the deployed integers will stand for."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from ..graph import trace
from .encoding import Encoding, IntegerParameters
from .flavour import bias_parameters, flavour_named
from .sites import encoded_parts

aten = torch.ops.aten


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
    scales: dict[str, float] = {}
    for node in activations:
        parameters = engine.activation_parameters(encodings[node.name])
        scales[node.name] = float(parameters.scale)
        _round_value(module, nodes[node.name], parameters)
    for product in products:
        scale = scales[product.read]
        bias = graph.tensor(product.bias_node)
        weight = engine.weight_parameters(
            encodings[product.weight], scale, None if bias is None else bias.detach().cpu().numpy()
        )
        node = nodes[product.node.name]
        _round_argument(module, node, node.all_input_nodes[1], weight)
        if bias is not None:
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
    with module.graph.inserting_before(node):
        rounded = module.graph.call_function(
            aten.fake_quantize_per_channel_affine.default,
            (argument, *constants, 0, parameters.low, parameters.high),
        )
    node.replace_input_with(argument, rounded)
