"""A network whose integers are written in PyTorch's own quantize and dequantize operations.

LiteRT, ExecuTorch and Core ML convert a ``torch.export`` program and know this form (``quantized_decomposed``, what
PyTorch 2 Export quantization yields): a convolution between dequantize and quantize becomes one in integers.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.ao.quantization.fx._decomposed  # registers the operations
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from compress.errors import InvalidInput
from compress.integers.encoding import Encoding, Integer, IntegerParameters
from compress.integers.target import Target
from compress.quantize.simulate import constant, rounded

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


def in_integers(
    model: nn.Module, encodings: Mapping[str, Encoding], example_inputs: tuple[Tensor, ...], target: Target
) -> GraphModule:
    """A callable with the inputs and outputs of ``model``, in ``target``'s integers wherever ``encodings`` say so.

    Weights (and biases, where the target has them in integers) are stored as integers.

    Raises:
        InvalidInput: the encodings are not of this network, or the engine has no such integers.
    """
    return rounded(model, encodings, example_inputs, target, _Decomposed())


class _Decomposed:
    """Rounding as a pair of operations; see :class:`compress.quantize.simulate.Rounding`."""

    def value(self, module: GraphModule, node: Node, parameters: IntegerParameters, dtype: Integer) -> None:
        scale, zero = float(parameters.scale), int(parameters.zero_point)
        settings = (scale, zero, parameters.low, parameters.high, DTYPES[dtype])
        with module.graph.inserting_after(node):
            integers = module.graph.call_function(operations.quantize_per_tensor.default, (node, *settings))
        with module.graph.inserting_after(integers):
            real = module.graph.call_function(operations.dequantize_per_tensor.default, (integers, *settings))
        node.replace_all_uses_with(real, delete_user_cb=lambda user: user is not integers)

    def argument(
        self, module: GraphModule, node: Node, argument: Node, tensor: Tensor, parameters: IntegerParameters, dtype: str
    ) -> None:
        if parameters.block is not None:
            raise InvalidInput(
                f"{argument.target}: the engine has one scale per channel, not per block; quantize with --scheme w8"
            )
        real = tensor.detach().cpu().numpy()
        name = f"{node.name}_{argument.name}"
        integers = torch.from_numpy(parameters.quantize(real, 0)).to(DTYPES[dtype])
        stored = constant(module, node, f"{name}_integers", integers)
        scales = torch.from_numpy(parameters.scale)
        scale = constant(module, node, f"{name}_scale", scales)
        zero = constant(module, node, f"{name}_zero", torch.zeros(len(scales), dtype=torch.int64))
        bounds = (parameters.low, parameters.high, DTYPES[dtype])
        with module.graph.inserting_before(node):
            restored = module.graph.call_function(
                operations.dequantize_per_channel.default, (stored, scale, zero, 0, *bounds)
            )
        node.replace_input_with(argument, restored)
