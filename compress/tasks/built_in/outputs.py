"""The task without labels: to give the outputs of a reference network, by default of the network as it was."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from ...errors import InvalidInput
from ...graph.parametrized import evaluation_copy
from ..difference import relative_difference
from ..noise import Noise
from ..reading import Reading
from ..task import Batch, Inputs, Outputs, Task

SCORE = "SNR"


def task(reading: Reading) -> Task:
    """The task of giving the outputs of a network that is still to be named; see :meth:`Task.against`.

    The score is the signal to noise ratio to the reference's outputs, in dB, of the output, or the part of one, where
    it is lowest. Training draws outputs to those of the reference, each output counting alike.
    """

    def bound(reference: nn.Module) -> Task:
        network = Reference(reference, reading.inputs)
        return Task(
            name="outputs",
            inputs=reading.inputs,
            loss=lambda outputs, batch: relative_difference(outputs, network.outputs(batch)),
            scores={SCORE: lambda: SignalToNoise(network.outputs)},
            unit=" dB",
            drop=lambda before, after: noise_percent(after) - noise_percent(before),
            drop_unit="% noise",
            self_supervised=True,
        )

    return Task(name="outputs", inputs=reading.inputs, unit=" dB", bound=bound)


def noise_percent(snr_db: float) -> float:
    """The power of the noise, in percent of the signal's.

    >>> noise_percent(20.0), noise_percent(float("inf"))
    (1.0, 0.0)
    """
    return 100 * 10 ** (-snr_db / 10)


@dataclass
class Reference:
    """A network, copied when it is first run, and what it returned for the last batch."""

    model: nn.Module
    inputs: Inputs
    _copy: nn.Module | None = field(default=None, repr=False)
    _last: tuple[Batch, Outputs] | None = field(default=None, repr=False)

    def outputs(self, batch: Batch) -> Outputs:
        """What the network returns for ``batch``, computed where the batch lies."""
        if self._last is not None and self._last[0] is batch:
            return self._last[1]
        if self._copy is None:
            self._copy = evaluation_copy(self.model)
        inputs = self.inputs(batch)
        with torch.no_grad():
            outputs = self._copy.to(inputs[0].device)(*inputs)
        self._last = (batch, outputs)
        return outputs

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_last": None}


class SignalToNoise:
    """The power of the reference's outputs by that of the difference from them, in dB: of the worst output.

    An output whose channels are of very different size (boxes beside scores) is looked at in parts too, so that the
    large ones drown none; see :mod:`runtimes.checks.parts`. Infinite where there is no difference; NaN counts as
    infinitely far.
    """

    higher_is_better: bool | None = True

    def __init__(self, expected: Callable[[Batch], Outputs]) -> None:
        self.expected = expected
        self.reset()

    def reset(self) -> None:
        """Forget what was seen."""
        self.noise = Noise()

    def update(self, outputs: Outputs, batch: Batch) -> None:
        """See the outputs for a batch, beside those of the reference.

        Raises:
            InvalidInput: they are of other shapes.
        """
        mine, theirs = _tensors(outputs), _tensors(self.expected(batch))
        if [x.shape for x in mine] != [x.shape for x in theirs]:
            raise InvalidInput(
                f"outputs: expected the shapes {[tuple(x.shape) for x in theirs]}, got {[tuple(x.shape) for x in mine]}"
            )
        self.noise.see(mine, theirs)

    def compute(self) -> float:
        """The ratio in dB."""
        return self.noise.worst_snr_db


def _tensors(outputs: Outputs) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(outputs) if isinstance(leaf, Tensor)]
