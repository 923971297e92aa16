"""Weights of few levels: a network is made to compute with them, trained so, folded, and its levels become encodings.

Batch normalizations stay while it is trained, since their statistics follow the rounding; folded afterwards, they
multiply the levels of each channel by a factor, which the encodings take in.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ...distill import fine_tune
from ...edits import replay
from ...errors import InvalidInput
from ...fold import Fold
from ...graph.trace import Graph, trace
from ...integers.encoding import Encoding
from ...integers.placement import PRODUCTS, IntegerLayer, placement_of
from ...replacements import ROUNDING
from ...rounding.inputs import Rounding, rounding_layers, rounds_inputs
from ...rounding.weights import (
    Bases,
    Binary,
    LearnedSteps,
    Levels,
    PowersOfTwo,
    Ternary,
    TrainedTernary,
    WeightRounding,
    WeightRule,
)
from ...stage import Context, Edit, Skip
from ...training.loop import Training
from ..scheme import Schedule, Scheme

SHARES = (0.5, 0.75, 0.875)
"""Of the weights that are fixed before each part of an incremental training (INQ, section 3.1); then all are."""
STARTING_SAMPLES = 64
"""Samples from which the scales of rounded inputs start."""


@dataclass(frozen=True)
class FewLevels:
    """A network whose batch norms are folded, with weights on levels, and the account of how it came to be.

    ``encodings`` are those of the weights with few levels, by their names.
    """

    network: nn.Module
    encodings: Mapping[str, Encoding]
    edits: tuple[Edit, ...]
    skipped: tuple[Skip, ...]
    history: tuple[Mapping[str, float], ...]


def to_few_levels(
    network: nn.Module,
    scheme: Scheme,
    context: Context,
    training: Training | None,
    *,
    exclude: Iterable[str],
    ends: bool,
) -> FewLevels:
    """``network``, which is changed, with the weights of its layers, and what they read, rounded as ``scheme`` says.

    Args:
        training: with the values rounded; None rounds what is there.
        exclude: patterns of layers that stay as they are.
        ends: round the first and the last layer as well.

    Raises:
        InvalidInput: no layer can be rounded, a pattern matches none, or there is no data to train on.
    """
    if training is not None and context.data is None:
        raise InvalidInput("quantize: training is set, and there is no data to train on; give data or leave it out")
    assert scheme.weights is not None, "the scheme has weights of few levels"
    layers, skipped = choose_layers(network, context, exclude, ends=ends, inputs=scheme.inputs is not None)
    edits = _round_inputs(network, layers, scheme.inputs, context) if scheme.inputs else []
    rule = rule_of(scheme)
    history = _train(network, layers, rule, scheme.schedule, training, context)
    weights = settle(network, layers)
    folded, more, left = fold(network, context)
    encodings = {name: encode(folded, name, *found) for name, found in weights.items()}
    told = [Edit("", "weights", None, f"{len(history)} epochs", "weights")] if history else []
    return FewLevels(folded, encodings, (*edits, *told, *more), (*skipped, *left), tuple(history))


def rule_of(scheme: Scheme) -> WeightRule:
    """What makes the rounding of a weight from its values."""
    bits = scheme.weight_bits
    rules: dict[str, WeightRule] = {
        "binary": lambda _: Binary(),
        "bases": lambda _: Bases(bits),
        "ternary": lambda _: Ternary(),
        "trained ternary": TrainedTernary,
        "steps": lambda weight: LearnedSteps(weight, bits),
        "powers of two": lambda weight: PowersOfTwo(weight, bits, incremental=scheme.schedule == "incremental"),
    }
    return rules[str(scheme.weights)]


def choose_layers(
    network: nn.Module, context: Context, exclude: Iterable[str], *, ends: bool, inputs: bool
) -> tuple[list[str], list[Skip]]:
    """The names of the layers to round, in the order in which they run, and those that are left alone."""
    graph = trace(network, context.example_inputs)
    sites = placement_of(graph, exclude)
    skipped = [skip for skip in sites.skipped if skip.reason.startswith("kept in float")]
    products = list({(product.layer, product.weight): product for product in sites.products}.values())
    if not ends:
        nodes = list(graph.calls(*PRODUCTS))  # those that are excluded too
        at_ends = [product for product in products if product.node in (nodes[0], nodes[-1])]
        skipped += [Skip(product.layer, "kept as it is: the first or last layer") for product in at_ends]
        products = [product for product in products if product not in at_ends]
    layers = []
    for product in products:
        module = network.get_submodule(product.layer)
        reason = _obstacle(graph, product, module, inputs=inputs)
        if reason is None:
            layers.append(product.layer)
        else:
            skipped.append(Skip(product.layer, f"kept in float: {reason}"))
    if not layers:
        raise InvalidInput(
            "quantize: no layer of this network can have few levels; see what was skipped with --first-last same"
        )
    return layers, skipped


def _obstacle(graph: Graph, product: IntegerLayer, module: nn.Module, *, inputs: bool) -> str | None:
    weight = graph.tensor(product.node.args[1])
    sharing = [layer for layer in graph.readers(weight) if layer != product.layer] if weight is not None else []
    if sharing:
        return f"it shares its weight with {', '.join(sharing)}"
    if product.weight != f"{product.layer}.weight" or not isinstance(getattr(module, "weight", None), nn.Parameter):
        return "its weight is not a parameter of its own"
    if inputs and not rounds_inputs(module):
        return f"what a {type(module).__name__} reads cannot be rounded"
    return None


def _round_inputs(network: nn.Module, layers: Sequence[str], text: str, context: Context) -> list[Edit]:
    """Make ``layers`` round what they read, from scales that samples tell."""
    batch = _starting_batch(context)
    lowest: dict[str, float] = {}

    def look(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            lowest[name] = min(lowest.get(name, 0.0), float(inputs[0].min()))

        return hook

    _run_with_hooks(network, batch, {name: look(name) for name in layers})
    edits = []
    for name in layers:
        signed = " signed" if text.endswith("bits") and lowest.get(name, 0.0) < 0 else ""
        before = type(network.get_submodule(name)).__name__
        edits.append(Edit(name, "module", before, f"{ROUNDING}{text}{signed}", "module"))
    replay(network, edits)
    started: set[str] = set()

    def start(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            if name not in started:
                rounding = module.rounding
                assert isinstance(rounding, Rounding)
                rounding.start(inputs[0])
                started.add(name)

        return hook

    _run_with_hooks(network, batch, {name: start(name) for name in layers})
    return edits


def _starting_batch(context: Context) -> tuple[Tensor, ...]:
    if context.data is None:
        return context.example_inputs
    split = context.data.splits.get("calibration") or context.data.split("train")
    return context.read(next(iter(split.batches(STARTING_SAMPLES))))


def _run_with_hooks(
    network: nn.Module, batch: tuple[Tensor, ...], hooks: Mapping[str, Callable[[nn.Module, tuple[Tensor, ...]], None]]
) -> None:
    handles = [network.get_submodule(name).register_forward_pre_hook(hook) for name, hook in hooks.items()]
    try:
        with torch.no_grad():
            network.eval()(*batch)
    finally:
        for handle in handles:
            handle.remove()


def _train(
    network: nn.Module,
    layers: Sequence[str],
    rule: WeightRule,
    schedule: Schedule,
    training: Training | None,
    context: Context,
) -> list[Mapping[str, float]]:
    """Train ``network``, after which all its weights are rounded; returns a record per epoch."""
    parts = Parts(network, training, context)
    if schedule == "inputs first":
        parts.train(0.5, "train with rounded inputs")
    round_weights(network, layers, rule)
    if schedule != "incremental":
        parts.train(1.0, "train rounded")
        return parts.history
    roundings = {
        name: module for name in layers if isinstance(module := rounding_of_weight(network, name), PowersOfTwo)
    }
    for number, share in enumerate((*SHARES, 1.0), 1):
        for name, rounding in roundings.items():
            rounding.fix(_behind(network.get_submodule(name)), share)
        if share < 1:
            parts.train(number / len(SHARES), f"train, {share:.1%} of the weights fixed")
    return parts.history


def round_weights(network: nn.Module, layers: Iterable[str], rule: WeightRule) -> None:
    """Let ``layers`` compute with rounded weights, in place."""
    for name in layers:
        module = network.get_submodule(name)
        assert isinstance(module.weight, nn.Parameter), f"{name} has a weight of its own"
        parametrize.register_parametrization(module, "weight", rule(module.weight.detach()), unsafe=True)


def rounding_of_weight(network: nn.Module, layer: str) -> nn.Module:
    """What rounds the weight of ``layer``."""
    parametrizations = network.get_submodule(layer).parametrizations
    assert isinstance(parametrizations, nn.ModuleDict)
    return parametrizations["weight"][0]  # type: ignore[index,no-any-return]


def _behind(module: nn.Module) -> Tensor:
    original = module.parametrizations["weight"].original  # type: ignore[index,union-attr]
    assert isinstance(original, Tensor)
    return original


@dataclass
class Parts:
    """A training in parts, each with a schedule of learning rates of its own."""

    network: nn.Module
    training: Training | None
    context: Context
    done: int = 0
    parts: int = 0
    history: list[Mapping[str, float]] = field(default_factory=list)

    def train(self, until: float, activity: str) -> None:
        """Train until this share of all epochs is done."""
        if self.training is None:
            return
        epochs = math.ceil(until * self.training.epochs) - self.done
        if epochs <= 0:
            return
        history = fine_tune(
            self.network,
            replace(self.context, seed=self.context.seed + self.parts),
            self.training.model_copy(update={"epochs": epochs}),
            activity=activity,
            checkpoint=f"few_levels-{self.parts}.ckpt",
        )
        self.history += [{**record, "epoch": self.done + record["epoch"]} for record in history]
        self.done, self.parts = self.done + epochs, self.parts + 1


def settle(network: nn.Module, layers: Iterable[str]) -> dict[str, tuple[Levels, Tensor]]:
    """Make the rounded values the weights of ``layers``, in place; their levels and values, by the weights' names."""
    settled = {}
    with torch.no_grad():
        for name in layers:
            module, rounding = network.get_submodule(name), rounding_of_weight(network, name)
            levels = cast(WeightRounding, rounding).levels(_behind(module).detach())
            parametrize.remove_parametrizations(module, "weight", leave_parametrized=True)
            assert isinstance(module.weight, Tensor)
            settled[f"{name}.weight"] = (levels, module.weight.detach().clone())
    return settled


