"""What a deployed file must compute, and how far it is from that."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..data import Data
from ..data.batch import with_tensors
from ..preprocessing import Preprocessed
from ..quantize import TargetName, simulate
from ..quantize.detect import detected
from ..report.schema import Parity
from ..siblings import runtimes
from ..sources.artifact import outputs_of
from ..sources.load import Network
from ..tasks.reading import Reading
from ..tasks.record import ScoreRecord, records
from ..tasks.resolve import require_fits, resolve
from ..tasks.scoring import evaluate
from ..tasks.task import Outputs, Task
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
    *,
    classes: bool = True,
) -> Parity:
    """How the file's outputs agree with those of its network, as its target rounds, on all ``batches`` together.

    What the processor of ``device``, by default this machine, computes otherwise than the target's device is evaluated
    in floats, see :meth:`compress.deploy.Deployed.load`; likewise in :func:`scores`.

    Args:
        classes: whether outputs (N, classes) tell classes, so that the first of them is to be the same.
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
    wanted, got = (_joined(file, batches) for batches in (expected, actual))
    return Parity(**asdict(runtimes.checks.check.compare(wanted, got, classes=classes)))


def compared(parity: Parity) -> runtimes.checks.check.Parity:
    """What was measured of a file, as its gate takes it."""
    check = runtimes.checks.check
    outputs = tuple(check.OutputParity(**output.model_dump()) for output in parity.outputs)
    return check.Parity(**{**parity.model_dump(), "outputs": outputs})


def _joined(file: Deployed, batches: Sequence[Sequence[NDArray[Any]]]) -> dict[str, NDArray[Any]]:
    """The outputs of all batches, by their names in the file where it tells them."""
    arrays = [_end_to_end(each) for each in zip(*batches, strict=True)]
    names = file.binding.outputs
    known = names if len(set(names)) == len(arrays) else [f"output {number}" for number in range(len(arrays))]
    return dict(zip(known, arrays, strict=True))


def _end_to_end(arrays: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """Outputs of batches as one array: along the dimension in which they differ, else along the first."""
    if not all(array.ndim == arrays[0].ndim for array in arrays) or not arrays[0].ndim:
        return np.stack(arrays)
    axes = (
        axis for axis, sizes in enumerate(zip(*(array.shape for array in arrays), strict=True)) if len(set(sizes)) > 1
    )
    return np.concatenate(arrays, next(axes, 0))


def taken(network: Network | None, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """What a file of ``network`` takes for inputs (N, ...): stored pixels, where it has preprocessing."""
    if network is not None and isinstance(network.model, Preprocessed):
        return (network.model.pixels(inputs[0]), *inputs[1:])
    return inputs


class Answers(nn.Module):
    """A loaded file as a network: inputs of the file's network to its outputs, in their nesting.

    Args:
        engine: that the file was loaded into.
        file: where its network is known, outputs are nested as its code nests them.
    """

    def __init__(self, engine: runtimes.runtime.Runtime, file: Deployed) -> None:
        super().__init__()
        self.engine, self.file = engine, file
        own = () if file.network is None else Reading.of(file.network.model).names
        self.input_names = own or tuple(tensor.name for tensor in engine.inputs)

    @cached_property
    def nesting(self) -> Outputs:
        """What the file's network returns for its example inputs; None where there is no network."""
        network = self.file.network
        if network is None:
            return None
        with torch.no_grad():
            return network.model(*network.example_inputs)

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        """As many tensors as the file has inputs; nothing else is said of them."""
        return tuple(torch.empty(0) for _ in self.engine.inputs)

    def forward(self, *inputs: Tensor) -> Outputs:
        """What the file gives for N samples."""
        arrays = [x.numpy() for x in taken(self.file.network, inputs)]
        outputs = runtimes.bound.call(self.engine, self.file.binding, arrays, batch=max(1, len(inputs[0])))
        tensors = [torch.from_numpy(np.ascontiguousarray(output)) for output in outputs]
        if self.nesting is None:
            return tensors[0] if len(tensors) == 1 else tuple(tensors)
        return with_tensors(self.nesting, tensors)


def scores(
    file: Deployed,
    data: Data,
    task: Task | str | None = None,
    threads: int = 1,
    device: runtimes.devices.device.Device | None = None,
) -> tuple[ScoreRecord, ...]:
    """The deployed file's scores on the test split, the first one first; what it gives on ``device`` is scored here.

    Args:
        task: what a batch means, or its name; left out, the one that fits.

    Raises:
        InvalidInput: the task does not fit the data and what the file gives.
    """
    engine = file.load(threads, device)
    try:
        answers = Answers(engine, file)
        resolved = resolve(task, answers, data, answers.inputs)
        if not resolved.scores:
            return ()
        require_fits(resolved, answers, data, ["test"])
        return records(resolved, evaluate(resolved, answers, data.split("test")))
    finally:
        engine.close()


def accuracy(
    file: Deployed, data: Data, threads: int = 1, device: runtimes.devices.device.Device | None = None
) -> float:
    """The share of the test split whose class the deployed file tells, in percent."""
    return scores(file, data, "classification", threads, device)[0].value
