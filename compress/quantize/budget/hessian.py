"""How much rounding each layer costs by the curvature of the loss, without running the rounded network.

Dong et al., "HAWQ-V2: Hessian Aware trace-Weighted Quantization of Neural Networks" (2020), equation 2.11: the mean of
the diagonal of the Hessian over a layer's weights, times the squared error of rounding them. The trace comes from
products with random signs (Hutchinson's method). Activations have no part in it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from pydantic import Field
from torch import Tensor, nn

from ...data.batch import mapped
from ...errors import InvalidInput
from ...integers.plan import Plan, plan_of
from ...integers.target import target_named
from ...stage import Config, Context, Progress, Samples, silent
from ...tasks.task import Batch, Task
from ...training.gradients import differentiable
from ..ranges.calibration import calibration_split
from .precisions import Candidates, Unit
from .sensitivity import PrecisionSensitivity, UnitSensitivity, batches_of
from .variants import on_grid

Sampled = tuple[tuple[Tensor, ...], Batch]
"""The network's inputs, and the batch that they are of."""


@dataclass(frozen=True)
class Trace:
    """The trace of the Hessian of the loss with respect to one tensor.

    Args:
        value: the mean of what random signs gave.
        error: its standard error.
    """

    value: float
    error: float


class HessianScan(Config):
    """Measure the curvature of the loss on calibration samples.

    Args:
        samples: of the calibration split, its first ones.
        draws: of random signs for each batch of 50.
    """

    samples: Samples = 256
    draws: int = Field(8, ge=1, le=10_000)

    def measure(self, candidates: Candidates, context: Context) -> PrecisionSensitivity:
        """What each layer costs in 4 and 8 bits by :func:`perturbation`.

        The loss is the task's on the calibration split; of a task without labels, the match to the network itself.

        Raises:
            InvalidInput: there are no samples, or the loss cannot be differentiated twice.
        """
        context = context.of(candidates.model)
        split = calibration_split(context)
        seen = min(self.samples, len(split))
        traces = hessian_traces(
            candidates.model,
            [unit.tensor for unit in candidates.units],
            batches_of(split, context, self.samples),
            context.task_of(candidates.model),
            draws=self.draws,
            seed=context.seed,
            progress=context.progress,
            total=seen,
        )
        plans = [
            plan_of(candidates.graph, {**candidates.encodings, **weights}, target_named(candidates.target))
            for weights in (candidates.weights["int4"], candidates.weights["int8"])
        ]
        layers = []
        for unit, trace in zip(candidates.units, traces, strict=True):
            mean = max(0.0, trace.value) / unit.tensor.numel()
            four, eight = (mean * perturbation(planned, unit) for planned in plans)
            layers.append(
                UnitSensitivity(
                    layers=unit.layers,
                    weight=unit.name,
                    parameters=unit.tensor.numel(),
                    precisions=("int4", "int8", "float"),
                    hessian=(four, eight, 0.0),
                    trace=trace.value / unit.tensor.numel(),
                )
            )
        return PrecisionSensitivity(samples=seen, split="calibration", layers=tuple(layers))


def hessian_traces(
    model: nn.Module,
    tensors: Sequence[Tensor],
    batches: Iterable[Sampled],
    task: Task,
    *,
    draws: int = 8,
    seed: int = 0,
    progress: Progress = silent,
    total: int = 1,
) -> tuple[Trace, ...]:
    """The trace of the Hessian of the mean loss with respect to each of ``tensors``, parameters of ``model``.

    ``E[z' H z]`` for signs z is the trace of H. One draw of signs for all tensors serves each of them: what two tensors
    have in common has the mean 0. ``model`` is in evaluation mode.

    Args:
        batches: inputs, and the batches that they are of.
        task: whose loss it is; where it has none, its match to the network's own outputs, whose Hessian is that of
            Gauss and Newton.
        draws: of signs for each batch.
        total: samples in all, for the progress.

    Raises:
        InvalidInput: the task does not fit the network, or an operation has no second derivative.
    """
    generator = torch.Generator().manual_seed(seed)
    estimates: list[list[float]] = [[] for _ in tensors]
    counts: list[int] = []
    seen = 0
    with differentiable(tensors):
        for inputs, batch in batches:
            progress("curvature", seen, total)
            count = len(inputs[0])
            try:
                gradients = torch.autograd.grad(
                    _loss(task, model, inputs, batch), tensors, create_graph=True, materialize_grads=True
                )
                for _ in range(draws):
                    signs = [_signs(tensor, generator) for tensor in tensors]
                    products = _products(gradients, tensors, signs)
                    for values, sign, product in zip(estimates, signs, products, strict=True):
                        values.append(float((sign * product).double().sum()))
                    counts.append(count)
            except RuntimeError as error:
                first_line = (str(error).strip().splitlines() or ["unknown"])[0]
                raise InvalidInput(
                    f"sensitivity: the loss cannot be differentiated twice ({first_line}); take the sensitivity snr"
                ) from error
            seen += count
    progress("curvature", seen, max(1, seen))
    if not seen:
        raise InvalidInput("sensitivity: the calibration split is empty; give --data with samples")
    return tuple(_mean(values, counts) for values in estimates)


def perturbation(planned: Plan, unit: Unit) -> float:
    """The squared error of rounding the weight of ``unit`` as planned, summed over it."""
    weight = planned.of_nodes[unit.products[0].node.name].weight
    if weight is None:  # the target computes it in float
        return 0.0
    tensor = unit.tensor.detach()
    return float((on_grid(tensor, weight.parameters) - tensor).double().square().sum())


def _signs(tensor: Tensor, generator: torch.Generator) -> Tensor:
    signs = torch.randint(0, 2, tensor.shape, generator=generator).to(tensor)
    return 2 * signs - 1


def _products(gradients: Sequence[Tensor], tensors: Sequence[Tensor], signs: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """The Hessian times ``signs``."""
    curved = [(gradient, sign) for gradient, sign in zip(gradients, signs, strict=True) if gradient.requires_grad]
    if not curved:
        return tuple(torch.zeros_like(tensor) for tensor in tensors)
    return torch.autograd.grad(
        [gradient for gradient, _ in curved],
        list(tensors),
        [sign for _, sign in curved],
        retain_graph=True,
        materialize_grads=True,
    )


def _loss(task: Task, model: nn.Module, inputs: tuple[Tensor, ...], batch: Batch) -> Tensor:
    """The loss of labels, or the match to the network's own outputs, which is 0 and curved."""
    outputs = model(*inputs)
    if task.loss is None or task.self_supervised:
        return task.match(outputs, mapped(outputs, Tensor.detach))
    return task.loss(outputs, batch)


def _mean(values: Sequence[float], counts: Sequence[int]) -> Trace:
    total = sum(counts)
    mean = sum(count * value for count, value in zip(counts, values, strict=True)) / total
    if len(values) < 2:
        return Trace(mean, math.inf)
    spread = sum(count * (value - mean) ** 2 for count, value in zip(counts, values, strict=True)) / total
    return Trace(mean, math.sqrt(spread / (len(values) - 1)))
