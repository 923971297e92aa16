"""Bias correction: the mean that rounding adds to each channel of a layer's output is taken off its bias.

Nagel et al., "Data-Free Quantization through Weight Equalization and Bias Correction" (2019), section 4.2: rounding is
not zero in the mean over the few weights of a channel, and layers pass the shift on.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.fx import Interpreter, Node

from ...core.settings import setting
from ...data import Split
from ...edits import replay
from ...fold import uses
from ...graph.trace import Graph, argument, trace
from ...integers.encoding import Encoding
from ...integers.placement import IntegerLayer
from ...integers.plan import Plan, plan
from ...integers.simulate import nodes_of, simulated
from ...stage import Context, Edit, Skip
from ..moments import ChannelStatistics, Moments, derived
from ..ranges.calibration import calibration_batches, observe
from ..state import Job, State
from . import Need, Phase, Recovery
from .shared.paired_execution import Walk, bytes_per_sample

aten = torch.ops.aten

MEMORY_BYTES = 2**30
"""Of activations that the empirical correction holds; it looks at fewer samples where they would take more."""

Account = tuple[tuple[Edit, ...], tuple[Skip, ...]]


class BiasCorrection(Recovery):
    """Take the mean error of rounding off the biases: Nagel et al., "Data-Free Quantization" (2019), section 4.2."""

    source: Literal["empirical", "analytic"] = setting(
        "empirical", "Where that mean is from: measured on calibration samples, or as batch norms tell."
    )

    phase: ClassVar[Phase] = "biases"

    @property
    def needs(self) -> frozenset[Need]:
        """The weights before rounding, a bias in every layer, and samples or what batch norms tell."""
        source_of_means: Need = "samples" if self.source == "empirical" else "moments"
        return frozenset({"unrounded", "biases", source_of_means})

    def apply(self, state: State, job: Job) -> State:
        """:func:`correct_biases`, or :func:`correct_biases_analytically`."""
        network, encodings, unrounded, context = state.network, state.encodings, state.unrounded, job.context
        assert unrounded is not None, "it says that it needs the weights before rounding"
        if self.source == "empirical":
            done = correct_biases(network, unrounded, encodings, job.samples, job.count, context, target=job.grid)
        else:
            done = correct_biases_analytically(
                network, encodings, state.moments, context, reference=unrounded, target=job.grid
            )
        return state.after(*done)


def give_biases(graph: Graph, products: Iterable[IntegerLayer]) -> tuple[Edit, ...]:
    """Give a bias of zeros to each of ``products`` that has none, in place, where its module has a place for one.

    The network has to be traced again after.
    """
    edits = []
    for product in products:
        weight, module = graph.tensor(argument(product.node, "weight")), graph.model.get_submodule(product.layer)
        placed = "bias" in module._parameters and getattr(module, "weight", None) is weight
        if product.bias_node is None and weight is not None and placed and uses(graph, weight) == 1:
            edits.append(Edit(product.layer, "bias", None, (weight.shape[0],), "tensor"))
    replay(graph.model, edits)
    return tuple(edits)


def correct_biases(
    network: nn.Module,
    reference: nn.Module,
    encodings: Mapping[str, Encoding],
    split: Split,
    samples: int,
    context: Context,
    *,
    target: str,
) -> Account:
    """Correct the biases of ``network`` in place, by what is measured: layer by layer in the order in which they run.

    The mean of each output channel of a layer in the rounded network, whose earlier layers are corrected already,
    becomes that of ``reference`` (section 4.2.2, empirical).

    Args:
        reference: the float network, with the nodes of ``network``.
        encodings: of ``network``.
        samples: to look at, fewer where their activations would take more than a gibibyte.

    Raises:
        InvalidInput: the samples do not fit the network.
    """
    planned = plan(network, context.example_inputs, encodings, target)
    layers, skipped = _correctable(planned)
    samples = max(1, min(samples, MEMORY_BYTES // bytes_per_sample(planned.graph)))
    graph = trace(reference, context.example_inputs, dynamic_batch=True)
    seen = {product.node.name: ChannelStatistics(_dim(product.node)) for product in layers}
    observe(graph, {name: s.observe for name, s in seen.items()}, split, samples, context, activity="measure channels")
    batches = [inputs for inputs, _ in calibration_batches(graph, split, samples, context)]
    walk = Walk(simulated(planned), batches)
    edits = []
    for number, product in enumerate(layers):
        name, dim = product.node.name, _dim(product.node)
        walk.through(name)
        values = walk.values(walk.nodes[name])
        rounded = ChannelStatistics(dim)
        for value in values:
            rounded.observe(value)
        change = seen[name].moments.mean - rounded.moments.mean
        edits.append(_add(network, product, change))
        for value in values:
            value.add_(change.to(value).view(-1, *(1 for _ in range(value.ndim - 1 - dim % value.ndim))))
        context.progress("correct biases", number + 1, len(layers))
    return tuple(edits), skipped


def correct_biases_analytically(
    network: nn.Module,
    encodings: Mapping[str, Encoding],
    known: Mapping[str, Moments],
    context: Context,
    *,
    reference: nn.Module | None = None,
    target: str,
) -> Account:
    """Correct the biases of ``network`` in place, by what rounding its weights does to inputs of the expected mean.

    Section 4.2.1: with the rounding error E of the weights, the outputs shift by ``E E[x]``, where E[x] is the mean of
    the layer's input, from batch norm statistics (equation 19). Layers whose input has no known mean are skipped.
    Rounding of activations, and padding, are not looked at.

    Args:
        known: moments of the outputs of layers that batch norms were folded into, by weight name.
        reference: the network with the weights in float, where ``network`` has rounded ones.

    Raises:
        InvalidInput: the encodings are not of this network.
    """
    planned = plan(network, context.example_inputs, encodings, target)
    layers, skipped = _correctable(planned)
    moments = derived(planned.graph, known)
    module = simulated(planned)
    nodes = nodes_of(module)
    constants = Interpreter(module)
    edits: list[Edit] = []
    unknown: list[Skip] = []
    for product in layers:
        expected = moments.get(product.read)
        if expected is None:
            unknown.append(
                Skip(product.layer, "its bias is not corrected: batch norms do not tell the mean of its input")
            )
            continue
        stored = (reference or network).get_parameter(product.weight).detach().double()
        error = _constant(constants, argument(nodes[product.node.name], "weight")).double() - stored
        edits.append(_add(network, product, -_response(product.node, error, expected.mean)))
    return tuple(edits), (*skipped, *unknown)


def _correctable(planned: Plan) -> tuple[tuple[IntegerLayer, ...], tuple[Skip, ...]]:
    """The layers with rounded weights that have a bias of their own, in the order in which they run."""
    graph = planned.graph
    products = [each.layer for each in planned.layers if each.encoding.kind != "integer" or each.weight is not None]
    layers: list[IntegerLayer] = []
    skipped: list[Skip] = []
    for product in products:
        bias = graph.tensor(product.bias_node)
        if bias is None or product.bias is None:
            reason = "it has none, and no place for one of its own"
            skipped.append(Skip(product.layer, f"its bias is not corrected: {reason}"))
        elif uses(graph, bias) > 1:
            skipped.append(Skip(product.layer, "its bias is not corrected: several calls share it"))
        else:
            layers.append(product)
    return tuple(layers), tuple(skipped)


def _dim(node: Node) -> int:
    return -1 if node.target is aten.linear.default else 1


def _add(network: nn.Module, product: IntegerLayer, change: Tensor) -> Edit:
    assert product.bias is not None
    owner, _, attribute = product.bias.rpartition(".")
    bias: Tensor = getattr(network.get_submodule(owner), attribute)
    bias.data = (bias.detach().double() + change).to(bias)
    return Edit(owner, attribute, "as stored", "corrected for the mean error of rounding", "weights")


def _response(node: Node, weight: Tensor, mean: Tensor) -> Tensor:
    """(out,): what inputs of the channel means ``mean`` (in,) yield with ``weight``, away from any padding."""
    groups = 1 if node.target is aten.linear.default else int(argument(node, "groups"))
    per_group = weight.flatten(2).sum(2) if weight.ndim > 2 else weight
    return torch.einsum(
        "goi,gi->go", per_group.reshape(groups, -1, per_group.shape[1]), mean.to(weight).reshape(groups, -1)
    ).flatten()


def _constant(interpreter: Interpreter, node: Node) -> Tensor:
    """The value of a node that depends on no input of the network."""
    for read in _needed(node):
        interpreter.env[read] = interpreter.run_node(read)
    value = interpreter.env[node]
    assert isinstance(value, Tensor), node.name
    return value.detach()


def _needed(node: Node) -> Iterator[Node]:
    for read in node.all_input_nodes:
        yield from _needed(read)
    yield node
