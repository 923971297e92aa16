"""What accuracy and cross-entropy are of: an output of (N, classes) and a class for each sample. Both are checked here.

Other networks and labels would broadcast against each other to figures that mean nothing.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from ..data import Data, SampleSplit, SplitName
from ..errors import InvalidInput, first_line

_OTHERWISE = "give samples without labels, as x_calib in an .npz, for what needs none"


def require_labels(labels: Tensor, samples: int, where: str) -> None:
    """Raise InvalidInput unless ``labels`` are ``samples`` integers of 0 or more; ``where`` begins the message."""
    whole = not labels.is_floating_point() and not labels.is_complex() and labels.dtype != torch.bool
    if labels.shape != (samples,) or not whole:
        kind = str(labels.dtype).removeprefix("torch.")
        raise InvalidInput(
            f"{where}: expected a class, an integer, for each of {samples} samples, got {kind} of the shape "
            f"{tuple(labels.shape)}; accuracy and training here are of classifiers"
        )
    if samples and int(labels.min()) < 0:
        raise InvalidInput(f"{where}: expected classes from 0 on, got {int(labels.min())}; leave such samples out")


def class_scores(outputs: object, labels: Tensor, where: str) -> Tensor:
    """``outputs``, (N, classes), which have a class for each of the N ``labels``; raises InvalidInput."""
    require_labels(labels, len(labels) if labels.ndim else 1, where)
    if not isinstance(outputs, Tensor) or outputs.ndim != 2 or len(outputs) != len(labels):
        got = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
        raise InvalidInput(
            f"{where}: expected a classifier, whose output for {len(labels)} samples is ({len(labels)}, classes), and "
            f"the network gives {got}; {_OTHERWISE}"
        )
    _require_known(labels, outputs.shape[1], where)
    return outputs


def require_classifier(model: nn.Module, data: Data, names: Iterable[SplitName]) -> None:
    """Raise InvalidInput unless ``model`` is a classifier for the labels of these splits of ``data``, if they have any.

    One sample of each split is run; all labels are looked at where they are in memory.
    """
    for name in names:
        if name not in data.splits:
            continue
        split, where = data.splits[name], f"data {data.name}: {name} split"
        x, labels = next(split.batches(1), (None, None))
        if x is None or labels is None:
            continue
        scores = class_scores(_outputs(model, x, f"data {data.name}"), labels, where)
        if isinstance(split, SampleSplit) and split.labels is not None:
            require_labels(split.labels, len(split), where)
            _require_known(split.labels, scores.shape[1], where)


def _require_known(labels: Tensor, classes: int, where: str) -> None:
    if len(labels) and int(labels.max()) >= classes:
        raise InvalidInput(
            f"{where}: labels go up to {int(labels.max())}, and the network has {classes} classes, 0 to {classes - 1}"
        )


def _outputs(model: nn.Module, x: Tensor | tuple[Tensor, ...], where: str) -> object:
    inputs = x if isinstance(x, tuple) else (x,)
    training = model.training
    try:
        with torch.no_grad():
            outputs: object = model.eval()(*inputs)
    except Exception as error:
        shapes = ", ".join(str(tuple(each.shape)) for each in inputs)
        reason = first_line(error)
        raise InvalidInput(f"{where}: the network does not run on its samples, {shapes}: {reason}") from error
    finally:
        model.train(training)
    return outputs
