"""What a deployed file must compute, and how far it is from that."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..data import Data
from ..preprocessing import Preprocessed
from ..quantize import TargetName, simulate
from ..quantize.detect import detected
from ..report.schema import Parity
from ..siblings import runtimes
from ..sources.artifact import outputs_of
from ..sources.load import Network
from .deployed import Deployed


def reference(network: Network, target: TargetName | None = None) -> Callable[..., tuple[Tensor, ...]]:
    """What a deployed file must compute: the network, or its simulation in integers where it is quantized."""
    model = network.model
    if network.encodings:
        target = target or detected().target
        model = simulate(network.model, network.encodings, network.example_inputs, target=target)

    def run(*inputs: Tensor) -> tuple[Tensor, ...]:
        return outputs_of(model, inputs)

    return run


def parity_on(
    file: Deployed,
    batches: Sequence[tuple[Tensor, ...]],
    threads: int = 1,
    device: runtimes.devices.device.Device | None = None,
) -> Parity:
    """How the file's outputs agree with those of its network, as its target rounds, on all ``batches`` together.

    What the processor of ``device``, by default this machine, computes otherwise than the target's device is evaluated
    in floats, see :meth:`compress.deploy.Deployed.load`; likewise in :func:`accuracy`.
    """
    assert file.network is not None, f"{file.name}: its network is needed to know what it must compute"
    run = reference(file.network, file.target)
    engine = file.load(threads, device)
    expected: list[list[NDArray[Any]]] = []
    actual: list[list[NDArray[Any]]] = []
    try:
        for inputs in batches:
            actual.append(runtimes.bound.call(engine, file.binding, [x.numpy() for x in inputs]))
            expected.append([tensor.numpy() for tensor in run(*inputs)])
    finally:
        engine.close()
    return Parity(**asdict(runtimes.checks.check.compare(_joined(expected), _joined(actual))))


def _joined(batches: Sequence[Sequence[NDArray[Any]]]) -> dict[str, NDArray[Any]]:
    return {f"{number:03}": _end_to_end(arrays) for number, arrays in enumerate(zip(*batches, strict=True))}


def _end_to_end(arrays: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """Outputs of batches as one array: along the dimension in which they differ, else along the first."""
    if not all(array.ndim == arrays[0].ndim for array in arrays) or not arrays[0].ndim:
        return np.stack(arrays)
    axes = (
        axis for axis, sizes in enumerate(zip(*(array.shape for array in arrays), strict=True)) if len(set(sizes)) > 1
    )
    return np.concatenate(arrays, next(axes, 0))


def taken(network: Network | None, x: Tensor) -> Tensor:
    """What a file of ``network`` takes for the inputs ``x`` (N, ...): stored pixels, where it has preprocessing."""
    if network is not None and isinstance(network.model, Preprocessed):
        return network.model.pixels(x)
    return x


def accuracy(
    file: Deployed, data: Data, threads: int = 1, device: runtimes.devices.device.Device | None = None
) -> float:
    """The deployed file's accuracy on the test split, in percent; what it gives on ``device`` is scored here."""
    engine = file.load(threads, device)

    def answers() -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
        for x, y in data.split("test").batches(256):
            if y is not None:
                yield (
                    runtimes.bound.call(engine, file.binding, [taken(file.network, x).numpy()], batch=256)[0],
                    y.numpy(),
                )

    try:
        percent: float = runtimes.checks.check.top1(answers())
    finally:
        engine.close()
    return percent


def some(data: Data, count: int) -> tuple[list[tuple[Tensor, ...]], Tensor | None]:
    """The first ``count`` samples of the test split in batches, and their labels if they have any."""
    batches: list[tuple[Tensor, ...]] = []
    labels: list[Tensor] = []
    seen = 0
    for x, y in data.split("test").batches(min(256, count)):
        held = x[: count - seen]
        batches.append((held,))
        if y is not None:
            labels.append(y[: len(held)])
        seen += len(held)
        if seen >= count:
            break
    return batches, torch.cat(labels) if labels else None
