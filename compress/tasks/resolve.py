"""The task of a network and its data: the one that is named, or the one that fits."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ..data.split import Data, SampleSplit, Split, SplitName
from ..errors import CompressError, InvalidInput, first_line
from ..graph.modes import evaluating
from ..siblings import runtimes
from . import built_in
from .built_in.outputs import Reference
from .checked import checked
from .reading import Reading
from .task import Batch, Outputs, Task

_LOG = logging.getLogger(__name__)
_told: set[str] = set()
LABELLED: tuple[SplitName, ...] = ("train", "validation", "test", "calibration")


def resolve(
    wanted: Task | str | None, model: nn.Module, data: Data | None, example_inputs: tuple[Tensor, ...] = ()
) -> Task:
    """The task ``wanted``, or where that is None the one that fits: ``classification`` where the network has one output
    (N, classes) and the data an integer for each sample, ``segmentation`` where it has one (N, classes, H, W) and the
    data a map (N, H, W) of integers, and else ``outputs``.

    Args:
        model: the network; its number of inputs tells which parts of a batch are inputs.
        example_inputs: that it takes.

    Raises:
        InvalidInput: there is no task of this name.
    """
    reading = Reading.of(model, example_inputs)
    wanted = read_task(wanted)
    if isinstance(wanted, Task):
        return _bindable(checked(wanted, reading))
    if wanted is None:
        wanted = _fitting(model, data, reading)
    return built_in.named(wanted, reading)


def read_task(words: Task | str | None) -> Task | str | None:
    """The task of the user's that ``words`` name (``file.py:task``); a task, or the name of one of the project's, as it
    is.

    Raises:
        InvalidInput: there is none.
    """
    if not isinstance(words, str):
        return words
    if ":" in words:
        return built_in.user_task(words)
    built_in.named(words, Reading())  # or it is told that there is none
    return words


def inputs_of(task: Task | str | None, model: nn.Module, batch: Batch) -> tuple[Tensor, ...]:
    """The inputs of ``model`` out of a batch: as the task reads them, or by what the network takes.

    Raises:
        InvalidInput: the batch does not hold them.
    """
    reading, wanted = Reading.of(model), read_task(task)
    return checked(wanted, reading).read(batch) if isinstance(wanted, Task) else reading.inputs(batch)


def require_fits(task: Task, model: nn.Module, data: Data, names: Iterable[SplitName]) -> None:
    """Raise InvalidInput unless ``model`` and these splits of ``data`` are of the task, where they exist.

    One sample of each split is run; of labels in memory all are looked at.
    """
    if task.fits is None:
        return
    for name in names:
        split = data.splits.get(name)
        batch = None if split is None else next(iter(split.batches(1)), None)
        if split is None or batch is None:
            continue
        where = f"data {data.name}: {name} split"
        outputs = outputs_on(model, task.read(batch), f"data {data.name}")
        task.fits(outputs, batch, where)
        for labels in split.labels_in_memory() if isinstance(split, SampleSplit) else ():
            task.fits(outputs, (batch[0], labels), where)


def outputs_on(model: nn.Module, inputs: tuple[Tensor, ...], where: str) -> Outputs:
    """What ``model`` returns for ``inputs`` in evaluation mode; its modes are given back.

    Raises:
        InvalidInput: it does not run on them; ``where`` begins the message.
    """
    try:
        with torch.no_grad(), evaluating(model):
            return model(*inputs)
    except (CompressError, runtimes.errors.RuntimesError):  # a file on a device that failed, say
        raise
    except Exception as error:
        shapes = ", ".join(str(tuple(each.shape)) for each in inputs)
        reason = first_line(error)
        raise InvalidInput(f"{where}: the network does not run on its samples, {shapes}: {reason}") from error


def _bindable(task: Task) -> Task:
    """The task; one without a loss is drawn to the outputs of a reference network that is still to be named."""
    if task.loss is not None or task.bound is not None:
        return task

    def bound(reference: nn.Module) -> Task:
        assert task.inputs is not None, "it was resolved"
        network = Reference(reference, task.inputs)

        def loss(outputs: Outputs, batch: Batch) -> Tensor:
            return task.match(outputs, network.outputs(batch))

        return replace(task, loss=loss, bound=None, self_supervised=True)

    return replace(task, bound=bound)


def _fitting(model: nn.Module, data: Data | None, reading: Reading) -> str:
    """The name of the task that fits; labels that are of none are told of."""
    for batch in _first_batches(data.splits.get(name) for name in LABELLED) if data is not None else ():
        labels = reading.labels(batch)
        if labels is None:
            continue
        outputs = outputs_on(model, reading.inputs(batch), f"data {data.name}" if data is not None else "data")
        name = built_in.fitting(outputs, labels)
        if name is not None:
            return name
        if data is not None and data.name not in _told:
            _told.add(data.name)
            _LOG.warning(
                "data %s: its labels are not used: no task takes them, and what the network returns, by itself; "
                "networks are held against their own outputs (task %s); name a task with --task",
                data.name,
                built_in.WITHOUT_LABELS,
            )
        break
    return built_in.WITHOUT_LABELS


def _first_batches(splits: Iterable[Split | None]) -> Iterator[Any]:
    for split in splits:
        batch: Batch = None if split is None else next(iter(split.batches(1)), None)
        if batch is not None:
            yield batch
