"""Two programs side by side on the same samples: the float network and the one that rounds, node after node.

A layer is fitted on what the rounded network gives it, towards what the float network yields there. Walking both
programs once, and holding only what is still to be read, costs two forward passes for the whole network.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Interpreter, Node

from ....data import Split
from ....graph.trace import Graph
from ....integers.encoding import Encoding, IntegerParameters
from ....integers.placement import IntegerLayer
from ....integers.plan import Plan, plan, plan_of
from ....integers.simulate import nodes_of, simulate, traced_name
from ....stage import Context, evaluation_copy
from ...ranges.calibration import calibration_batches

Values = dict[Node, object]


class Walk:
    """A program that runs on batches of samples up to where it is told, and keeps what is still to be read.

    Args:
        module: the program.
        batches: the inputs of the program, batch by batch.
        held: names of nodes whose values stay until :meth:`take`.
    """

    def __init__(self, module: GraphModule, batches: Sequence[tuple[Tensor, ...]], held: Sequence[str] = ()) -> None:
        self.module = module
        self.nodes = nodes_of(module)
        self.held = frozenset(held)
        self._order = [node for node in module.graph.nodes if node.op != "output"]
        self._place = {node: place for place, node in enumerate(self._order)}
        self._done = 0
        self._interpreter = Interpreter(module)
        self._last_uses = self._interpreter.user_to_last_uses
        self._values: list[Values] = [{} for _ in batches]
        self._inputs = [iter(inputs) for inputs in batches]
        self._taken: dict[str, list[Tensor]] = {}

    def through(self, name: str) -> None:
        """Run up to the node ``name``, that one too."""
        self._advance(self._place[self.nodes[name]] + 1)

    def before(self, name: str) -> None:
        """Run up to the node ``name``, without it."""
        self._advance(self._place[self.nodes[name]])

    def take(self, name: str) -> list[Tensor]:
        """The values of a held node, batch by batch; they are held no longer."""
        return self._taken.pop(name)

    def values(self, node: Node) -> list[Tensor]:
        """The values of ``node``, which something that has not run yet reads."""
        batches = [values[node] for values in self._values]
        assert all(isinstance(value, Tensor) for value in batches), node
        return batches  # type: ignore[return-value]

    def outputs_of(self, node: Node) -> list[object]:
        """The values of ``node``, tensors or not, batch by batch."""
        return [values[node] for values in self._values]

    def again(self, node: Node) -> None:
        """Compute ``node``, which has run, once more from stored tensors: one of them has changed."""
        with torch.no_grad():
            for values in self._values:
                for read in node.all_input_nodes:
                    if read.op == "get_attr":
                        values.setdefault(read, self.run(read, values))
                values[node] = self.run(node, values)

    def run(self, node: Node, values: Values) -> object:
        """The value of ``node`` from those that it reads."""
        self._interpreter.env = values
        return self._interpreter.run_node(node)

    def between(self, before: str, last: str) -> tuple[Node, ...]:
        """The calls after the node ``before``, up to ``last``."""
        start, stop = self._place[self.nodes[before]] + 1, self._place[self.nodes[last]] + 1
        return tuple(node for node in self._order[start:stop] if node.op != "get_attr")

    def after(self, name: str, value: Tensor, batch: int, result: str) -> Tensor:
        """What the node ``result`` yields where ``name`` yields ``value`` in that batch, and gradients are kept.

        The value is all that nodes after ``name`` read of what was computed before, but for sizes.
        """
        values: Values = {self.nodes[name]: value}
        for node in self.between(name, result):
            for read in node.all_input_nodes:
                if read not in values:
                    values[read] = self.run(read, values) if read.op == "get_attr" else self._values[batch][read]
            values[node] = self.run(node, values)
        yielded = values[self.nodes[result]]
        assert isinstance(yielded, Tensor), result
        return yielded

    @property
    def batches(self) -> int:
        """How many batches it runs on."""
        return len(self._values)

    def _advance(self, stop: int) -> None:
        with torch.no_grad():
            for node in self._order[self._done : stop]:
                for number, values in enumerate(self._values):
                    self._interpreter.args_iter = self._inputs[number]
                    value = self.run(node, values)
                    values[node] = value
                    if traced_name(node) in self.held:
                        assert isinstance(value, Tensor), node.name
                        own = value.clone() if any(_changes(user) for user in node.users) else value
                        self._taken.setdefault(traced_name(node), []).append(own)
                    for read in self._last_uses.get(node, ()):
                        values.pop(read, None)
        self._done = max(self._done, stop)


def _changes(node: Node) -> bool:
    """Whether ``node`` works in place."""
    schema = getattr(node.target, "_schema", None)
    return bool(schema is not None and schema.is_mutable)


def traced_shape(node: Node) -> tuple[int, ...]:
    """The shape of what ``node`` yielded when it was traced; a size that may vary is not bound to it by this."""
    return tuple(s.node.hint if isinstance(s, torch.SymInt) else int(s) for s in node.meta["val"].shape)


def bytes_per_sample(graph: Graph) -> int:
    """The most that the activations of ``graph`` that are alive at one time take, in bytes for a sample."""
    sizes: dict[Node, int] = {}
    samples = max(1, traced_shape(graph.inputs[0])[0]) if graph.inputs else 1
    alive = most = 0
    last: Mapping[Node, list[Node]] = Interpreter(graph.program.graph_module).user_to_last_uses
    for node in graph.nodes:
        value = node.meta.get("val")
        if node.op == "output" or not isinstance(value, Tensor) or graph.tensor(node) is not None:
            continue
        sizes[node] = 4 * math.prod(traced_shape(node)) // samples
        alive += sizes[node]
        most = max(most, alive)
        alive -= sum(sizes.pop(read, 0) for read in last.get(node, ()))
    return max(1, most)


@dataclass(frozen=True)
class Rounded:
    """A network whose weights are grid points of ``encodings``: nearest rounding gives just these.

    ``errors`` has for each layer or block the squared error of nearest rounding and of the one that was chosen.
    """

    model: nn.Module
    encodings: Mapping[str, Encoding]
    errors: Mapping[str, tuple[float, float]]


@dataclass
class Lockstep:
    """The float network and a copy that is being rounded, walked side by side on calibration samples.

    ``products`` are those whose weights are to be fitted, each weight once; ``planned`` are the integers of the network
    before, whose scales the weights keep.
    """

    source: nn.Module
    graph: Graph
    rounded: nn.Module
    encodings: dict[str, Encoding]
    grids: dict[str, IntegerParameters]
    products: tuple[IntegerLayer, ...]
    batches: list[tuple[Tensor, ...]]
    planned: Plan
    simulated: GraphModule

    @property
    def groups(self) -> Mapping[str, str]:
        """For each encoded value the one whose range it has."""
        return self.planned.ranges

    @staticmethod
    def of(
        model: nn.Module,
        encodings: Mapping[str, Encoding],
        context: Context,
        split: Split,
        samples: int,
        memory_mb: float,
        target: str,
        batch: int = 32,
        whole: bool = False,
    ) -> Lockstep:
        """Both programs and the samples that they will run on.

        Args:
            samples: at most so many, and no more than have their activations in ``memory_mb``.
            target: the engine whose grids the weights shall lie on.
            batch: samples that run at once.
            whole: leave out the last batch where it is smaller.

        Raises:
            InvalidInput: the encodings are not of this network, or there are no samples.
        """
        network = evaluation_copy(model).requires_grad_(False)
        first = plan(network, context.example_inputs, encodings, target)
        graph, fixed = first.graph, first.settled()
        samples = min(samples, max(1, int(memory_mb * 1e6 / (2 * bytes_per_sample(graph)))))
        batches = [inputs for inputs, _ in calibration_batches(graph, split, samples, context, batch_size=batch)]
        if whole and len(batches) > 1 and len(batches[-1][0]) < len(batches[0][0]):
            batches.pop()
        planned = plan_of(graph, fixed, first.target)
        products = [each.layer for each in planned.layers]
        first_of = {product.weight: product for product in reversed(products) if product.weight in planned.grids}
        rounded = evaluation_copy(network)
        return Lockstep(
            model,
            graph,
            rounded,
            fixed,
            dict(planned.grids),
            tuple(product for product in products if first_of.get(product.weight) is product),
            batches,
            planned,
            simulate(rounded, fixed, context.example_inputs, target=target),
        )

    def start(self, held: list[str]) -> None:
        """Stand at the beginning of both, and hold the values of these nodes of the float network."""
        program = self.graph.program.module(check_guards=False)
        assert isinstance(program, GraphModule)
        self.float_walk = Walk(program, self.batches, held)
        self.rounded_walk = Walk(self.simulated, self.batches)

    def inputs_and_targets(self, product: IntegerLayer, output: str) -> tuple[list[Tensor], list[Tensor]]:
        """What the rounded network gives ``product``, and what the float one yields at ``output``, by batch."""
        self.float_walk.through(output)
        self.rounded_walk.before(product.node.name)
        source = self.rounded_walk.nodes[product.node.name].args[0]
        assert isinstance(source, Node)
        return self.rounded_walk.values(source), self.float_walk.take(output)

    def rounded_weight(self, product: IntegerLayer) -> Node:
        """The node of the rounded program that rounds the weight of ``product``."""
        node = self.rounded_walk.nodes[product.node.name].args[1]
        assert isinstance(node, Node)
        return node

    def refresh(self, product: IntegerLayer) -> None:
        """Take up the new weight of ``product``."""
        self.rounded_walk.again(self.rounded_weight(product))

    def finished(self, errors: Mapping[str, tuple[float, float]]) -> Rounded:
        """The network given with the weights that were chosen."""
        model = evaluation_copy(self.source)
        with torch.no_grad():
            for product in self.products:
                model.get_parameter(product.weight).copy_(self.rounded.get_parameter(product.weight))
        return Rounded(model, self.encodings, errors)
