"""Quantization-aware training: weights, and the scales that round them and the activations, learnt together.

It starts from calibrated encodings and ends in new ones, from which the same scales and zero points are derived again,
exactly. What is trained is the simulation of the deployed integers, with its fixed roundings replaced by learnt ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from ...distill import fine_tune, objective_for
from ...errors import InvalidInput
from ...integers.encoding import Encoding, IntegerParameters
from ...integers.grids import activation_encoding
from ...integers.placement import MOVES, NOTHING, clip_bounds
from ...integers.plan import Integers, Plan, plan, plan_of
from ...integers.simulate import nodes_of, simulated
from ...rounding.learned_scales import TINY, gradient_factor, lsq, lsq_per_block, lsq_per_channel, pact
from ...stage import Context, Objective, evaluation_copy
from ...tasks.task import Batch
from ...training.loop import Training

aten = torch.ops.aten

Learned = Literal["lsq", "lsq+", "pact"]
"""``lsq``: scales, with zero points as calibrated; ``lsq+``: zero points too; ``pact``: clips of ReLUs, else as lsq."""


class WeightQuantizer(nn.Module):
    """Rounds a weight (out, ...) about zero point 0 with learnt scales, one per output channel, block, or for all."""

    def __init__(self, grid: IntegerParameters) -> None:
        super().__init__()
        self.grid = grid
        scale = torch.from_numpy(grid.scale.copy())
        self.scale = nn.Parameter(scale[:1] if bool((scale == scale[0]).all()) else scale)

    def forward(self, weight: Tensor) -> Tensor:
        """The rounded weight, in float32."""
        factor = gradient_factor(weight.numel() // len(self.scale), self.grid.high)
        if self.grid.block is not None:
            scale = self.scale.expand(len(self.grid.scale))
            return lsq_per_block(weight, scale, self.grid.block, self.grid.low, self.grid.high, factor)
        scale = self.scale.expand(len(weight))
        return lsq_per_channel(weight, scale, self.grid.low, self.grid.high, factor)

    def learnt(self) -> IntegerParameters:
        """The grid with the scales that were learnt."""
        scale = self.scale.detach().cpu().clamp_min(TINY).expand(len(self.grid.scale))
        return replace(self.grid, scale=scale.numpy().astype(np.float32))


class ActivationQuantizer(nn.Module):
    """Rounds an activation with a learnt scale, and a zero point that is learnt if ``learn_zero``."""

    def __init__(self, grid: IntegerParameters, learn_zero: bool) -> None:
        super().__init__()
        self.grid = grid
        self.scale = nn.Parameter(torch.tensor([float(grid.scale)]))
        self.zero = nn.Parameter(torch.tensor([float(grid.zero_point)]), requires_grad=learn_zero)

    def forward(self, x: Tensor) -> Tensor:
        """The rounded values (N, ...), in float32."""
        factor = gradient_factor(x.numel() // max(1, len(x)), self.grid.high - int(self.grid.zero_point))
        return lsq(x, self.scale, self.zero.clamp(self.grid.low, self.grid.high), self.grid.low, self.grid.high, factor)

    def learnt(self) -> IntegerParameters:
        """The grid with what was learnt."""
        zero = round(float(self.zero.detach().clamp(self.grid.low, self.grid.high)))
        scale = np.float32(max(float(self.scale.detach()), TINY))
        return replace(self.grid, scale=np.asarray(scale), zero_point=np.asarray(zero, np.int64))


class ClipQuantizer(nn.Module):
    """Rounds what follows a ReLU within 0 and a learnt clip."""

    def __init__(self, grid: IntegerParameters) -> None:
        super().__init__()
        self.grid = grid
        self.levels = grid.high - int(grid.zero_point)
        self.clip = nn.Parameter(torch.tensor([float(grid.scale) * self.levels]))

    def forward(self, x: Tensor) -> Tensor:
        """The rounded values, in float32."""
        return pact(x, self.clip, self.levels)

    def learnt(self) -> IntegerParameters:
        """The grid with the clip that was learnt."""
        clip = max(float(self.clip.detach()), TINY * self.levels)
        return replace(self.grid, scale=np.asarray(np.float32(clip / self.levels)))


@dataclass(frozen=True)
class Trained:
    """A trained network, the encodings that were learnt with it, and a record per epoch."""

    model: nn.Module
    encodings: Mapping[str, Encoding]
    history: list[dict[str, float]]


@dataclass(frozen=True)
class Simulation:
    """A simulation of the deployed integers whose scales can be trained, and what they belong to.

    ``planned`` are the integers that training starts from. ``weights`` has a quantizer by the name of the weight,
    ``activations`` by that of the node whose range it is, and ``groups`` that node for each activation.
    """

    planned: Plan
    module: GraphModule
    weights: Mapping[str, WeightQuantizer]
    activations: Mapping[str, ActivationQuantizer | ClipQuantizer]
    groups: Mapping[str, str]

    def encodings(self) -> dict[str, Encoding]:
        """Those of the plan, with the ranges of which the target makes the scales and zero points that were learnt."""
        learnt = self.planned.with_weights({name: weight.learnt() for name, weight in self.weights.items()})
        for name, at in self.groups.items():
            grid = self.activations[at].learnt()
            learnt[name] = activation_encoding(grid, learnt[name], self.planned.target)
        return learnt


def learnable(
    network: nn.Module,
    encodings: Mapping[str, Encoding],
    example_inputs: tuple[Tensor, ...],
    *,
    learned: Learned = "lsq",
    target: str,
) -> Simulation:
    """A simulation of ``network``, which shares its parameters, with learnt scales that start from ``encodings``.

    Args:
        target: the engine and processor whose integers are simulated, by name.

    Raises:
        InvalidInput: the encodings are not of this network.
    """
    planned = plan(network, example_inputs, encodings, target)
    module = simulated(planned)
    nodes = nodes_of(module)
    traced = {node.name: node for node in planned.graph.nodes}
    weights = {name: WeightQuantizer(grid) for name, grid in planned.grids.items()}
    _replace_weights(module, planned, nodes, weights)
    groups: dict[str, str] = {}
    rounders: dict[str, ActivationQuantizer | ClipQuantizer] = {}

    def rounder(name: str, integers: Integers) -> tuple[str, nn.Module]:
        """The quantizer of an activation, and what it is called in the module."""
        at = planned.ranges.get(name, name)
        at = at if encodings.get(at) == encodings[name] or planned.shares(at, name) else name
        groups[name] = at
        if at not in rounders:
            rounders[at] = _activation_quantizer(integers.parameters, traced[at], learned)
        return f"round_{_attribute(at)}", rounders[at]

    for name, integers in planned.values.items():
        if name not in planned.fused:
            _replace_activation(module, nodes[name], *rounder(name, integers))
    for each in planned.layers if planned.target.products_only else ():
        if each.read is not None:
            own = nodes[each.layer.node.name].all_input_nodes[0].all_input_nodes[0]
            _replace_activation(module, own, *rounder(each.layer.read, each.read))
    module.graph.eliminate_dead_code()
    module.graph.lint()
    module.recompile()
    return Simulation(planned, module, weights, rounders, groups)


def _activation_quantizer(grid: IntegerParameters, node: Node, learned: Learned) -> ActivationQuantizer | ClipQuantizer:
    from_zero = int(grid.zero_point) == max(grid.low, 0) or int(grid.zero_point) == grid.low
    if learned == "pact" and clip_bounds(node) is not None:
        return ClipQuantizer(grid)
    signed_symmetric = int(grid.zero_point) == 0 and grid.low < 0
    return ActivationQuantizer(grid, learned == "lsq+" and not from_zero and not signed_symmetric)


def _replace_weights(
    module: GraphModule,
    planned: Plan,
    nodes: Mapping[str, Node],
    weights: Mapping[str, WeightQuantizer],
) -> None:
    """Round weights by quantizers, and leave biases, which 32 bits hold well, as they are."""
    for product in (each.layer for each in planned.layers):
        if product.weight not in weights:
            continue
        node = nodes[product.node.name]
        name = f"round_{_attribute(product.weight)}"
        for place, fixed in enumerate(node.all_input_nodes[1:]):
            if fixed.op != "call_function":
                continue
            stored = fixed.all_input_nodes[0]
            if place == 0:
                module.add_module(name, weights[product.weight])
                with module.graph.inserting_before(node):
                    stored = module.graph.call_module(name, (stored,))
            node.replace_input_with(fixed, stored)


def _replace_activation(module: GraphModule, node: Node, name: str, quantizer: nn.Module) -> None:
    """Round what ``node`` yields by ``quantizer``, unless it was only moved since it was rounded."""
    (fixed,) = (user for user in node.users if user.target is aten.fake_quantize_per_tensor_affine.default)
    source = node
    while source.target in MOVES | NOTHING and isinstance(source.args[0], Node):
        source = source.args[0]
        if source.op == "call_module" and source.target == name:
            fixed.replace_all_uses_with(node)
            return
    module.add_module(name, quantizer)
    with module.graph.inserting_after(node):
        rounded = module.graph.call_module(name, (node,))
    fixed.replace_all_uses_with(rounded)


def _attribute(name: str) -> str:
    return name.replace(".", "_")


@dataclass(frozen=True)
class _WithClipDecay:
    """A loss with the squares of the clips, which pull them towards 0 (Choi et al., 2018, section 3.1)."""

    objective: Objective
    clips: tuple[nn.Parameter, ...]
    decay: float

    def __call__(self, model: nn.Module, batch: Batch) -> Tensor:
        return self.objective(model, batch) + 0.5 * self.decay * sum(clip.square().sum() for clip in self.clips)


def train_quantized(
    model: nn.Module,
    encodings: Mapping[str, Encoding],
    training: Training,
    context: Context,
    *,
    learned: Learned = "lsq",
    target: str,
) -> Trained:
    """A copy of ``model`` trained as it will be rounded, with encodings that were learnt along.

    Distils from the context's teacher where there is one. In bf16, products are computed on roundings of the rounded
    values to 8 significant bits, an error as large as that of 8-bit integers; fp32 trains on what is deployed.

    Args:
        encodings: of a calibrated network whose batch normalizations are folded.
        learned: what is learnt besides the weights.
        target: the engine and processor whose integers are trained, by name.

    Raises:
        InvalidInput: there is no data to train on, the encodings are not of this network, or the loss is not finite.
    """
    if context.data is None:
        raise InvalidInput("quantize: training is set, and there is no data to train on; give data or leave it out")
    network = evaluation_copy(model)
    given = plan(network, context.example_inputs, encodings, target).settled()
    simulation = learnable(network, given, context.example_inputs, learned=learned, target=target)
    context = context.of(model)
    objective = objective_for(context.task_of(model), context.teacher, training)
    clips = tuple(one.clip for one in simulation.activations.values() if isinstance(one, ClipQuantizer))
    if clips:
        objective = _WithClipDecay(objective, clips, training.weight_decay)
    history = fine_tune(
        simulation.module,
        context,
        training,
        activity="train quantized",
        checkpoint="quantize.ckpt",
        objective=objective,
    )
    _copy_back(simulation.module, network)
    planned = simulation.planned
    return Trained(network.eval(), plan_of(planned.graph, simulation.encodings(), planned.target).settled(), history)


def _copy_back(module: GraphModule, network: nn.Module) -> None:
    """Let ``network`` have the trained parameters, where they are not the same tensors."""
    trained = dict(module.named_parameters(remove_duplicate=False))
    with torch.no_grad():
        for name, parameter in network.named_parameters(remove_duplicate=False):
            if name in trained:
                parameter.copy_(trained[name])
