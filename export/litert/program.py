"""The traced network as the converter folds it into integer operators: written anew, nothing else computed.

The converter makes one integer operator of a convolution whose input, weight and result stand between quantize and
dequantize operations, and rounds the bias by itself. A channel shuffle is written for channels that come last.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.fx import GraphModule, Node

from compress.errors import InvalidInput
from compress.integers.decompose import is_scaling
from compress.integers.encoding import IntegerParameters
from compress.integers.placement import CLIPS, MOVES, NOTHING, PRODUCTS
from compress.integers.plan import Integers, Plan
from compress.integers.simulate import constant, rounded

from ..decomposed import DTYPES, operations

aten = torch.ops.aten
QUANTIZE, DEQUANTIZE = operations.quantize_per_tensor.default, operations.dequantize_per_tensor.default
VIEWS = frozenset({aten.view.default, aten.reshape.default})
TRANSPOSES = frozenset({aten.transpose.int})
LINEAR = frozenset({aten.linear.default})


@dataclass(frozen=True)
class StoredWeight:
    """A weight that the file holds in fewer bits.

    Args:
        real: its rounded values, as the network has them: output channels first.
        integers: that stand for them; None where it is stored as a shorter float.
        parameters: scales of the integers.
        bits: that an element takes.
    """

    real: NDArray[np.float32]
    integers: NDArray[np.int64] | None = None
    parameters: IntegerParameters | None = None
    bits: int = 8


@dataclass
class Program:
    """What is converted, and the weights that the file is to hold in fewer bits."""

    module: GraphModule
    weights: list[StoredWeight] = field(default_factory=list)


def program(planned: Plan) -> Program:
    """The network ready for the converter; integers stand where the plan says so.

    Raises:
        InvalidInput: they need what the format does not have.
    """
    rounding = _Pairs()
    module = rounded(planned, rounding)
    _store_halves(module, rounding.weights)
    _round_scalings(module)
    _drop_nothing(module)
    _shuffle_channels_last(module)
    _keep_floats(module)
    module.graph.eliminate_dead_code()
    module.graph.lint()
    module.recompile()
    return Program(module, rounding.weights)


def channels_last_inputs(module: GraphModule, example_inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Make ``module`` take images (N, H, W, C) where it took (N, C, H, W); returns such inputs."""
    taken = [node for node in module.graph.nodes if node.op == "placeholder"]
    for node, x in zip(taken, example_inputs, strict=True):
        if x.ndim != 4:
            continue
        with module.graph.inserting_after(node):
            channels_first = module.graph.call_function(aten.permute.default, (node, [0, 3, 1, 2]))
        node.replace_all_uses_with(channels_first, delete_user_cb=lambda user, made=channels_first: user is not made)
    module.recompile()
    return tuple(x.permute(0, 2, 3, 1).contiguous() if x.ndim == 4 else x for x in example_inputs)


