"""A network that computes in floats what the deployed integers will stand for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node
from torch.nn import functional

from .encoding import Encoding
from .plan import Integers, Plan, plan

aten = torch.ops.aten
HALVES = {"float16": torch.float16, "bfloat16": torch.bfloat16}


class Rounding(Protocol):
    """How rounding is written into a module: as one operation in floats, or as an engine's own pair of them."""

    def value(self, module: GraphModule, node: Node, integers: Integers) -> None:
        """Make all that read ``node`` read its rounded values."""
        ...

    def argument(self, module: GraphModule, node: Node, argument: Node, tensor: Tensor, integers: Integers) -> None:
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
    return rounded(plan(model, example_inputs, encodings, target), InFloats())


def simulated(planned: Plan) -> GraphModule:
    """As :func:`simulate`, of a network that is planned already."""
    return rounded(planned, InFloats())


def rounded(planned: Plan, rounding: Rounding) -> GraphModule:
    """A callable with the inputs and outputs of the planned network in which ``rounding`` stands wherever it rounds."""
    graph = planned.graph
    module: GraphModule = graph.program.module(check_guards=False)
    nodes = nodes_of(module)
    for name, integers in planned.values.items():
        if name not in planned.fused:
            rounding.value(module, nodes[name], integers)
    for each in planned.layers:
        node = nodes[each.layer.node.name]
        if each.encoding.kind in HALVES:
            _shorten_argument(module, node, node.all_input_nodes[1], HALVES[each.encoding.kind])
        if each.weight is None:
            continue
        if planned.target.products_only and each.read is not None:
            with module.graph.inserting_before(node):
                own = module.graph.call_function(aten.alias.default, (node.args[0],))
            node.update_arg(0, own)
            rounding.value(module, own, each.read)
        weight, bias = graph.tensor(each.layer.node.args[1]), graph.tensor(each.layer.bias_node)
        assert weight is not None, each.layer.weight
        rounding.argument(module, node, node.all_input_nodes[1], weight, each.weight)
        if bias is not None and each.bias is not None:
            rounding.argument(module, node, node.all_input_nodes[2], bias, each.bias)
    module.graph.lint()
    # A plain module again: an exported one refuses to be told its mode.
    plain = GraphModule(module, module.graph)
    plain.eval()
    return plain


def traced_name(node: Node) -> str:
    """The name in the trace of a node of a module that was made of it: an input "input" is "input_1" in the module."""
    return str(node.target) if node.op == "placeholder" else node.name


def nodes_of(module: GraphModule) -> dict[str, Node]:
    """The nodes of a module that was made of a trace, by their names in the trace."""
    return {traced_name(node): node for node in module.graph.nodes}


class InFloats:
    """Rounding as one operation whose result is a float again."""

    def value(self, module: GraphModule, node: Node, integers: Integers) -> None:
        """Make all that read ``node`` read its rounded values."""
        parameters = integers.parameters
        with module.graph.inserting_after(node):
            rounded = module.graph.call_function(
                aten.fake_quantize_per_tensor_affine.default,
                (node, integers.scale, int(parameters.zero_point), parameters.low, parameters.high),
            )
        node.replace_all_uses_with(rounded, delete_user_cb=lambda user: user is not rounded)

    def argument(self, module: GraphModule, node: Node, argument: Node, tensor: Tensor, integers: Integers) -> None:
        """Make ``node`` read ``argument``, a parameter with output channels first, rounded."""
        parameters = integers.parameters
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
