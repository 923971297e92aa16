"""The samples that data-driven criteria look at: a few batches of the train split, as they are stored."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ...data import Split
from ...data.batch import moved, part_of
from ...errors import InvalidInput
from ...stage import Context
from ...tasks.task import Batch

BATCH = 32

Sampled = tuple[tuple[Tensor, ...], Batch]
"""The network's inputs, batch first, and the batch that they are of."""


def sample_batches(context: Context, criterion: str, batches: int, size: int = BATCH) -> Iterator[Sampled]:
    """At most ``batches`` batches of at most ``size`` samples, drawn by the context's seed from the train split (or
    calibration, where there is no train split), without augmentation, on the device of the example inputs.

    Raises:
        InvalidInput: there is no such data, or its samples are not what the network was traced on.
    """
    split, name = _split(context, criterion)
    done = 0
    for whole in split.batches(size, shuffle_seed=(context.seed, 0)):
        inputs = context.read(whole)
        _require_fitting(inputs, context, criterion, name)
        count = len(inputs[0])
        for start in range(0, count, size):
            batch = moved(part_of(whole, count, slice(start, start + size)), context.example_inputs[0].device)
            yield context.read(batch), batch
            done += 1
            context.progress("score channels", done, batches, criterion)
            if done == batches:
                return
    if not done:
        raise InvalidInput(f"prune: criterion {criterion}: the {name} split is empty; give --data with samples")


def _split(context: Context, criterion: str) -> tuple[Split, str]:
    if context.data is None:
        raise InvalidInput(
            f"prune: criterion {criterion} looks at samples, and no data is given; give --data, "
            "or a criterion of the weights alone, as l2"
        )
    for name in ("train", "calibration"):
        if name in context.data.splits:
            return context.data.split(name), name
    raise InvalidInput(
        f"prune: criterion {criterion} looks at train or calibration samples, and data {context.data.name} has only "
        f"{', '.join(context.data.splits)}; give --data with one of these"
    )


def _require_fitting(inputs: tuple[Tensor, ...], context: Context, criterion: str, split: str) -> None:
    shapes = [tuple(x.shape[1:]) for x in inputs]
    expected = [tuple(x.shape[1:]) for x in context.example_inputs]
    if shapes != expected:
        raise InvalidInput(
            f"prune: criterion {criterion}: the {split} samples have the shapes {shapes}, and the network was given "
            f"{expected} as example inputs; give --data and --input-shape that agree"
        )
    if not all(bool(torch.isfinite(x).all()) for x in inputs):
        raise InvalidInput(f"prune: criterion {criterion}: the {split} samples hold NaN or infinity")
