"""How much each layer of a network costs when it alone is stored in fewer bits.

The output of the network with one layer rounded is compared with the float network's: by the ratio of noise to signal,
of which those of several layers add up where their errors are independent, and by the task's score. All layers are
scanned in one pass over the samples; what is computed before a layer is computed once for all of its precisions.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field, TypeAdapter, ValidationError, model_validator
from torch import Tensor

from ...core.complaint import first_complaint
from ...core.settings import setting
from ...data import Split
from ...data.batch import count_of, moved, part_of
from ...errors import InvalidInput
from ...files.outputs import write_text
from ...files.untrusted import read_json
from ...graph.trace import Graph
from ...integers.encoding import Encoding
from ...integers.placement import without_layers
from ...integers.target import target_named
from ...stage import Config, Context, Findings, Samples
from ...tasks.record import ScoreRecord, records
from ...tasks.scoring import scores_of
from ...tasks.task import Batch, Task
from .precisions import Candidates, Precision, Unit
from .variants import Program, Rounder, Variant

By = Literal["snr", "score", "hessian"]
Around = Literal["float", "int8"]
BATCH = 50
TIE = 1e-6
"""Of the noise ratio, added to what is lost of a score: few samples often tell no difference."""


class UnitSensitivity(Findings):
    """One layer, or layers that share a weight, alone in each precision.

    Args:
        layers: their names.
        weight: the name of their weight.
        parameters: how many numbers it has.
        precisions: that were tried.
        noise: of the network's output in each, as a ratio to the signal; more than with the layer as it is around.
        score: what each costs of the task's score, in the unit of its drops, where there are labels.
        hessian: what the curvature of the loss says that each costs (HAWQ-V2).
        trace: the mean of the diagonal of the Hessian of the loss, over the weight.
    """

    layers: tuple[str, ...] = Field(min_length=1)
    weight: str
    parameters: int = Field(ge=1, lt=2**63)
    precisions: tuple[Precision, ...]
    noise: tuple[float, ...] | None = None
    score: tuple[float, ...] | None = None
    hessian: tuple[float, ...] | None = None
    trace: float | None = None

    @model_validator(mode="after")
    def _one_for_each(self) -> UnitSensitivity:
        if any(values is not None and len(values) != len(self.precisions) for values in self._measured()):
            raise ValueError("expected a value for each of the precisions")
        return self

    def _measured(self) -> tuple[tuple[float, ...] | None, ...]:
        return self.noise, self.score, self.hessian

    def loss(self, precision: Precision, by: By) -> float:
        """What ``precision`` costs, in the units of ``by``; less than 0 where it is better than what was there.

        Raises:
            InvalidInput: that was not measured.
        """
        losses = {"snr": self.noise, "score": self.score, "hessian": self.hessian}[by]
        if losses is None or precision not in self.precisions:
            raise InvalidInput(
                f"sensitivity: the scan does not tell what {self.layers[0]} costs in {precision} by {by}; scan again"
            )
        place = self.precisions.index(precision)
        return losses[place] + (TIE * self.noise[place] if by == "score" and self.noise is not None else 0.0)


class PrecisionSensitivity(Findings):
    """What a :class:`PrecisionScan` found.

    Args:
        around: what the other layers are in.
        samples: that were run.
        split: where they came from.
        score: of the float network on them, where there are labels.
        noise: of the output with all layers as they are around, as a ratio to the signal.
        layers: in the order in which they run.
    """

    of: Literal["quantize"] = "quantize"
    around: Around = "float"
    samples: int = Field(ge=1, lt=2**31)
    split: str = "validation"
    score: ScoreRecord | None = None
    noise: float = 0.0
    layers: tuple[UnitSensitivity, ...]

    @classmethod
    def read(cls, path: Path) -> PrecisionSensitivity:
        """The scan in a file, or in the folder that ``compress sensitivity --stage quantize`` wrote.

        Raises:
            InvalidInput: it cannot be read, or is no such file.
        """
        file = path / "sensitivity.json" if path.is_dir() else path
        remedy = "write one with compress sensitivity --stage quantize"
        content = read_json(file, "scan", remedy)
        try:
            return cls.model_validate(content)
        except ValidationError as error:
            raise InvalidInput(
                f"scan {file}: not the scan of a quantization ({first_complaint(error).line('it')}); {remedy}"
            ) from error

    def of_units(self, units: Sequence[Unit]) -> tuple[UnitSensitivity, ...]:
        """The record of each of ``units``.

        Raises:
            InvalidInput: the scan is of another network.
        """
        known = {layer.weight: layer for layer in self.layers}
        for unit in units:
            found = known.get(unit.name)
            if found is None or found.parameters != unit.tensor.numel():
                raise InvalidInput(f"sensitivity: the scan is of another network: it has no {unit.name} like this one")
        return tuple(known[unit.name] for unit in units)


class PrecisionScan(Config):
    """Store each layer alone in fewer bits, and measure the output on the validation split."""

    others_in: Around = setting(
        "float", "What the other layers stay in: float, or the int8 that the network was quantized to."
    )
    samples: Samples = setting(512, "Of the validation split, its first ones.")

    def measure(self, candidates: Candidates, context: Context, *, record: Path | None = None) -> PrecisionSensitivity:
        """What each layer costs; the test split is not read.

        Args:
            record: a file that the scan is kept in while it runs: one that was interrupted goes on from there. It is
                gone afterwards.

        Raises:
            InvalidInput: there are no samples, or they do not fit the network.
        """
        context = context.of(candidates.model)
        split, name = scored_split(context)
        sheet = ScoreSheet(context.task_of(candidates.model), candidates.graph)
        rounder = Rounder(candidates.graph, target_named(candidates.target))
        base, tried = self._variants(candidates, rounder)
        sums = _Sums.resumed(record, self._digest(candidates, name), len(tried))
        program = Program(candidates.graph)
        total = min(self.samples, max(1, len(split)))
        skip = sums.samples
        for inputs, batch in batches_of(split, context, self.samples):
            if skip > 0:
                skip -= len(inputs[0])
                continue
            context.progress("sensitivity", sums.samples, total)
            with torch.no_grad():
                exact = next(result for number, result in program.outputs(inputs, Variant({}, {}), ()))
                for number, result in program.outputs(inputs, base, [variant for _, _, variant in tried]):
                    sums.add(number, exact, result, sheet.score(result, batch))
            sums.count(exact, len(inputs[0]), sheet.score(exact, batch))
            sums.keep(record)
        context.progress("sensitivity", total, total)
        if not sums.samples:
            raise InvalidInput(f"sensitivity: the {name} split is empty; give --data with samples")
        if record is not None:
            record.unlink(missing_ok=True)
        return self._result(candidates, tried, sums, name, sheet)

    def _variants(
        self, candidates: Candidates, rounder: Rounder
    ) -> tuple[Variant, list[tuple[Unit, Precision, Variant]]]:
        tried: list[tuple[Unit, Precision, Variant]] = []
        whole = candidates.encodings_of(candidates.uniform("int8")) if self.others_in == "int8" else {}
        for unit in candidates.units:
            if self.others_in == "int8":
                four = whole | {name: candidates.weights["int4"][name] for name in unit.weights}
                tried.append((unit, "int4", rounder.variant(four)))
                tried.append((unit, "float", rounder.variant(_without(candidates, whole, unit))))
                continue
            read = {p.read: candidates.encodings[p.read] for p in unit.products if p.read in candidates.encodings}
            for precision, weights in candidates.weights.items():
                tried.append((unit, precision, rounder.variant(read | {name: weights[name] for name in unit.weights})))
        return rounder.variant(whole), tried

    def _digest(self, candidates: Candidates, split: str) -> str:
        from ...sources.artifact import weights_digest  # an artifact holds encodings

        identity = [self.model_dump(mode="json"), split, candidates.target, weights_digest(candidates.model)]
        parts: list[Mapping[str, Encoding]] = [candidates.encodings, *candidates.weights.values()]
        identity += [{name: encoding.to_json() for name, encoding in sorted(part.items())} for part in parts]
        return hashlib.sha256(json.dumps(identity).encode()).hexdigest()

    def _result(
        self,
        candidates: Candidates,
        tried: Sequence[tuple[Unit, Precision, Variant]],
        sums: _Sums,
        split: str,
        sheet: ScoreSheet,
    ) -> PrecisionSensitivity:
        around = sums.ratio(None)
        units = []
        for unit in candidates.units:
            noise: dict[Precision, float] = {self.others_in: 0.0}
            lost: dict[Precision, float] = {self.others_in: 0.0}
            for number, (of, precision, _) in enumerate(tried):
                if of is unit:
                    noise[precision] = sums.ratio(number) - around
                    lost[precision] = sheet.lost(sums.scores[-1], sums.scores[number], sums.samples)
            order: list[Precision] = [precision for precision in ("int4", "int8", "float") if precision in noise]
            units.append(
                UnitSensitivity(
                    layers=unit.layers,
                    weight=unit.name,
                    parameters=unit.tensor.numel(),
                    precisions=tuple(order),
                    noise=tuple(noise[precision] for precision in order),
                    score=tuple(lost[precision] for precision in order) if sheet.scored else None,
                )
            )
        return PrecisionSensitivity(
            around=self.others_in,
            samples=sums.samples,
            split=split,
            score=sheet.record(sums.exact_score, sums.samples),
            noise=around,
            layers=tuple(units),
        )


def scored_split(context: Context) -> tuple[Split, str]:
    """The split that choices are made on, and its name: validation, or calibration where there is none.

    Raises:
        InvalidInput: there is neither.
    """
    if context.data is None:
        raise InvalidInput("sensitivity: it needs samples, and no data is given; give --data")
    name: Literal["validation", "calibration"] = "validation" if "validation" in context.data.splits else "calibration"
    return context.data.split(name), name


@dataclass(frozen=True)
class ScoreSheet:
    """The score of a network's results, batch by batch: of a whole split it is the mean, weighed by samples.

    Of a task without labels there is none: the noise at the outputs says the same.
    """

    task: Task
    graph: Graph

    @property
    def scored(self) -> bool:
        """Whether there is a score."""
        return self.task.score is not None and not self.task.self_supervised

    def score(self, results: Sequence[Tensor], batch: Batch) -> float:
        """The score of the results for a batch, times its samples; 0 where there is none."""
        if not self.scored:
            return 0.0
        outputs = moved(self.graph.nested(results), torch.device("cpu"))
        return count_of(batch) * next(iter(scores_of(self.task, [(outputs, batch)]).values()))

    def lost(self, before: float, after: float, samples: int) -> float:
        """What is lost between two sums of scores over as many samples."""
        return self.task.dropped(before / samples, after / samples) if self.scored else 0.0

    def record(self, total: float, samples: int) -> ScoreRecord | None:
        """The record of a sum of scores."""
        return records(self.task, {self.task.score or "": total / samples})[0] if self.scored else None


def batches_of(split: Split, context: Context, samples: int) -> Iterator[tuple[tuple[Tensor, ...], Batch]]:
    """The first ``samples`` of a split in stored order: the network's inputs, and the batch that they are of.

    Raises:
        InvalidInput: they are not what the network takes.
    """
    left = samples
    expected = [tuple(x.shape[1:]) for x in context.example_inputs]
    for whole in split.batches(BATCH):
        inputs = context.read(whole)
        if [tuple(x.shape[1:]) for x in inputs] != expected:
            shapes = [tuple(x.shape[1:]) for x in inputs]
            raise InvalidInput(
                f"sensitivity: samples have the shapes {shapes}, and the network was given {expected}; "
                "give --data and --input-shape that agree"
            )
        count = len(inputs[0])
        batch = moved(part_of(whole, count, slice(0, left)), context.example_inputs[0].device)
        yield context.read(batch), batch
        left -= count
        if left <= 0:
            return


def noise_ratio(exact: Sequence[Tensor], other: Sequence[Tensor]) -> float:
    """The power of the difference by that of the signal, the mean over the network's results.

    >>> noise_ratio([torch.tensor([3.0, 4.0])], [torch.tensor([3.0, 3.0])])
    0.04
    """
    return sum(_difference(a, b) / max(_power(a), 1e-300) for a, b in zip(exact, other, strict=True)) / len(exact)


def decibels(noise: float) -> float:
    """The signal to noise ratio in dB; infinite without noise.

    >>> decibels(0.01)
    20.0
    """
    return math.inf if noise <= 0 else -10 * math.log10(noise)


@dataclass
class _Sums:
    """What was seen up to now: of each variant, and last of what is around them."""

    digest: str
    noise: list[list[float]]
    scores: list[float]
    signal: list[float] = field(default_factory=list)
    exact_score: float = 0.0
    samples: int = 0

    @staticmethod
    def resumed(record: Path | None, digest: str, variants: int) -> _Sums:
        """Where the record of the same scan stopped, or the start."""
        try:
            if record is not None:
                sums = TypeAdapter(_Sums).validate_python(read_json(record, "scan"))
                results = {len(each) for each in (*sums.noise, sums.signal) if each}
                if sums.digest == digest and len(sums.noise) == len(sums.scores) == variants + 1 and len(results) < 2:
                    return sums
        except (InvalidInput, ValidationError):
            pass  # there is none yet, or it is damaged: the scan begins anew
        return _Sums(digest, [[] for _ in range(variants + 1)], [0.0] * (variants + 1))

    def add(self, number: int | None, exact: Sequence[Tensor], other: Sequence[Tensor], score: float) -> None:
        """One batch of a variant, or of what is around, and its score times its samples."""
        place = -1 if number is None else number
        self.noise[place] = _plus(self.noise[place], [_difference(a, b) for a, b in zip(exact, other, strict=True)])
        self.scores[place] += score

    def count(self, exact: Sequence[Tensor], samples: int, score: float) -> None:
        """One batch of the float network, and its score times its samples."""
        self.signal = _plus(self.signal, [_power(a) for a in exact])
        self.exact_score += score
        self.samples += samples

    def ratio(self, number: int | None) -> float:
        """The noise of a variant, by the signal."""
        noise = self.noise[-1 if number is None else number]
        return sum(a / max(b, 1e-300) for a, b in zip(noise, self.signal, strict=True)) / len(self.signal)

    def keep(self, record: Path | None) -> None:
        """Write the record, all or nothing."""
        if record is None:
            return
        write_text(record, json.dumps(vars(self)), overwrite=True)


def _plus(sums: Sequence[float], more: Sequence[float]) -> list[float]:
    return [a + b for a, b in zip(sums, more, strict=True)] if sums else list(more)


def _difference(a: Tensor, b: Tensor) -> float:
    """The power of the difference; of integers and of truths too."""
    return _power(a - b if a.is_floating_point() else a.double() - b.double())


def _power(tensor: Tensor) -> float:
    return float(tensor.double().square().sum())


def _without(candidates: Candidates, encodings: Mapping[str, Encoding], unit: Unit) -> dict[str, Encoding]:
    """``encodings`` with one unit in float, and what is then no longer read or made in integers."""
    left = without_layers(candidates.graph, encodings, unit.layers)
    return {name: encoding for name, encoding in left.items() if name not in unit.weights}