class _Pairs:
    """Rounding as a quantize and a dequantize operation; see :class:`compress.integers.simulate.Rounding`."""

    def __init__(self) -> None:
        self.weights: list[StoredWeight] = []

    def value(self, module: GraphModule, node: Node, integers: Integers) -> None:
        parameters = integers.parameters
        bounds = (parameters.low, parameters.high, DTYPES[integers.dtype])
        _pair(module, node, (integers.scale, int(parameters.zero_point), *bounds))

    def argument(self, module: GraphModule, node: Node, argument: Node, tensor: Tensor, integers: Integers) -> None:
        parameters = integers.parameters
        if integers.dtype == "int32":
            return  # the converter rounds the bias of an integer operator itself
        if parameters.block is not None and tensor.shape[-1] % parameters.block:
            raise InvalidInput(
                f"target litert: {argument.target} has {tensor.shape[-1]} features, and LiteRT wants whole blocks of "
                f"{parameters.block}; quantize with --scheme w8"
            )
        floats = tensor.detach().cpu().float().numpy()
        stored = parameters.quantize(floats, 0)
        real = parameters.dequantize(stored, 0)
        self.weights.append(StoredWeight(real, stored, parameters, 4 if integers.dtype == "int4" else 8))
        # The rounded values are what is converted, so that they have the same integers however the converter rounds.
        values = constant(module, node, _name(node, argument), torch.from_numpy(real))
        if parameters.block is not None or not _in_integers(node):
            node.replace_input_with(argument, values)
            return
        scale = constant(module, node, f"{_name(node, argument)}_scale", torch.from_numpy(parameters.scale))
        zero = torch.zeros(len(parameters.scale), dtype=torch.int64)
        settings = (
            scale,
            constant(module, node, f"{_name(node, argument)}_zero", zero),
            0,
            parameters.low,
            parameters.high,
            DTYPES[integers.dtype],
        )
        with module.graph.inserting_before(node):
            quantized = module.graph.call_function(operations.quantize_per_channel.default, (values, *settings))
            restored = module.graph.call_function(operations.dequantize_per_channel.default, (quantized, *settings))
        node.replace_input_with(argument, restored)


def _name(node: Node, argument: Node) -> str:
    return f"{node.name}_{argument.name}_rounded"


def _pair(module: GraphModule, node: Node, settings: tuple[Any, ...]) -> Node:
    """Make all that read ``node`` read it rounded; returns what they read."""
    with module.graph.inserting_after(node):
        integers = module.graph.call_function(QUANTIZE, (node, *settings))
    with module.graph.inserting_after(integers):
        real: Node = module.graph.call_function(DEQUANTIZE, (integers, *settings))
    node.replace_all_uses_with(real, delete_user_cb=lambda user: user is not integers)
    return real


def _in_integers(node: Node) -> bool:
    """Whether a product reads and yields integers."""
    read = node.args[0]
    while isinstance(read, Node) and read.target in NOTHING:
        read = read.args[0]
    if not isinstance(read, Node) or read.target is not DEQUANTIZE:
        return False
    while True:
        users = list(node.users)
        if any(user.target is QUANTIZE for user in users):
            return True
        follows = len(users) == 1 and (users[0].target in CLIPS | MOVES | NOTHING or _shifts(users[0]))
        if not follows:
            return False
        node = users[0]


def _keep_floats(module: GraphModule) -> None:
    """Keep products in float that read and yield integers: the converter would round their weights as well.

    What they read is doubled, in float, and their weights are halved, both of which are exact: the converter makes no
    integer operator of what does not read what it dequantizes.
    """
    for node in list(module.graph.nodes):
        read, weight = node.args[:2] if node.target in PRODUCTS else (None, None)
        if not isinstance(weight, Node) or weight.op != "get_attr" or not _in_integers(node):
            continue
        real = _attribute(module, str(weight.target)).detach().cpu()
        half = constant(module, node, f"{node.name}_{weight.name}_half", real / 2)
        with module.graph.inserting_before(node):
            node.update_arg(0, module.graph.call_function(aten.add.Tensor, (read, read)))  # factors are folded
        node.update_arg(1, half)


def _shifts(node: Node) -> bool:
    return node.target in (aten.add.Tensor, aten.add_.Tensor) and not isinstance(node.args[1], Node)


def _store_halves(module: GraphModule, weights: list[StoredWeight]) -> None:
    """Take the way through float16 off the weights: the file stores them so."""
    for node in list(module.graph.nodes):
        if node.target is not aten._to_copy.default or node.kwargs.get("dtype") is not torch.float32:
            continue
        stored = node.args[0]
        if not isinstance(stored, Node) or stored.target is not aten._to_copy.default:
            continue
        kind, source = stored.kwargs.get("dtype"), stored.args[0]
        if not isinstance(source, Node) or source.op != "get_attr" or not isinstance(kind, torch.dtype):
            continue
        if kind is not torch.float16:
            raise InvalidInput("target litert: its engine stores no bfloat16; quantize with --scheme fp16")
        tensor = _attribute(module, str(source.target)).detach().cpu().to(kind).float()
        name = f"{node.name}_half"
        node.replace_all_uses_with(constant(module, node, name, tensor))
        weights.append(StoredWeight(tensor.numpy(), bits=16))


