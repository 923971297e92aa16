"""AdaRound: each weight is rounded up or down so that its layer errs least, not to the nearest integer.

Nagel et al., "Up or Down? Adaptive Rounding for Post-Training Quantization" (2020). Layers are taken in the order in
which they run. Each is fitted alone, on the inputs that the already rounded network gives it, towards what the float
network yields there after the activation function (their equation 25, asymmetric reconstruction).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.fx import Node

from ...core.settings import setting
from ...data import Split
from ...integers.encoding import Encoding, IntegerParameters
from ...integers.grids import scale_for
from ...integers.placement import CLIPS, NOTHING, IntegerLayer
from ...stage import Config, Context, Edit, Samples
from ..state import Job, State
from . import Phase, Recovery
from .shared.paired_execution import Lockstep, Rounded
from .shared.sampled_rows import Rows, sampled_rows

aten = torch.ops.aten
hardtanh_backward, threshold_backward = aten.hardtanh_backward.default, aten.threshold_backward.default

DECIDED_EVERY = 50
"""Steps after which is looked whether all roundings are decided."""

Exponent = Annotated[float, Field(ge=0, le=1000)]

STRETCH_HIGH, STRETCH_LOW = 1.1, -0.1
"""Zeta and gamma of the rectified sigmoid."""

ACTIVATIONS = CLIPS | {
    aten.hardswish.default,
    aten.hardswish_.default,
    aten.hardsigmoid.default,
    aten.hardsigmoid_.default,
    aten.silu.default,
    aten.silu_.default,
    aten.gelu.default,
    aten.sigmoid.default,
    aten.tanh.default,
    aten.leaky_relu.default,
    aten.leaky_relu_.default,
    aten.elu.default,
}
"""Activation functions that work on each value alone."""


class LearnedRounding(Config):
    """How roundings are learnt.

    Args:
        iterations: steps of Adam for each layer or block.
        batch: what a step looks at: positions of a layer's output (``adaround``), or samples (``brecq``).
        learning_rate: of the rounding variables.
        strength: of the pull towards rounding up or down, relative to the error of nearest rounding.
        beta: the exponent of that pull, from the first to the last step (their equation 24).
        warm_start: share of the steps without it.
        samples: calibration samples to learn from, at most.
        memory_mb: of the samples' activations; there are fewer samples where they would take more.
        fisher: weigh errors of a block by the diagonal of the Fisher information of its output (``brecq``).
        learn_activations: learn the scales of activations within a block along with the roundings (``brecq``).
    """

    iterations: int = Field(2000, ge=1, le=10**7)
    batch: int | None = Field(None, ge=1, le=2**20)
    learning_rate: float = Field(1e-2, gt=0, le=1e4)
    strength: float = Field(10.0, gt=0, le=1e9)
    beta: tuple[Exponent, Exponent] = (20.0, 2.0)
    warm_start: float = Field(0.2, ge=0, lt=1)
    samples: Samples = 1024
    memory_mb: float = Field(2000.0, gt=0, le=1e9)
    fisher: bool = False
    learn_activations: bool = False

    def exponent(self, step: int) -> float | None:
        """Beta at ``step`` (from 0), falling linearly; None while the pull is off.

        >>> [LearnedRounding(iterations=10).exponent(step) for step in (0, 1, 2, 6, 9)]
        [None, None, 20.0, 11.0, 4.25]
        """
        start = self.warm_start * self.iterations
        if step < start:
            return None
        first, last = self.beta
        return first + (last - first) * (step - start) / max(1.0, self.iterations - start)


class Rounding:
    """The rounding variables of one weight: each element lies between the two grid points around it.

    Their equations 22 and 23: the weight is ``scale * clip(floor(weight / scale) + h(V), low, high)`` with the
    rectified sigmoid ``h(V) = clip(sigmoid(V) * (zeta - gamma) + gamma, 0, 1)``. V starts where the weight is its own.

    Args:
        weight: (out, ...), in float.
        grid: of the weight, with zero point 0 and a scale for each output channel.
    """

    def __init__(self, weight: Tensor, grid: IntegerParameters) -> None:
        self.low, self.high = grid.low, grid.high
        self.scale = scale_for(grid, weight)
        real = weight.detach() / self.scale
        self.nearest = torch.round(real).clamp_(self.low, self.high)
        self.floor = torch.floor(real)
        share = (real - self.floor).clamp(0, 1)
        self.variable = nn.Parameter(-torch.log((STRETCH_HIGH - STRETCH_LOW) / (share - STRETCH_LOW) - 1))
        self._base = self.scale * self.floor.clamp(self.low, self.high)
        self._span = self.scale * ((self.floor >= self.low) & (self.floor < self.high))  # of what a limit does not fix

    def up(self) -> Tensor:
        """h(V): how far each element is rounded up, 0..1."""
        return (torch.sigmoid(self.variable) * (STRETCH_HIGH - STRETCH_LOW) + STRETCH_LOW).clamp(0, 1)

    def soft(self) -> Tensor:
        """The weight with elements between grid points."""
        return self.scale * (self.floor + self.up()).clamp(self.low, self.high)

    def pull(self, beta: float) -> Tensor:
        """Their equation 24: 1 - |2 h(V) - 1|^beta, the mean over the elements, which is 0 at grid points."""
        return 1 - (2 * self.up() - 1).abs().pow(beta).mean()

    def at(self, beta: float | None) -> Between:
        """The weight as by :meth:`soft`, without a graph, and how it and :meth:`pull` change with the variables.

        Args:
            beta: of the pull; None for none.
        """
        with torch.no_grad():
            share = torch.sigmoid(self.variable)
            stretched = share * (STRETCH_HIGH - STRETCH_LOW) + STRETCH_LOW
            slope = hardtanh_backward(torch.addcmul(share, share, share, value=-1), stretched, 0.0, 1.0)
            slope.mul_(STRETCH_HIGH - STRETCH_LOW)
            up = stretched.clamp_(0, 1)
            weight = torch.addcmul(self._base, self._span, up)
            if beta is None:
                return Between(weight, slope, self._span, None)
            half = up.sub_(0.5)  # |2 h - 1|^(beta - 1) is 2^(beta - 1) times the power of its half
            power = half.abs().pow_(beta - 1).copysign_(half)
            return Between(weight, slope, self._span, power.mul_(-(2**beta) * beta / power.numel()))

    def integers(self) -> Tensor:
        """The grid points chosen, as integers in float32."""
        return (self.floor + (self.variable.detach() >= 0)).clamp(self.low, self.high)


@dataclass(frozen=True)
class Between:
    """A weight between grid points.

    Args:
        weight: its elements.
        slope: of h(V), the derivative in V.
        span: the derivative of the weight in h(V).
        pull: that of the pull to grid points, likewise; None where there is none.
    """

    weight: Tensor
    slope: Tensor
    span: Tensor
    pull: Tensor | None

    def gradient(self, of_weight: Tensor, strength: float = 0.0) -> Tensor:
        """The derivative, in the rounding variables, of a loss and ``strength`` times the pull.

        Args:
            of_weight: the derivative of the loss in the weight.
        """
        gradient = of_weight * self.span
        if self.pull is not None:
            gradient.add_(self.pull, alpha=strength)
        return gradient.mul_(self.slope)


class AdaRound(Recovery):
    """Round each weight up or down so that its layer errs least, as learnt on samples: Nagel et al. (2020)."""

    iterations: int = setting(2000, "Steps for each layer.", ge=1, le=10**7)
    batch: int | None = setting(None, "Positions of a layer's output in a step.", hidden=True, ge=1, le=2**20)

    phase: ClassVar[Phase] = "rounding"

    def apply(self, state: State, job: Job) -> State:
        """:func:`adaround`."""
        config = LearnedRounding(iterations=self.iterations, batch=self.batch, samples=job.count)
        done = adaround(state.network, state.encodings, job.context, job.samples, config, target=job.grid)
        edit = Edit("", "weights", "float32", f"rounded by {self.name}", "weights")
        return state.after([edit], network=done.model, encodings=done.encodings)


def adaround(
    model: nn.Module,
    encodings: Mapping[str, Encoding],
    context: Context,
    split: Split,
    config: LearnedRounding = LearnedRounding(),  # noqa: B008  (frozen)
    *,
    target: str,
) -> Rounded:
    """A copy of ``model`` with the weights of each integer layer on grid points learnt layer by layer.

    Where nearest rounding gives an output channel a smaller error on the samples, it stays.

    Args:
        encodings: of a calibrated network, those of weights included.
        split: the samples to learn from.
        target: the engine whose grids the weights shall lie on; others round them anew.

    Raises:
        InvalidInput: the encodings are not of this network, or there are no samples.
    """
    lockstep = Lockstep.of(model, encodings, context, split, config.samples, config.memory_mb, target)
    chains = {product.weight: with_activation(product.node) for product in lockstep.products}
    lockstep.start([chain[-1].name for chain in chains.values()])
    generator = torch.Generator().manual_seed(context.seed)
    errors: dict[str, tuple[float, float]] = {}
    for number, product in enumerate(lockstep.products):
        context.progress("adaround", number, len(lockstep.products), product.layer)
        errors[product.weight] = fit_layer(lockstep, product, chains[product.weight], config, generator)
    context.progress("adaround", len(lockstep.products), len(lockstep.products))
    return lockstep.finished(errors)


def fit_layer(
    lockstep: Lockstep,
    product: IntegerLayer,
    chain: tuple[Node, ...],
    config: LearnedRounding,
    generator: torch.Generator,
) -> tuple[float, float]:
    """Set the weight of one layer; returns the error of nearest rounding and its own.

    Args:
        chain: the layer's node, up to the activation function that follows it.
    """
    inputs, targets = lockstep.inputs_and_targets(product, chain[-1].name)
    weight, bias = lockstep.rounded.get_parameter(product.weight), lockstep.graph.tensor(product.bias_node)
    rows = sampled_rows(product.node, inputs, targets, generator)
    rounding = Rounding(weight, lockstep.grids[product.weight])
    layer = _Layer(rows, None if bias is None else bias.detach(), chain[1:])
    chosen, errors = _fit(layer, rounding, config, generator)
    with torch.no_grad():
        weight.copy_(rounding.scale * chosen)
    lockstep.refresh(product)
    return errors


@dataclass(frozen=True)
class _Layer:
    """One product run alone on rows of its inputs, followed by its activation function."""

    rows: Rows
    bias: Tensor | None
    activation: tuple[Node, ...]

    def before_activation(self, weight: Tensor, rows: Rows) -> Tensor:
        """(P, out) of these rows."""
        y = rows.times(weight)
        return y if self.bias is None else y.add_(self.bias)

    def errors(self, weight: Tensor) -> Tensor:
        """The mean squared error of each output channel, over all rows."""
        total = torch.zeros(weight.shape[0], dtype=torch.float64)
        for start in range(0, len(self.rows), 4096):
            rows = self.rows.window(start, min(4096, len(self.rows) - start))
            y = applied(self.activation, self.before_activation(weight, rows))
            total += (y - rows.targets).square().sum(0).double().cpu()
        return total / len(self.rows)

    def gradient(self, weight: Tensor, rows: Rows, unit: float) -> Tensor:
        """The derivative, in the weight, of the squared error of these rows over ``unit``."""
        y = self.before_activation(weight, rows)
        yielded, back = _activated(self.activation, y)
        return rows.gradient(back((yielded - rows.targets).mul_(2 / unit)), weight)


def _activated(activation: tuple[Node, ...], y: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """``y`` after an activation function, and what makes a derivative in it out of one in the result."""
    functions = [node for node in activation if node.target in ACTIVATIONS]
    if not functions:
        return y, lambda derivative: derivative
    if [node.target for node in functions] in ([aten.relu.default], [aten.relu_.default]):
        yielded = y.relu_()
        return yielded, lambda derivative: threshold_backward(derivative, yielded, 0)
    with torch.enable_grad():
        y.requires_grad_()
        result = applied(activation, y.clone())
    return result.detach(), lambda derivative: torch.autograd.grad(result, y, derivative)[0]


def _fit(
    layer: _Layer, rounding: Rounding, config: LearnedRounding, generator: torch.Generator
) -> tuple[Tensor, tuple[float, float]]:
    """The integers of a layer, and the error of nearest rounding and theirs."""
    with torch.no_grad():
        nearest = layer.errors(rounding.scale * rounding.nearest)
    unit = float(nearest.sum())
    if unit > 0:
        count = len(layer.rows)
        batch = min(config.batch or 256, count)

        def gradients(weights: Sequence[Tensor]) -> list[Tensor]:
            start = int(torch.randint(count, (), generator=generator))
            with torch.no_grad():
                return [layer.gradient(weights[0], layer.rows.window(start, batch), batch * unit)]

        learn([rounding], gradients, config)
    with torch.no_grad():
        integers = rounding.integers()
        learnt = layer.errors(rounding.scale * integers)
    better = (learnt < nearest).to(integers.device).view(-1, *(1 for _ in integers.shape[1:]))
    chosen = torch.where(better, integers, rounding.nearest)
    return chosen, (unit, float(torch.minimum(learnt, nearest).sum()))


def learn(
    roundings: list[Rounding],
    gradients: Callable[[Sequence[Tensor]], Sequence[Tensor]],
    config: LearnedRounding,
    *more: dict[str, object],
) -> None:
    """Minimize a loss plus the pull to grid points over the rounding variables (their equation 25), with Adam.

    It ends early where every element has been decided: then nothing changes any more.

    Args:
        gradients: the derivatives of the loss in the weights as they are between grid points, in the order of
            ``roundings``.
        more: groups of other parameters to learn with them, as an optimizer takes them; ``gradients`` sets theirs.
    """
    variables = {"params": [rounding.variable for rounding in roundings], "lr": config.learning_rate}
    optimizer = torch.optim.Adam([variables, *more], fused=True)
    count = sum(rounding.variable.numel() for rounding in roundings)
    for step in range(config.iterations):
        beta = config.exponent(step)
        places = [rounding.at(beta) for rounding in roundings]
        if not more and step % DECIDED_EVERY == 0 and not any(bool(place.slope.any()) for place in places):
            break
        for rounding, place, derivative in zip(
            roundings, places, gradients([place.weight for place in places]), strict=True
        ):
            strength = config.strength * rounding.variable.numel() / count
            rounding.variable.grad = place.gradient(derivative, strength)
        optimizer.step()


def with_activation(node: Node) -> tuple[Node, ...]:
    """``node`` and what alone reads it, up to the activation function that follows it, if one does."""
    way = [node]
    while len(way[-1].users) == 1:
        user = next(iter(way[-1].users))
        if user.target in ACTIVATIONS:
            return (*way, user)
        if user.target not in NOTHING:
            break
        way.append(user)
    return (node,)


def applied(activation: tuple[Node, ...], value: Tensor) -> Tensor:
    """``value`` after the functions of these nodes, each of which works on each value alone."""
    for node in activation:
        if node.target in ACTIVATIONS:
            value = node.target(value, *node.args[1:], **node.kwargs)
    return value