def fold(network: nn.Module, context: Context) -> tuple[nn.Module, tuple[Edit, ...], tuple[Skip, ...]]:
    """``network``, which is changed, with its batch norms folded.

    Inputs are clipped meanwhile, not rounded: a change of the last place must move no sign when outputs are compared.
    """
    if not any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in network.modules()):
        return network, (), ()
    layers = rounding_layers(network)
    roundings = {name: layer.rounding for name, layer in layers.items()}
    for layer in layers.values():
        layer.rounding = nn.Hardtanh()
    result = Fold().apply(network, context)
    for name, rounding in roundings.items():
        result.model.get_submodule(name).rounding = rounding
    return result.model, result.edits, result.skipped


def encode(network: nn.Module, name: str, levels: Levels, before: Tensor) -> Encoding:
    """The encoding of the weight ``name``, whose channels were multiplied by factors since they were ``before``.

    The weight is set to the very values that the encoding stands for.
    """
    weight = network.get_parameter(name)
    with torch.no_grad():
        then, now = before.flatten(1).double(), weight.flatten(1).double()
        ratio = (then * now).sum(1) / (then * then).sum(1).clamp_min(torch.finfo(torch.float64).tiny)
        factors = [float(x) for x in (levels.factors.double() * ratio).float()]
        rows = tuple(tuple(float(x) for x in row) for row in levels.rows.float())
        ends = tuple(abs(factor) for factor in factors)
        bits = max(1, math.ceil(math.log2(len(rows[0]))))
        encoding = Encoding(tuple(-x for x in ends), tuple(factors), bits, True, 0, None, "levels", rows)
        values = torch.from_numpy(encoding.decoded(encoding.codes(weight.detach().numpy())))
        error = float((values - weight).abs().max())
        assert error <= 1e-3 * max(float(weight.abs().max()), 1e-12), f"{name} is {error} off its levels"
        weight.copy_(values)
    return encoding
