"""Layers whose stored weights can be rewritten: the outputs and inputs of a convolution or linear layer by channel."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.fx import Node

from ....fold import CONVOLUTIONS, COPIES, DROPOUTS, pads_nothing, uses
from ....graph.trace import Graph, argument
from ....integers.placement import clip_bounds

aten = torch.ops.aten

MARGIN = 1.1
"""How far above the largest value seen, relative to it, a bound has to be to count as never reached."""

LINEAR = aten.linear.default
LEAKY = frozenset({aten.leaky_relu.default, aten.leaky_relu_.default})
POOLS = frozenset(
    {
        aten.max_pool2d.default,
        aten.avg_pool2d.default,
        aten.adaptive_avg_pool2d.default,
        aten.adaptive_max_pool2d.default,
        aten.upsample_nearest2d.vec,
    }
)
FLATTENS = frozenset({aten.flatten.using_ints, aten.view.default, aten.reshape.default})


class Layer:
    """A convolution or linear layer, its weights in float64 as (groups, out, in, kernel elements) of one group.

    Nothing else reads the weights. They are changed here, and written to the network by :meth:`store`, rounded once.

    Args:
        node: the call.
        name: of the module; of the weight's owner where a function is called.
        weight_name: of the parameter, as ``bias_name``, which is None where there is no bias.
    """

    def __init__(
        self, node: Node, name: str, weight_name: str, weight: Tensor, bias_name: str | None, bias: Tensor | None
    ) -> None:
        self.node = node
        self.name = name
        self.weight_name = weight_name
        self.bias_name = bias_name
        self._stored = weight, bias
        groups = 1 if node.target is LINEAR else int(argument(node, "groups"))
        shape = weight.shape
        self._weight = weight.detach().double().reshape(groups, shape[0] // groups, shape[1], -1)
        self._largest = self._weight.abs().amax(3)
        self._output_scale = self._weight.new_ones(groups, shape[0] // groups, 1)
        self._input_scale = self._weight.new_ones(groups, 1, shape[1])
        self.bias = None if bias is None else bias.detach().double()

    @property
    def outputs(self) -> int:
        """The number of output channels."""
        return self._output_scale.numel()

    @property
    def dim(self) -> int:
        """The dimension of the channels in what comes out."""
        return -1 if self.node.target is LINEAR else 1

    @property
    def weight(self) -> Tensor:
        """The weight with every scaling so far, (groups, out / groups, in / groups, kernel)."""
        return self._weight * (self._output_scale * self._input_scale)[..., None]

    def output_ranges(self) -> Tensor:
        """(out,): the largest absolute weight of each output channel."""
        return ((self._largest * self._input_scale).amax(2, keepdim=True) * self._output_scale).flatten()

    def input_ranges(self) -> Tensor:
        """(in,): the largest absolute weight that each input channel meets."""
        return ((self._largest * self._output_scale).amax(1, keepdim=True) * self._input_scale).flatten()

    def scale_outputs(self, scale: Tensor) -> None:
        """Multiply each output channel by ``scale`` (out,), all positive."""
        self._output_scale = self._output_scale * scale.reshape(self._output_scale.shape)
        self.bias = None if self.bias is None else self.bias * scale

    def scale_inputs(self, scale: Tensor) -> None:
        """Expect each input channel divided by ``scale`` (in,), all positive."""
        self._input_scale = self._input_scale * scale.reshape(self._input_scale.shape)

    def response(self, constant: Tensor) -> Tensor:
        """(out,): what inputs that are everywhere ``constant`` (in,) add to the outputs, away from any padding."""
        return torch.einsum("goik,gi->go", self.weight, constant.reshape(len(self._weight), -1)).flatten()

    def store(self) -> None:
        """Write the weights to the network."""
        for tensor, value in zip(self._stored, (self.weight, self.bias), strict=True):
            if tensor is not None and value is not None:
                # New storage: another tensor may be a view of the old one.
                tensor.data = torch.empty_like(tensor).copy_(value.reshape(tensor.shape))


def layers_of(graph: Graph) -> dict[str, Layer | str]:
    """The layers of ``graph`` by the names of their nodes, or why their weights cannot be changed."""
    layers: dict[str, Layer | str] = {}
    stored = dict(graph.model.named_parameters(remove_duplicate=False))
    for node in graph.calls(*CONVOLUTIONS, LINEAR):
        weight, bias = graph.tensor(argument(node, "weight")), graph.tensor(argument(node, "bias"))
        weight_name, bias_name = graph.tensor_name(argument(node, "weight")), graph.tensor_name(argument(node, "bias"))
        if weight is None or weight_name not in stored or (argument(node, "bias") is not None and bias is None):
            layers[node.name] = "its weights are computed, not stored"
        elif any(tensor is not None and uses(graph, tensor) > 1 for tensor in (weight, bias)):
            layers[node.name] = "its weights are shared with other layers"
        elif node.target is not LINEAR and _dimensions(node) != weight.ndim:
            layers[node.name] = "it runs on inputs without a batch"
        else:
            name = graph.layer(node) or weight_name.rpartition(".")[0]
            layers[node.name] = Layer(node, name, weight_name, weight, bias_name, bias)
    return layers


@dataclass(frozen=True)
class Way:
    """From a layer to the only one that reads it, over operations that keep channels apart.

    Args:
        steps: the operations between.
        repeats: inputs of ``after`` for each channel of ``before``, as flattening makes them.
        clip: the node after which values end at ``bound``, if there is one.
    """

    before: Layer
    after: Layer
    steps: tuple[Node, ...]
    repeats: int = 1
    clip: Node | None = None
    bound: float = math.inf

    @property
    def shifts(self) -> bool:
        """Whether a constant that is taken off a channel before the steps is missing after them, wherever the values
        are larger; and whether the layer after sees it everywhere, no padding with zeros.
        """
        return pads_nothing(self.after.node) and not any(
            step.target is aten.avg_pool2d.default and _padding(step) for step in self.steps
        )


def ways(graph: Graph, layers: dict[str, Layer | str]) -> Iterator[Way | tuple[str, str]]:
    """Every way between two layers, in the graph's order; or a layer and why the way that begins at it is of no use.

    Every step is positively homogeneous channel by channel: ``f(s x) = s f(x)`` for s > 0, but for clips from above.
    A layer that several others read, or whose output the network returns, begins no way and is not told of.
    """
    returned = frozenset(node.name for node in graph.outputs)
    for layer in layers.values():
        if isinstance(layer, Layer):
            way = _way(layer, layers, returned)
            if isinstance(way, str):
                yield layer.name, way
            elif way is not None:
                yield way
    for name, layer in layers.items():
        if isinstance(layer, str):
            node = next(node for node in graph.nodes if node.name == name)
            yield graph.layer(node) or name, layer


def _way(before: Layer, layers: dict[str, Layer | str], returned: frozenset[str]) -> Way | str | None:
    dim = before.dim % _dimensions(before.node, of_output=True)
    node, steps, repeats = before.node, list[Node](), 1
    clip, bound = None, math.inf
    while len(node.users) == 1 and node.name not in returned:
        user = next(iter(node.users))
        bounds = clip_bounds(user) if user.op == "call_function" else None
        after = layers.get(user.name)
        if after is not None:
            if user.args[0] is not node or dim != (1 if user.target is not LINEAR else _dimensions(user) - 1):
                return None
            if isinstance(after, str):
                return f"of the layer after it: {after}"
            return Way(before, after, tuple(steps), repeats, clip, bound)
        if bounds is not None:
            if bounds[1] < bound:
                clip, bound = user, bounds[1]
        elif flattened := _flattened(user, dim):
            repeats, dim = repeats * flattened, 1
        elif not _keeps_channels(user, dim):
            return _why_not(user)
        steps.append(user)
        node = user
    return None


def _keeps_channels(node: Node, dim: int) -> bool:
    if node.target in COPIES or node.target in LEAKY:
        return True
    if node.target in DROPOUTS:
        return not argument(node, "train")
    if node.target in POOLS:
        return dim == 1 and _dimensions(node) == 4
    if node.target is aten.mean.dim:
        dims = {int(d) % _dimensions(node) for d in argument(node, "dim") or ()}
        return bool(dims) and dim == 1 and dims == {2, 3} and _dimensions(node) == 4
    return False


def _flattened(node: Node, dim: int) -> int:
    """How many inputs flattening makes of each channel; 0 where it is no flattening to (N, features)."""
    if node.target not in FLATTENS or dim != 1:
        return 0
    before, after = node.args[0].meta["val"].shape, node.meta["val"].shape  # type: ignore[union-attr]
    inner = math.prod(before[1:])
    return inner // before[1] if len(after) == 2 and after[1] == inner else 0


def _why_not(node: Node) -> str | None:
    """The reason for which a layer cannot be scaled over ``node``; None where its output is mixed with another."""
    if len([arg for arg in node.all_input_nodes if arg.op != "placeholder"]) > 1 or node.op == "output":
        return None
    operation = str(getattr(node.target, "_opname", None) or getattr(node.target, "__name__", node.target))
    return f"{operation.rstrip('_')} follows it, and does not scale with its input"


def _padding(node: Node) -> bool:
    padding = argument(node, "padding")
    return any(padding if isinstance(padding, (list, tuple)) else [padding])


def _dimensions(node: Node, *, of_output: bool = False) -> int:
    value = node if of_output else node.args[0]
    return int(value.meta["val"].ndim)  # type: ignore[union-attr]
