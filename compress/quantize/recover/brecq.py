"""BRECQ: the roundings of a residual block are learnt together, so that what the block yields errs least.

Li et al., "BRECQ: Pushing the Limit of Post-Training Quantization by Block Reconstruction" (2021). A block is what lies
between two places of the graph where a single value carries everything on; its roundings have the parametrisation of
AdaRound. Errors of its output may be weighed by their Fisher information (their equation 10).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.fx import Graph as FxGraph
from torch.fx import GraphModule, Node

from ...core.settings import setting
from ...data import Split
from ...graph.trace import Graph
from ...integers.encoding import Encoding
from ...integers.grids import activation_encoding
from ...integers.placement import NOTHING, IntegerLayer
from ...rounding.learned_scales import gradient_factor, lsq
from ...stage import Context, Edit
from ...tasks.task import Task
from ..state import Job, State
from . import Phase, Recovery
from .adaround import ACTIVATIONS, LearnedRounding, Rounding, fit_layer, learn, with_activation
from .shared.paired_execution import Lockstep, Rounded, Values, Walk, traced_shape

aten = torch.ops.aten

LARGEST_BLOCK = 16
"""Products of a block at most; the layers of a larger one are fitted one by one."""

SCALE_LEARNING_RATE = 1e-3
"""Of activation scales, relative to each: the share by which Adam moves a scale at first."""

ROUND_VALUE = aten.fake_quantize_per_tensor_affine.default


@dataclass(frozen=True)
class Block:
    """Part of a graph that reads the single value ``input`` and yields ``output`` (names of nodes)."""

    input: str
    output: str
    products: tuple[IntegerLayer, ...]


def find_blocks(graph: Graph, products: Iterable[IntegerLayer]) -> tuple[Block, ...]:
    """The smallest parts of ``graph`` that hold ``products`` between two cuts, in order; activations close a part.

    A cut is a place where one value is all that later operations read of earlier ones. Parts with more than
    :data:`LARGEST_BLOCK` products, and products between no two cuts, are left out.
    """
    wanted = {product.node.name: product for product in products}
    cuts = _cuts(graph)
    place = {node: number for number, node in enumerate(graph.nodes)}
    blocks: list[Block] = []
    for before, after in pairwise(cuts):
        inner = graph.nodes[place[before] + 1 : place[after] + 1]
        held = tuple(wanted[node.name] for node in inner if node.name in wanted)
        if held:
            blocks.append(Block(before.name, after.name, held))
        elif blocks and blocks[-1].output == before.name and _only_activates(inner):
            blocks[-1] = replace(blocks[-1], output=after.name)
    return tuple(block for block in blocks if len(block.products) <= LARGEST_BLOCK)


def _cuts(graph: Graph) -> list[Node]:
    """The nodes whose value is, once computed, all that is read of what was computed so far."""
    place = {node: number for number, node in enumerate(graph.nodes)}
    samples = traced_shape(graph.inputs[0])[0] if graph.inputs else 1
    alive: dict[Node, int] = {}
    cuts = []
    for number, node in enumerate(graph.nodes):
        alive = {one: last for one, last in alive.items() if last > number}
        if node.op == "output" or graph.tensor(node) is not None or isinstance(node.meta.get("val"), torch.SymInt):
            continue
        alive[node] = max((place[user] for user in node.users), default=-1)
        value = node.meta.get("val")
        alone = list(alive) == [node] and number >= place[graph.inputs[-1]]
        if alone and isinstance(value, Tensor) and value.is_floating_point() and traced_shape(node)[:1] == (samples,):
            cuts.append(node)
    return cuts


def _only_activates(nodes: Sequence[Node]) -> bool:
    computing = [node for node in nodes if isinstance(node.meta.get("val"), Tensor) and node.op == "call_function"]
    return all(node.target in ACTIVATIONS or node.target in NOTHING for node in computing)


class Brecq(Recovery):
    """Round the weights of a residual block together so that the block errs least: BRECQ, Li et al. (2021)."""

    iterations: int = setting(2000, "Steps for each block.", ge=1, le=10**7)
    batch: int | None = setting(None, "Samples in a step.", hidden=True, ge=1, le=2**20)
    fisher: bool = setting(False, "Weigh the errors of a block by the Fisher information of its output.", hidden=True)
    learn_activations: bool = setting(
        False, "Learn the scales of activations within a block along with the roundings.", hidden=True
    )

    phase: ClassVar[Phase] = "rounding"

    def apply(self, state: State, job: Job) -> State:
        """:func:`brecq`."""
        config = LearnedRounding(
            iterations=self.iterations,
            batch=self.batch,
            fisher=self.fisher,
            learn_activations=self.learn_activations,
            samples=job.count,
        )
        done = brecq(state.network, state.encodings, job.context, job.samples, config, target=job.grid)
        edit = Edit("", "weights", "float32", f"rounded by {self.name}", "weights")
        return state.after([edit], network=done.model, encodings=done.encodings)


def brecq(
    model: nn.Module,
    encodings: Mapping[str, Encoding],
    context: Context,
    split: Split,
    config: LearnedRounding = LearnedRounding(),  # noqa: B008  (frozen)
    *,
    target: str,
) -> Rounded:
    """A copy of ``model`` with the weights of integer layers on grid points learnt block by block.

    Layers in no block are fitted alone, as by :func:`compress.quantize.recover.adaround.adaround`. Where nearest
    rounding gives a block a smaller error on the samples, it stays.

    Args:
        target: the engine and processor whose grids the weights shall lie on, by name; others round them anew.

    Raises:
        InvalidInput: the encodings are not of this network, there are no samples, or ``fisher`` is set and the task
            does not fit the network.
    """
    lockstep = Lockstep.of(
        model, encodings, context, split, config.samples, config.memory_mb, target, config.batch or 32, whole=True
    )
    blocks = find_blocks(lockstep.graph, lockstep.products)
    starts = {block.products[0].weight: block for block in blocks}
    inside = {product.weight for block in blocks for product in block.products}
    chains = {p.weight: with_activation(p.node) for p in lockstep.products if p.weight not in inside}
    lockstep.start([*(block.output for block in blocks), *(chain[-1].name for chain in chains.values())])
    generator = torch.Generator().manual_seed(context.seed)
    errors: dict[str, tuple[float, float]] = {}
    learner = _BlockLearner(lockstep, config, generator, context.task_of(model))
    for number, product in enumerate(lockstep.products):
        context.progress("brecq", number, len(lockstep.products), product.layer)
        if product.weight in chains:
            errors[product.weight] = fit_layer(lockstep, product, chains[product.weight], config, generator)
        elif product.weight in starts:
            block = starts[product.weight]
            errors[f"{block.input}..{block.output}"] = learner.fit(block)
    context.progress("brecq", len(lockstep.products), len(lockstep.products))
    return lockstep.finished(errors)


@dataclass
class _BlockLearner:
    lockstep: Lockstep
    config: LearnedRounding
    generator: torch.Generator
    task: Task

    def fit(self, block: Block) -> tuple[float, float]:
        """Set the weights of a block; returns the error of nearest rounding and theirs."""
        program = self._program(block)
        targets = torch.cat(self.lockstep.float_walk.take(block.output))
        weights = self._fisher(block, targets) if self.config.fisher else torch.ones(1)
        with torch.no_grad():
            nearest = program.error({}, targets, weights)
        if nearest == 0:
            return 0.0, 0.0
        nodes = {product.weight: self.lockstep.rounded_weight(product) for product in block.products}
        roundings = {
            name: Rounding(self.lockstep.rounded.get_parameter(name), self.lockstep.grids[name]) for name in nodes
        }
        if self.config.learn_activations:
            program.scales = self._scales(program)

        def gradients(between: Sequence[Tensor]) -> Sequence[Tensor]:
            index = torch.randperm(len(targets), generator=self.generator)[: program.batch]
            soft = {nodes[name]: weight.requires_grad_() for name, weight in zip(roundings, between, strict=True)}
            difference = program.output(soft, index) - targets[index]
            loss = (difference.square() * (weights if len(weights) == 1 else weights[index])).mean() / nearest
            derivatives = torch.autograd.grad(loss, [*between, *scales])
            for scale, derivative in zip(scales, derivatives[len(between) :], strict=True):
                scale.grad = derivative
            return derivatives[: len(between)]

        scales = list({id(scale): scale.share for scale in program.scales.values()}.values())
        more = [{"params": scales, "lr": SCALE_LEARNING_RATE}] if scales else []
        learn(list(roundings.values()), gradients, self.config, *more)
        with torch.no_grad():
            hard = {nodes[name]: rounding.scale * rounding.integers() for name, rounding in roundings.items()}
            learnt = program.error(hard, targets, weights)
        kept = learnt < nearest
        with torch.no_grad():
            for name, rounding in roundings.items():
                chosen = rounding.integers() if kept else rounding.nearest
                self.lockstep.rounded.get_parameter(name).copy_(rounding.scale * chosen)
        if kept:
            for scale in {id(scale): scale for scale in program.scales.values()}.values():
                self._keep(scale)
        return nearest, min(learnt, nearest)

    def _program(self, block: Block) -> _Program:
        """The block of the rounded program, at hand on the samples."""
        self.lockstep.float_walk.through(block.output)
        walk = self.lockstep.rounded_walk
        source = walk.nodes[block.input]
        rounded = [user for user in source.users if user.target is ROUND_VALUE]
        source = rounded[0] if rounded else source
        walk.through(source.name)
        nodes = walk.between(source.name, block.output)
        inputs = torch.cat(walk.values(source))
        read = {node for inner in nodes for node in inner.all_input_nodes} - {source, *nodes}
        sizes: Values = {node: walk.outputs_of(node)[0] for node in read if node.op != "get_attr"}
        return _Program(walk, source, nodes, walk.nodes[block.output], inputs, sizes, len(walk.values(source)[0]))

    def _scales(self, program: _Program) -> dict[Node, _Scale]:
        """The scales of the values that are rounded within the block alone; values that share one share it here too."""
        inner = {node: node.args[0] for node in program.nodes if node.target is ROUND_VALUE}
        groups = self.lockstep.groups if self.lockstep.planned.values else {}  # else layers round what they read
        by_group: dict[str, _Scale] = {}
        scales: dict[Node, _Scale] = {}
        names = {value.name for value in inner.values() if isinstance(value, Node)}
        for node, value in inner.items():
            assert isinstance(value, Node)
            if value.name not in groups:
                continue
            group = groups[value.name]
            if all(name in names for name, at in groups.items() if at == group and name in self.lockstep.encodings):
                scale = by_group.setdefault(group, _Scale([], nn.Parameter(torch.ones(()))))
                scale.nodes.append(node)
                scales[node] = scale
        return scales

    def _keep(self, scale: _Scale) -> None:
        """Let the rounded program and the encodings have a learnt scale."""
        for node in scale.nodes:
            value, step, *rest = node.args
            assert isinstance(value, Node) and isinstance(step, float)
            encoding = self.lockstep.encodings[value.name]
            planned = self.lockstep.planned
            grid = planned.values[value.name].parameters
            grid = replace(grid, scale=np.asarray(step * float(scale.share.detach()), np.float32)[()])
            self.lockstep.encodings[value.name] = activation_encoding(grid, encoding, planned.target)
            node.args = (value, float(grid.scale), *rest)

    def _fisher(self, block: Block, values: Tensor) -> Tensor:
        """The squared gradients of the output, over their mean: those of the task's loss for targets that are drawn.

        They come from the float network's own prediction, which makes it the Fisher information.
        """
        walk, squares = self.lockstep.float_walk, []
        start = 0
        for number in range(walk.batches):
            size = len(self.lockstep.batches[number][0])
            x = values[start : start + size].clone().requires_grad_()
            start += size
            outputs = walk.after(block.output, x, number, self.lockstep.graph.outputs[0].name)
            loss = size * self.task.drawn(outputs, self.generator)
            (gradient,) = torch.autograd.grad(loss, x)
            squares.append(gradient.square())
        weights = torch.cat(squares)
        return weights / weights.mean().clamp_min(1e-30)


@dataclass
class _Scale:
    """A learnt scale of activations, as a share of the one that was calibrated."""

    nodes: list[Node]
    share: nn.Parameter


@dataclass
class _Program:
    """The nodes of a block, to be run with other weights on some of the samples."""

    walk: Walk
    source: Node
    nodes: tuple[Node, ...]
    result: Node
    inputs: Tensor
    sizes: Values
    batch: int
    scales: dict[Node, _Scale] = field(default_factory=dict)
    functions: dict[object, GraphModule] = field(default_factory=dict)

    def output(self, weights: Mapping[Node, Tensor], index: Tensor) -> Tensor:
        """What the block yields for some of the samples with these rounded weights in place of its own."""
        replaced = tuple(weights)
        key = (replaced, tuple(self.scales))
        if key not in self.functions:
            self.functions[key] = self._function(replaced)
        result = self.functions[key](self.inputs[index], *weights.values(), *self.sizes.values())
        assert isinstance(result, Tensor)
        return result

    def _function(self, replaced: Sequence[Node]) -> GraphModule:
        """The block as code: of the value that it reads, what the nodes ``replaced`` yield, and sizes."""
        graph = FxGraph()
        values = (self.source, *replaced, *self.sizes)
        copies = {node: graph.placeholder(f"value_{number}") for number, node in enumerate(values)}

        def copy(node: Node) -> Node:
            if node not in copies:  # a stored tensor
                copies[node] = graph.node_copy(node)
            return copies[node]

        for node in self.nodes:
            if node in self.scales:
                source = node.args[0]
                assert isinstance(source, Node)
                copies[node] = graph.call_function(self._rounding(node), (copy(source),))
            elif node not in copies:
                copies[node] = graph.node_copy(node, copy)
        graph.output(copies[self.result])
        return GraphModule(self.walk.module, graph)

    def _rounding(self, node: Node) -> Callable[[Tensor], Tensor]:
        _, step, zero, low, high = node.args
        assert isinstance(step, float)
        assert isinstance(zero, int) and isinstance(low, int) and isinstance(high, int)
        scale = self.scales[node]

        def rounded(x: Tensor) -> Tensor:
            factor = gradient_factor(x[0].numel(), high - zero)
            return lsq(x, scale.share * step, torch.tensor(zero), low, high, factor)

        return rounded

    def error(self, weights: Mapping[Node, Tensor], targets: Tensor, importance: Tensor) -> float:
        """The mean squared error of the output over all samples."""
        total, seen = 0.0, 0
        for start in range(0, len(targets), self.batch):
            index = torch.arange(start, start + self.batch)
            difference = self.output(weights, index) - targets[index]
            weighed = difference.square() * (importance if len(importance) == 1 else importance[index])
            total += float(weighed.mean())
            seen += 1
        return total / seen
