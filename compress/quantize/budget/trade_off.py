"""The curve of what accuracy can be had for how many bytes, and the networks on it compared with the float network."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from pydantic import ConfigDict
from torch import Tensor
from torch.utils._pytree import tree_leaves

from ...data.batch import moved
from ...errors import InvalidInput
from ...integers.encoding import Encoding
from ...integers.simulate import simulate
from ...stage import Context, Findings
from ...tasks.record import ScoreRecord, records
from ...tasks.scoring import scores_of
from ...tasks.task import Batch, Task
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
        score: likewise.
    """

    model_config = ConfigDict(allow_inf_nan=True)  # where nothing is rounded, there is no noise

    bytes: int
    precisions: dict[str, Precision]
    loss: float
    predicted_snr_db: float | None = None
    snr_db: float | None = None
    score: float | None = None


class TradeOff(Findings):
    """What accuracy can be had for how many bytes.

    Args:
        by: what was summed over layers.
        samples: that simulated points were measured on.
        split: where these came from.
        score: of the float network on them, where there are labels.
        float_bytes: that the file in float stores.
        points: by bytes, ascending.
    """

    by: By
    samples: int
    split: str
    score: ScoreRecord | None
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
    curve = []
    for number, choice in enumerate(chosen):
        context.progress("trade-off", number, len(chosen))
        loss = summed(units, choice, by)
        snr_db, score = measure(candidates.encodings_of(choice)) if number in run else (None, None)
        predicted = decibels(loss + sensitivity.noise) if by == "snr" else None
        curve.append(
            TradeOffPoint(
                bytes=round(costs.of(choice)),
                precisions=choice,
                loss=loss,
                predicted_snr_db=None if predicted is None or math.isinf(predicted) else predicted,
                snr_db=snr_db,
                score=score,
            )
        )
    context.progress("trade-off", len(chosen), len(chosen))
    return TradeOff(
        by=by,
        samples=measure.samples,
        split=measure.split,
        score=measure.score,
        float_bytes=round(costs.whole),
        points=tuple(sorted(curve, key=lambda record: record.bytes)),
    )


@dataclass(frozen=True)
class Comparison:
    """Simulated networks against the float network, on samples that were run once.

    Args:
        candidates: the network.
        batches: the network's inputs, and the batches that they are of.
        exact: the results of the float network.
        score: of the float network, where there are labels.
        task: what a batch means.
        split: where the samples came from.
    """

    candidates: Candidates
    batches: tuple[tuple[tuple[Tensor, ...], Batch], ...]
    exact: tuple[Tensor, ...]
    score: ScoreRecord | None
    task: Task
    split: str

    @staticmethod
    def of(candidates: Candidates, context: Context, samples: int) -> Comparison:
        """On the first ``samples`` of the validation split.

        Raises:
            InvalidInput: there are none, or they do not fit the network.
        """
        context = context.of(candidates.model)
        task = context.task_of(candidates.model)
        split, name = scored_split(context)
        batches = tuple(batches_of(split, context, samples))
        if not batches:
            raise InvalidInput(f"sensitivity: the {name} split is empty; give --data with samples")
        exact, score = _run(candidates.model, batches, task)
        whole = None if score is None else records(task, {task.score or "": score})[0]
        return Comparison(candidates, batches, exact, whole, task, name)

    @property
    def samples(self) -> int:
        """How many samples are compared."""
        return sum(len(inputs[0]) for inputs, _ in self.batches)

    def __call__(self, encodings: Mapping[str, Encoding]) -> tuple[float | None, float | None]:
        """The signal to noise ratio in dB (None: there is no noise) and the score of these encodings, if it has one."""
        results, score = _run(self._simulated(encodings), self.batches, self.task)
        ratio = decibels(noise_ratio(self.exact, results))
        return None if math.isinf(ratio) else ratio, score

    def _simulated(self, encodings: Mapping[str, Encoding]) -> Callable[..., object]:
        network = self.candidates
        return simulate(network.model, encodings, network.inputs, target=network.target)


def _run(
    model: Callable[..., object], batches: Sequence[tuple[tuple[Tensor, ...], Batch]], task: Task
) -> tuple[tuple[Tensor, ...], float | None]:
    """The results for all batches, one tensor for each, wherever the network's answer holds it; and the score."""
    rows: list[list[Tensor]] = []

    def answers() -> Iterator[tuple[object, Batch]]:
        for inputs, batch in batches:
            with torch.no_grad():
                outputs = model(*inputs)
            leaves = [leaf for leaf in tree_leaves(outputs) if isinstance(leaf, Tensor)]
            rows.append([leaf.reshape(1) if leaf.ndim == 0 else leaf for leaf in leaves])
            yield moved(outputs, torch.device("cpu")), batch

    scored = task if task.score is not None and not task.self_supervised else replace(task, scores={})
    scores = scores_of(scored, answers())
    return tuple(torch.cat(parts) for parts in zip(*rows, strict=True)), next(iter(scores.values()), None)
