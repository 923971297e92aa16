"""The running statistics of batch norms, measured again: after a cut, the activations are no longer what they were."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..data import Split
from ..errors import InvalidInput
from ..stage import Edit, Skip
from ..tasks.reading import ONE_INPUT
from ..tasks.task import Batch, Inputs
from .augmentation import augmentation


def reestimate_batch_norm(
    model: nn.Module,
    split: Split,
    *,
    batches: int = 16,
    batch_size: int = 128,
    augment: Sequence[Literal["flip", "crop", "cutout"]] = (),
    seed: int = 0,
    read: Inputs = ONE_INPUT,
) -> tuple[tuple[Edit, ...], tuple[Skip, ...]]:
    """What was measured again and what was not: the mean and variance of every batch norm of ``model``, in place.

    They become the averages of the batch means and of the unbiased batch variances over up to ``batches`` batches, all
    counting alike (torch's ``momentum=None``), in the place of the moving averages that a training leaves (Ioffe and
    Szegedy, "Batch Normalization", 2015, section 3.1). Within a pass each batch norm normalizes by its batch, as in a
    training; all else (dropout, the weights) stays as in evaluation. The mode of every module is given back, a batch
    norm that was not reached keeps its statistics, and a network without batch norms stays as it is.

    Args:
        batches: drawn from the split without repetition, each of ``batch_size`` samples, or of all where it has fewer.
        augment: as :class:`compress.training.loop.Training` has it. Statistics belong to the pictures of the
            training: those of a network trained with ``crop``, which pads with black, are others without it.
        read: the network's inputs out of a batch.

    Raises:
        InvalidInput: the split is empty, or a batch leaves a single value per channel, which has no variance.
    """
    norms = {name: module for name, module in model.named_modules() if isinstance(module, _BatchNorm)}
    measured = {name: norm for name, norm in norms.items() if norm.running_mean is not None}
    skipped = [Skip(n, "has no running statistics: it always takes the batch's") for n in norms if n not in measured]
    if not measured:
        return (), tuple(skipped)
    modes = {module: module.training for module in model.modules()}
    momenta = {name: norm.momentum for name, norm in measured.items()}
    before = {name: {key: value.clone() for key, value in norm.named_buffers()} for name, norm in measured.items()}
    reached: set[str] = set()
    model.eval()
    for norm in measured.values():
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    try:
        seen = _pass(model, islice(_drawn(split, batch_size, augment, seed), batches), read)
        reached = {name for name, norm in measured.items() if norm.num_batches_tracked}
    finally:
        for module, training in modes.items():
            module.training = training
        for name, norm in measured.items():
            norm.momentum = momenta[name]
            if name not in reached:
                for key, value in before[name].items():
                    norm.get_buffer(key).copy_(value)
    skipped += [Skip(name, "is not called: its statistics stay") for name in measured if name not in reached]
    edits = [
        Edit(name, "running statistics", "of the training", f"of {seen} calibration samples", kind="weights")
        for name in measured
        if name in reached
    ]
    return tuple(edits), tuple(skipped)


def _drawn(split: Split, batch_size: int, augment: Sequence[str], seed: int) -> Iterator[Batch]:
    def augmented(x: Tensor, labels: Any, generator: torch.Generator) -> tuple[Tensor, Any]:
        return augmentation(x, labels, generator, augment)

    return split.batches(batch_size, shuffle_seed=(seed, 0), augment=augmented if augment else None)


def _pass(model: nn.Module, batches: Iterable[Batch], read: Inputs) -> int:
    """Run the batches; the number of samples that they had."""
    seen = 0
    with torch.no_grad():
        for batch in batches:
            inputs = inputs_for(model, read(batch))
            try:
                model(*inputs)
            except ValueError as error:
                if "more than 1 value per channel" not in str(error):
                    raise
                raise InvalidInput(
                    f"batch norm: {len(inputs[0])} sample(s) leave one value per channel, which has no variance; "
                    "give more calibration samples"
                ) from error
            seen += len(inputs[0])
    if not seen:
        raise InvalidInput("batch norm: the calibration split is empty; give it samples")
    return seen


def inputs_for(model: nn.Module, inputs: Iterable[Tensor]) -> tuple[Tensor, ...]:
    """Inputs as ``model`` takes them: on its device, in its precision."""
    like = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
    return tuple(x.to(like) if x.is_floating_point() else x.to(like.device) for x in inputs)


def drawn_inputs(
    model: nn.Module, split: Split, samples: int, seed: int = 0, read: Inputs = ONE_INPUT, batch_size: int = 32
) -> list[tuple[Tensor, ...]]:
    """Inputs for ``model`` of up to ``samples`` samples of the split, in random order, batch by batch."""
    batches: list[tuple[Tensor, ...]] = []
    seen = 0
    for batch in split.batches(min(batch_size, max(1, len(split))), shuffle_seed=(seed, 0)):
        inputs = tuple(part[: samples - seen] for part in inputs_for(model, read(batch)))
        seen += len(inputs[0])
        batches.append(inputs)
        if seen >= samples:
            break
    return batches
