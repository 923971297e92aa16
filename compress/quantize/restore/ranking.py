"""Which rounding hurts most: each alone in integers, by how far the outputs are from those of the float network."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ...integers.encoding import IntegerParameters
from ...stage import Context
from ...tasks.noise import Noise
from ..budget.sensitivity import batches_of, scored_split
from ..budget.variants import Program, Rounder, Variant
from .tensors import Rounded, Roundings

SAMPLES = 128
"""That the order is told on: it takes few, as each rounding is looked at by all outputs, not by a score."""


def ranked(roundings: Roundings, context: Context) -> tuple[Rounded, ...]:
    """The tensors that rounding changes, the one first whose rounding alone makes the most noise at the outputs.

    The noise is the mean over outputs, and over parts of them that others would drown: see
    :class:`compress.tasks.noise.Noise`. That of several roundings adds up where they are independent, so that the first
    ones take the most of it with them.

    Raises:
        InvalidInput: there are no samples, or they do not fit the network.
    """
    whole = Rounder(roundings.graph, roundings.plan.target).variant(roundings.plan.encodings)
    alone = {tensor: variant for tensor in roundings.tensors if (variant := _alone(roundings, whole, tensor))}
    tensors, variants = list(alone), list(alone.values())
    noises = [Noise() for _ in tensors]
    program, seen = Program(roundings.graph), 0
    split, _ = scored_split(context)
    total = min(SAMPLES, max(1, len(split)))
    for inputs, _ in batches_of(split, context, SAMPLES):
        context.progress("rank roundings", seen, total)
        with torch.no_grad():
            exact = _floats(next(result for _, result in program.outputs(inputs, Variant({}, {}), ())))
            for number, result in program.outputs(inputs, Variant({}, {}), variants):
                if number is not None:
                    noises[number].see(_floats(result), exact)
        seen += len(inputs[0])
    context.progress("rank roundings", total, total)
    order = sorted(range(len(tensors)), key=lambda number: -noises[number].ratio)
    return tuple(tensors[number] for number in order)


def _alone(roundings: Roundings, whole: Variant, tensor: Rounded) -> Variant | None:
    """The network in float but for ``tensor``; None where nothing rounds it."""
    if tensor.is_weight:
        nodes = [each.layer.node.name for each in roundings.plan.layers if each.layer.weight in tensor.names]
        tensors = {name: whole.tensors[name] for name in nodes if name in whole.tensors}
        return Variant({}, tensors) if tensors else None
    values = {name: whole.values[name] for name in tensor.names if name in whole.values}
    reads: dict[str, IntegerParameters] = {
        each.layer.node.name: whole.reads[each.layer.node.name]
        for each in roundings.plan.layers
        if each.layer.read in tensor.names and each.layer.node.name in whole.reads
    }
    floats: Mapping[str, Mapping[str, Tensor]] = {name: {} for name in reads}
    return Variant(values, floats, reads) if values or reads else None


def _floats(results: tuple[Tensor, ...]) -> list[Tensor]:
    return [result for result in results if result.is_floating_point()]
