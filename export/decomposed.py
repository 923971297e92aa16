"""A network whose integers are written in PyTorch's own quantize and dequantize operations.

LiteRT, ExecuTorch and Core ML convert a ``torch.export`` program and know this form (``quantized_decomposed``, what
PyTorch 2 Export quantization yields): a convolution between dequantize and quantize becomes one in integers.
"""

from __future__ import annotations

import torch
import torch.ao.quantization.fx._decomposed  # registers the operations
from torch import Tensor
from torch.fx import GraphModule, Node

from compress.errors import InvalidInput
from compress.integers.plan import Integers, Plan
from compress.integers.simulate import constant, rounded

operations = torch.ops.quantized_decomposed
DTYPES = {
    "int4": torch.int8,
    "int8": torch.int8,
    "uint8": torch.uint8,
    "int16": torch.int16,
    "uint16": torch.uint16,
    "int32": torch.int32,
}
"""The element type that holds such integers; 4-bit ones are told by their bounds."""


def in_integers(planned: Plan) -> GraphModule:
    """A callable with the inputs and outputs of the planned network, in integers wherever the plan says so.

    Weights (and biases, where the target has them in integers) are stored as integers.

    Raises:
        InvalidInput: the engine has no such integers.
    """
    return rounded(planned, _Decomposed())


class _Decomposed:
    """Rounding as a pair of operations; see :class:`compress.integers.simulate.Rounding`."""

    def value(self, module: GraphModule, node: Node, integers: Integers) -> None:
        parameters = integers.parameters
        settings = (
            *(integers.scale, int(parameters.zero_point)),
            *(parameters.low, parameters.high, DTYPES[integers.dtype]),
        )
        with module.graph.inserting_after(node):
            stored = module.graph.call_function(operations.quantize_per_tensor.default, (node, *settings))
        with module.graph.inserting_after(stored):
            real = module.graph.call_function(operations.dequantize_per_tensor.default, (stored, *settings))
        node.replace_all_uses_with(real, delete_user_cb=lambda user: user is not stored)

    def argument(self, module: GraphModule, node: Node, argument: Node, tensor: Tensor, integers: Integers) -> None:
        parameters, dtype = integers.parameters, DTYPES[integers.dtype]
        if parameters.block is not None:
            raise InvalidInput(
                f"{argument.target}: the engine has one scale per channel, not per block; quantize with --scheme w8"
            )
        real = tensor.detach().cpu().numpy()
        name = f"{node.name}_{argument.name}"
        values = torch.from_numpy(parameters.quantize(real, integers.axis)).to(dtype)
        stored = constant(module, node, f"{name}_integers", values)
        scales = torch.from_numpy(parameters.scale)
        scale = constant(module, node, f"{name}_scale", scales)
        zero = constant(module, node, f"{name}_zero", torch.zeros(len(scales), dtype=torch.int64))
        bounds = (parameters.low, parameters.high, dtype)
        with module.graph.inserting_before(node):
            restored = module.graph.call_function(
                operations.dequantize_per_channel.default, (stored, scale, zero, 0, *bounds)
            )
        node.replace_input_with(argument, restored)
