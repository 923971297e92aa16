"""The one output and the labels that a task is about; what is none of the kind is told of in one line."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ..errors import InvalidInput
from .reading import Reading
from .task import Batch, Outputs

_OTHERWISE = "name another task (--task), or take the task outputs, which needs no labels"


def output_of(outputs: Outputs, where: str) -> Tensor:
    """The floats that the network returns: a tensor, or what a mapping has under ``out``, as torchvision's do.

    Raises:
        InvalidInput: it returns something else; ``where`` begins the message.
    """
    output = outputs.get("out") if isinstance(outputs, Mapping) else outputs
    if not isinstance(output, Tensor) or not output.is_floating_point():
        got = f"a mapping of {', '.join(map(str, outputs))}" if isinstance(outputs, Mapping) else kind_of(output)
        raise InvalidInput(
            f"{where}: expected a network with one output of floats, or one called out, got {got}; {_OTHERWISE}"
        )
    return output


def labels_of(reading: Reading, batch: Batch, where: str) -> Tensor:
    """The labels of a batch, a tensor.

    Raises:
        InvalidInput: the batch has none, or others; ``where`` begins the message.
    """
    labels = reading.labels(batch)
    if not isinstance(labels, Tensor):
        got = "none" if labels is None else type(labels).__name__
        raise InvalidInput(f"{where}: expected labels, a tensor (N, ...), and the batch has {got}; {_OTHERWISE}")
    return labels


def same_shape(student: Outputs, teacher: Outputs) -> tuple[Tensor, Tensor]:
    """The outputs of two networks, of one shape.

    Raises:
        InvalidInput: they differ.
    """
    mine, theirs = output_of(student, "match"), output_of(teacher, "match")
    if mine.shape != theirs.shape:
        raise InvalidInput(
            f"match: expected outputs of the same shape, got {tuple(mine.shape)} and the teacher's "
            f"{tuple(theirs.shape)}; give a teacher of the same outputs"
        )
    return mine, theirs


def unfit(where: str, expected: str, output: Tensor, labels: Tensor) -> InvalidInput:
    """The error that outputs and labels are not those of a task; ``expected`` says which are, and of which task."""
    return InvalidInput(
        f"{where}: expected {expected}, got the output {kind_of(output)} and labels {kind_of(labels)}; {_OTHERWISE}"
    )


def kind_of(value: object) -> str:
    """The type and the shape of a tensor, for people; of anything else the type."""
    if not isinstance(value, Tensor):
        return type(value).__name__
    return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"


def is_whole(labels: Tensor) -> bool:
    """Whether labels are integers; truths are none."""
    return not labels.is_floating_point() and not labels.is_complex() and labels.dtype != torch.bool