def _attribute(module: GraphModule, name: str) -> Tensor:
    value: Any = module
    for part in name.split("."):
        value = getattr(value, part)
    assert isinstance(value, Tensor)
    return value


def _round_scalings(module: GraphModule) -> None:
    """What is multiplied by a number has the integers of what was, in another scale: say so."""
    for node in list(module.graph.nodes):
        if not is_scaling(node) or not isinstance(node.args[0], Node) or node.args[0].target is not DEQUANTIZE:
            continue
        scale, *rest = node.args[0].args[1:]
        factor: Any = node.args[1]
        _pair(module, node, (float(cast(float, scale)) * float(factor), *rest))


def _drop_nothing(module: GraphModule) -> None:
    """Take out what does nothing in evaluation: it would stand between operations and their integers."""
    passes = NOTHING - {aten.chunk.default, aten.split.Tensor, aten.split_with_sizes.default}
    for node in list(module.graph.nodes):
        if node.target in passes:
            node.replace_all_uses_with(node.args[0])
            module.graph.erase_node(node)


def _shuffle_channels_last(module: GraphModule) -> None:
    """Write channel shuffles (Zhang et al., "ShuffleNet", 2017) over the last dimension.

    (N, C, H, W) is viewed as (N, groups, C / groups, H, W), transposed and viewed back. The converter lays images out
    with channels last and would transpose them for each of these views.
    """
    for last in list(module.graph.nodes):
        swap = _before(last) if last.target in VIEWS else None
        first = _before(swap) if swap is not None and swap.target in TRANSPOSES else None
        if swap is None or first is None or first.target not in VIEWS or set(swap.args[1:]) != {1, 2}:
            continue
        x, shape = first.args[0], first.args[1]
        sizes = [node.meta.get("val") for node in (first, last)]
        if not isinstance(x, Node) or [getattr(size, "ndim", 0) for size in sizes] != [5, 4]:
            continue
        assert isinstance(shape, (list, tuple))
        groups, each = shape[1], shape[2]
        if not isinstance(groups, int) or not isinstance(each, int) or -1 in (groups, each):
            groups, each = (int(size) for size in sizes[0].shape[1:3])  # type: ignore[union-attr]
        height, width = (int(size) for size in sizes[1].shape[2:])  # type: ignore[union-attr]
        settings = next((user.args[1:] for user in last.users if user.target is QUANTIZE), None)
        steps: list[tuple[Any, Any]] = [
            (aten.permute.default, [0, 2, 3, 1]),
            (aten.reshape.default, [-1, height, width, groups, each]),
            (aten.permute.default, [0, 1, 2, 4, 3]),
            (aten.reshape.default, [-1, height, width, groups * each]),
            (aten.permute.default, [0, 3, 1, 2]),
        ]
        at = x
        for target, argument in steps:
            with module.graph.inserting_before(last):
                made = module.graph.call_function(target, (at, argument))
                made.meta = {
                    key: value for key, value in last.meta.items() if key in ("nn_module_stack", "stack_trace")
                }
            at = made
            if settings is not None and argument is not steps[-1][1]:
                at = _pair(module, made, settings)
        last.replace_all_uses_with(at)


def _before(node: Node) -> Node | None:
    """What ``node`` reads, past rounding; None where others read it too."""
    at: Any = node.args[0]
    while isinstance(at, Node) and at.target in (QUANTIZE, DEQUANTIZE):
        if len(at.users) != 1:
            return None
        at = at.args[0]
    return at if isinstance(at, Node) and len(at.users) == 1 else None
