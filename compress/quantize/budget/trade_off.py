"""The curve of what accuracy can be had for how many bytes, and the networks on it compared with the float network."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from pydantic import ConfigDict
from torch import Tensor
from torch.utils._pytree import tree_leaves

from ...errors import InvalidInput
from ...integers.encoding import Encoding
from ...integers.simulate import simulate
from ...stage import Context, Findings
from .budget import ORDER, cheapest, summed
from .layer_costs import Costs
from .precisions import Candidates, Precision
from .sensitivity import By, PrecisionSensitivity, batches_of, decibels, noise_ratio, scored_split


class TradeOffPoint(Findings):
    """One choice on the curve.

    Args:
        bytes: that its file is taken to store, by the sum over layers.
        precisions: of the layers, by weight name.
        loss: the summed sensitivity.
        predicted_snr_db: what that is as a signal to noise ratio of the output, where it is noise.
        snr_db: as measured on the simulated network, where it was.
        top1: likewise, in percent.
    """

    model_config = ConfigDict(allow_inf_nan=True)  # where nothing is rounded, there is no noise

    bytes: int
    precisions: dict[str, Precision]
    loss: float
    predicted_snr_db: float | None = None
    snr_db: float | None = None
    top1: float | None = None


class TradeOff(Findings):
    """What accuracy can be had for how many bytes.

    Args:
        by: what was summed over layers.
        samples: that simulated points were measured on.
        split: where these came from.
        top1: of the float network on them, in percent.
        float_bytes: that the file in float stores.
        points: by bytes, ascending.
    """

    by: By
    samples: int
    split: str
    top1: float | None
    float_bytes: int
    points: tuple[TradeOffPoint, ...]


def trade_off(
    candidates: Candidates,
    sensitivity: PrecisionSensitivity,
    costs: Costs,
    context: Context,
    *,
    by: By = "snr",
    points: int = 24,
    simulated: int = 5,
    samples: int = 2000,
) -> TradeOff:
    """The best choices for budgets from all layers in 4 bits to all in 8, and the accuracy of some of them.

    Args:
        costs: in bytes.
        points: budgets, evenly spaced.
        simulated: of the points, the ends among them, that are run on the validation split.
        samples: of that.
    """
    units = sensitivity.of_units(candidates.units)
    least, most = (costs.of(candidates.uniform(precision)) for precision in ("int4", "int8"))
    budgets = [least + (most - least) * number / max(1, points - 1) for number in range(points)]
    choices = [cheapest(candidates, units, costs, by, ORDER, budget) for budget in budgets]
    chosen = list({tuple(choice.values()): choice for choice in choices if choice is not None}.values())
    run = {round(number * (len(chosen) - 1) / max(1, simulated - 1)) for number in range(min(simulated, len(chosen)))}
    measure = Comparison.of(candidates, context, samples)
    records = []
    for number, choice in enumerate(chosen):
        context.progress("trade-off", number, len(chosen))
        loss = summed(units, choice, by)
        snr_db, top1 = measure(candidates.encodings_of(choice)) if number in run else (None, None)
        predicted = decibels(loss + sensitivity.noise) if by == "snr" else None
        records.append(
            TradeOffPoint(
                bytes=round(costs.of(choice)),
                precisions=choice,
                loss=loss,
                predicted_snr_db=None if predicted is None or math.isinf(predicted) else predicted,
                snr_db=snr_db,
                top1=top1,
            )
        )
    context.progress("trade-off", len(chosen), len(chosen))
    return TradeOff(
        by=by,
        samples=measure.samples,
        split=measure.split,
        top1=measure.top1,
        float_bytes=round(costs.whole),
        points=tuple(sorted(records, key=lambda record: record.bytes)),
    )


@dataclass(frozen=True)
class Comparison:
    """Simulated networks against the float network, on samples that were run once.

    Args:
        candidates: the network.
        inputs: batch by batch.
        labels: of all of them, where there are any.
        exact: the results of the float network.
        split: where the samples came from.
    """

    candidates: Candidates
    inputs: tuple[tuple[Tensor, ...], ...]
    labels: Tensor | None
    exact: tuple[Tensor, ...]
    split: str

    @staticmethod
    def of(candidates: Candidates, context: Context, samples: int) -> Comparison:
        """On the first ``samples`` of the validation split.

        Raises:
            InvalidInput: there are none, or they do not fit the network.
        """
        split, name = scored_split(context)
        batches = list(batches_of(split, context, samples))
        if not batches:
            raise InvalidInput(f"sensitivity: the {name} split is empty; give --data with samples")
        known = [labels for _, labels in batches if labels is not None]
        inputs = tuple(inputs for inputs, _ in batches)
        labels = torch.cat(known) if len(known) == len(batches) else None
        exact = _run(candidates.model, inputs)
        usable = len(exact) == 1 and exact[0].ndim == 2 and labels is not None and labels.shape == exact[0].shape[:1]
        return Comparison(candidates, inputs, labels if usable else None, exact, name)

    @property
    def samples(self) -> int:
        """How many samples are compared."""
        return len(self.exact[0])

    @property
    def top1(self) -> float | None:
        """The accuracy of the float network, in percent; None where there are no labels for it."""
        return self._accuracy(self.exact)

    def __call__(self, encodings: Mapping[str, Encoding]) -> tuple[float | None, float | None]:
        """The signal to noise ratio in dB (None: there is no noise) and the accuracy in percent of these encodings."""
        results = _run(self._simulated(encodings), self.inputs)
        ratio = decibels(noise_ratio(self.exact, results))
        return None if math.isinf(ratio) else ratio, self._accuracy(results)

    def _simulated(self, encodings: Mapping[str, Encoding]) -> Callable[..., object]:
        network = self.candidates
        return simulate(network.model, encodings, network.inputs, target=network.target)

    def _accuracy(self, results: Sequence[Tensor]) -> float | None:
        if self.labels is None:
            return None
        return 100 * float((results[0].argmax(1) == self.labels).double().mean())


def _run(model: Callable[..., object], inputs: Sequence[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    """The results for all batches, one tensor for each, wherever the network's answer holds it."""
    with torch.no_grad():
        results = [tree_leaves(model(*batch)) for batch in inputs]
    rows = [
        [leaf.reshape(1) if leaf.ndim == 0 else leaf for leaf in leaves if isinstance(leaf, Tensor)]
        for leaves in results
    ]
    return tuple(torch.cat(parts) for parts in zip(*rows, strict=True))
