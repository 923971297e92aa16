"""The repair of a network after its channels were cut, without training."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Literal

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from ..data import Split
from ..errors import InvalidInput
from ..stage import Context, Edit, Skip
from .reconstruct import reconstruct
from .statistics import inputs_for, reestimate_batch_norm

BATCHES, BATCH = 16, 32


def repair(
    original: nn.Module,
    pruned: nn.Module,
    edits: Iterable[Edit],
    context: Context,
    *,
    refit: bool = True,
    reestimate: bool = True,
    augment: Sequence[Literal["flip", "crop", "cutout"]] = (),
) -> tuple[tuple[Edit, ...], tuple[Skip, ...]]:
    """What was repaired in ``pruned``, in place, and what was not: first the weights that read cut channels are refit
    (:func:`reconstruct`), then batch norms are measured again (:func:`reestimate_batch_norm`), on calibration samples.

    Statistics that lead the outputs away from the original's are not taken, as where the calibration samples are
    other pictures than those of the training.

    Args:
        edits: those that made ``pruned`` out of ``original``.
        augment: what the network was trained with, for the statistics.

    Raises:
        InvalidInput: there are no calibration samples.
    """
    if not (refit or reestimate):
        return (), ()
    if context.data is None:
        raise InvalidInput("prune: repairing the network needs calibration samples; give --data or leave it out")
    split = context.data.split("calibration")
    done: list[Edit] = []
    left: list[Skip] = []
    if refit:
        refitted, kept = reconstruct(original, pruned, edits, split, seed=context.seed, progress=context.progress)
        done += refitted
        left += kept
    if reestimate:
        measured, unmeasured = _measured_again(original, pruned, split, augment, context.seed)
        done += measured
        left += unmeasured
    return tuple(done), tuple(left)


def _measured_again(
    original: nn.Module,
    pruned: nn.Module,
    split: Split,
    augment: Sequence[Literal["flip", "crop", "cutout"]],
    seed: int,
) -> tuple[tuple[Edit, ...], tuple[Skip, ...]]:
    """:func:`reestimate_batch_norm`, undone where it makes the outputs worse."""
    before = {name: value.clone() for name, value in pruned.named_buffers()}
    error_before = output_error(original, pruned, split, seed)
    measured, skipped = reestimate_batch_norm(pruned, split, augment=augment, seed=seed)
    if not measured:
        return (), skipped
    error = output_error(original, pruned, split, seed)
    if error <= error_before:
        return measured, skipped
    for name, value in before.items():
        pruned.get_buffer(name).copy_(value)
    reason = (
        f"batch norm statistics are not measured again: that leads the outputs away from the original's (relative "
        f"error {error_before:.4g} to {error:.4g}); they may be of a training with augmentation"
    )
    return (), (*skipped, Skip("", reason))


def output_error(original: nn.Module, other: nn.Module, split: Split, seed: int = 0) -> float:
    """The squared difference of two networks' outputs over the squared outputs of the first, on up to 512 samples."""
    difference = total = 0.0
    modes = [(module, module.training) for network in (original, other) for module in network.modules()]
    original.eval()
    other.eval()
    with torch.no_grad():
        for x, _ in islice(split.batches(BATCH, shuffle_seed=(seed, 0)), BATCHES):
            inputs = inputs_for(other, x)
            for a, b in zip(_outputs(original, inputs), _outputs(other, inputs), strict=True):
                difference += float((a - b).square().sum())
                total += float(a.square().sum())
    for module, training in modes:
        module.training = training
    return difference / total if total else difference


def _outputs(model: nn.Module, inputs: tuple[Tensor, ...]) -> list[Tensor]:
    leaves = tree_leaves(model(*inputs))
    return [leaf.double() for leaf in leaves if isinstance(leaf, Tensor) and leaf.is_floating_point()]
