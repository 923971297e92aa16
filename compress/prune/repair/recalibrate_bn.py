"""The statistics of batch norms, taken again on calibration samples."""

from __future__ import annotations

from itertools import islice
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from ...data import Split
from ...graph.modes import evaluating
from ...stage import Skip
from ...tasks.reading import ONE_INPUT
from ...tasks.task import Inputs
from ...training.batch_norm import inputs_for, reestimate_batch_norm
from . import Account, Damage, Repair

BATCHES, BATCH = 16, 32


class RecalibrateBn(Repair):
    """Take the statistics of batch norms again (:func:`compress.training.batch_norm.reestimate_batch_norm`).

    Statistics that lead the outputs away from the original's are not taken, as where the calibration samples are
    other pictures than those of the training.
    """

    place: ClassVar[int] = 20

    def apply(self, damage: Damage) -> Account:
        """The batch norms that were measured again, none where that makes the outputs worse."""
        return _measured_again(damage)


def _measured_again(damage: Damage) -> Account:
    """:func:`reestimate_batch_norm`, undone where it makes the outputs worse."""
    original, pruned, split = damage.original, damage.pruned, damage.samples
    seed, read = damage.context.seed, damage.context.read
    before = {name: value.clone() for name, value in pruned.named_buffers()}
    error_before = output_error(original, pruned, split, seed, read)
    measured, skipped = reestimate_batch_norm(pruned, split, augment=damage.augment, seed=seed, read=read)
    if not measured:
        return (), skipped
    error = output_error(original, pruned, split, seed, read)
    if error <= error_before:
        return measured, skipped
    for name, value in before.items():
        pruned.get_buffer(name).copy_(value)
    reason = (
        f"batch norm statistics are not measured again: that leads the outputs away from the original's (relative "
        f"error {error_before:.4g} to {error:.4g}); they may be of a training with augmentation"
    )
    return (), (*skipped, Skip("", reason))


def output_error(original: nn.Module, other: nn.Module, split: Split, seed: int = 0, read: Inputs = ONE_INPUT) -> float:
    """The squared difference of two networks' outputs over the squared outputs of the first, on up to 512 samples."""
    difference = total = 0.0
    with torch.no_grad(), evaluating(original, other):
        for batch in islice(split.batches(BATCH, shuffle_seed=(seed, 0)), BATCHES):
            inputs = inputs_for(other, read(batch))
            for a, b in zip(_outputs(original, inputs), _outputs(other, inputs), strict=True):
                difference += float((a - b).square().sum())
                total += float(a.square().sum())
    return difference / total if total else difference


def _outputs(model: nn.Module, inputs: tuple[Tensor, ...]) -> list[Tensor]:
    leaves = tree_leaves(model(*inputs))
    return [leaf.double() for leaf in leaves if isinstance(leaf, Tensor) and leaf.is_floating_point()]
