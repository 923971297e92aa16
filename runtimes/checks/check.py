"""What a deployed file is worth: its agreement with a reference, and its accuracy on labelled data."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from ..errors import InvalidInputs
from ..runtime import Array, Arrays, Runtime
from .parts import channel_axes, drowned

_Floats = NDArray[np.float64]


@dataclass(frozen=True)
class OutputParity:
    """How far one output is from the expected one; figures as those of :class:`Parity`.

    Args:
        name: of the output.
        part_snr_db: the SNR of the channels that are far smaller than the others, as scores beside boxes: over the
            whole they would not show. None where there are none.
    """

    name: str
    max_abs_error: float
    relative_error: float
    snr_db: float
    part_snr_db: float | None = None
    top1_agreement: float | None = None

    @property
    def worst_snr_db(self) -> float:
        """The lower SNR of the whole and of that part."""
        return self.snr_db if self.part_snr_db is None else min(self.snr_db, self.part_snr_db)


@dataclass(frozen=True)
class Parity:
    """How far outputs are from the expected ones; over several outputs, each figure is that of the worst one.

    Args:
        samples: the number of samples compared.
        max_abs_error: max|expected - actual|; infinite where a value is NaN, or infinite in one of the two alone.
        relative_error: max|expected - actual| / max|expected|.
        snr_db: 10 log10(sum expected^2 / sum (expected - actual)^2) in decibel; infinite where they are equal. Channels
            of an output that are far smaller than the others are judged by themselves, too.
        top1_agreement: of (N, classes) outputs, the share of samples with the same class first, in percent; None where
            no output is of this kind, or none tells classes.
        outputs: of each output apart.
    """

    samples: int
    max_abs_error: float
    relative_error: float
    snr_db: float
    top1_agreement: float | None
    outputs: tuple[OutputParity, ...] = field(default=(), compare=False, repr=False)


@runtime_checkable
class RunsSamples(Protocol):
    """A loaded file that runs many samples at once by itself: one that is loaded elsewhere."""

    def run_samples(self, inputs: Arrays, batch: int) -> dict[str, Array]:
        """Return the outputs for N samples, run in chunks of ``batch``."""
        ...


def compare(expected: Mapping[str, Array], actual: Mapping[str, Array], *, classes: bool = True) -> Parity:
    """Return how far ``actual`` is from ``expected``, both by name of output, computed in float64.

    Args:
        classes: whether outputs (N, classes) tell classes, so that the first of them is to be the same.

    >>> compare({"y": np.array([[0.0, 2.0]])}, {"y": np.array([[0.5, 2.0]])})
    Parity(samples=1, max_abs_error=0.5, relative_error=0.25, snr_db=12.041199826559248, top1_agreement=100.0)

    Raises:
        InvalidInputs: the names or the shapes differ, or there is nothing to compare.
    """
    if set(expected) != set(actual):
        raise InvalidInputs(f"outputs: expected {', '.join(sorted(expected))}; got {', '.join(sorted(actual))}")
    if not expected:
        raise InvalidInputs("outputs: nothing to compare, there are none")
    wanted = {name: np.asarray(array) for name, array in expected.items()}
    each = tuple(_compare(name, array, np.asarray(actual[name]), classes) for name, array in wanted.items())
    agreements = [output.top1_agreement for output in each if output.top1_agreement is not None]
    return Parity(
        samples=min(array.shape[0] if array.ndim else 1 for array in wanted.values()),
        max_abs_error=max(output.max_abs_error for output in each),
        relative_error=max(output.relative_error for output in each),
        snr_db=min(output.worst_snr_db for output in each),
        top1_agreement=min(agreements, default=None),
        outputs=each,
    )


def tells_classes(labels: Array) -> bool:
    """Whether labels are a class for each sample: integers (N,). Others are numbers, maps, points or sequences."""
    return labels.ndim == 1 and bool(np.issubdtype(labels.dtype, np.integer))


def run_samples(runtime: Runtime, inputs: Arrays, batch: int = 64) -> dict[str, Array]:
    """Return the outputs for N samples, run in chunks that the file's batch dimension allows.

    Samples lie along the first dimension that a file leaves open, else along the first; those of an output along its
    first dimension, or else the first that has as many. Chunks have ``batch`` samples where the batch is dynamic. Where
    it is fixed they have that many, and the last one is filled up with copies of its last sample, whose outputs are
    dropped. Inputs that have no samples in common (a sequence and the state that it starts from) are run as they are.

    Raises:
        InvalidInputs: there are no samples, inputs differ in their number, or an output has no sample dimension.
    """
    if batch < 1:
        raise InvalidInputs(f"batch: expected at least 1, got {batch}")
    axes = _sample_axes(runtime, inputs)
    lengths = {name: value.shape[axes[name]] if value.ndim else 0 for name, value in inputs.items()}
    if len(set(lengths.values())) != 1 or 0 in lengths.values():
        if runs_whole(runtime, inputs):
            return runtime.run({name: np.ascontiguousarray(value) for name, value in inputs.items()})
        counts = ", ".join(f"{name} has {length}" for name, length in lengths.items()) or "there are no inputs"
        raise InvalidInputs(f"inputs: expected the same number of samples in each, at least 1; {counts}")
    size = _fixed_batch(runtime, axes)
    step = size or batch
    if isinstance(runtime, RunsSamples):
        return runtime.run_samples(inputs, step)
    total = next(iter(lengths.values()))
    chunks: list[dict[str, Array]] = []
    places: dict[str, int] = {}
    for start in range(0, total, step):
        held = min(step, total - start)
        filled = np.minimum(np.arange(start, start + (size or held)), total - 1)
        chunk = {name: np.ascontiguousarray(value.take(filled, axes[name])) for name, value in inputs.items()}
        outputs = runtime.run(chunk)
        if len(filled) == total:
            return outputs
        for name, value in outputs.items():
            place = places.setdefault(name, value.shape.index(len(filled)) if len(filled) in value.shape else 0)
            if value.ndim <= place or value.shape[place] != len(filled):
                raise InvalidInputs(f"output {name!r}: expected {len(filled)} samples, got the shape {value.shape}")
        chunks.append({name: value.take(range(held), places[name]) for name, value in outputs.items()})
    return {name: np.concatenate([chunk[name] for chunk in chunks], places[name]) for name in places}


def runs_whole(runtime: Runtime, inputs: Arrays) -> bool:
    """Whether the file takes ``inputs`` as they are, though they have no number of samples in common."""
    specs = {spec.name: spec.shape for spec in runtime.inputs}
    return (
        bool(inputs)
        and all(
            value.size > 0
            and len(specs.get(name, ())) == value.ndim
            and all(have in (None, size) for have, size in zip(specs[name], value.shape, strict=True))
            for name, value in inputs.items()
        )
        and len({value.shape[0] for value in inputs.values() if value.ndim}) > 1
    )


def _sample_axes(runtime: Runtime, inputs: Arrays) -> dict[str, int]:
    """For every input the dimension that holds the samples."""
    open_ = {spec.name: [axis for axis, size in enumerate(spec.shape) if size is None] for spec in runtime.inputs}
    return {
        name: next((axis for axis in open_.get(name, ()) if axis < value.ndim), 0) for name, value in inputs.items()
    }


def _fixed_batch(runtime: Runtime, axes: Mapping[str, int]) -> int | None:
    """The batch that a file takes, where that is fixed."""
    sizes = {spec.shape[axes.get(spec.name, 0)] for spec in runtime.inputs if spec.shape}
    fixed = {size for size in sizes if size is not None}
    if len(fixed) > 1:
        raise InvalidInputs(f"inputs: expected one batch size, the file has {sorted(fixed)}; run it directly")
    return next(iter(fixed), None)


def accuracy(runtime: Runtime, batches: Iterable[tuple[Array, Array]]) -> float:
    """Return the share of samples that a deployed classifier gets right, in percent.

    Batches are ``x`` of (N, ...) and the labels ``y`` of (N,); the file's first output is (N, classes). A sample with a
    NaN among its outputs counts as wrong.

    Raises:
        InvalidInputs: there are no samples, a label is not a class, or the file is no classifier with one input.
    """
    if len(runtime.inputs) != 1:
        raise InvalidInputs(f"accuracy: expected a file with one input, got {len(runtime.inputs)}")
    input_name, output = runtime.inputs[0].name, runtime.outputs[0].name

    def answers() -> Iterator[tuple[Array, Array]]:
        for x, y in batches:
            if y.shape != (x.shape[0],) or not np.issubdtype(y.dtype, np.integer):
                raise InvalidInputs(f"labels: expected {x.shape[0]} integers, got {y.dtype} of the shape {y.shape}")
            if len(x):
                yield run_samples(runtime, {input_name: x}, batch=x.shape[0])[output], y

    return top1(answers())


def top1(answers: Iterable[tuple[Array, Array]]) -> float:
    """Return the share of right answers in percent, from scores (N, classes) and labels (N,), batch by batch.

    Raises:
        InvalidInputs: there are no samples, a label is not a class, or the scores are of another shape.
    """
    seen = right = 0
    for scores, y in answers:
        if y.ndim != 1 or not np.issubdtype(y.dtype, np.integer):
            raise InvalidInputs(f"labels: expected an integer for each sample, got {y.dtype} of the shape {y.shape}")
        if scores.ndim != 2 or len(scores) != len(y):
            raise InvalidInputs(f"scores: expected (N, classes) for {len(y)} samples, got {scores.shape}")
        if len(y) == 0:
            continue
        if y.min() < 0 or y.max() >= scores.shape[1]:
            raise InvalidInputs(f"labels: expected 0 to {scores.shape[1] - 1}, got {y.min()} to {y.max()}")
        numbers = scores.astype(np.float64)
        right += int(((numbers.argmax(1) == y) & ~np.isnan(numbers).any(1)).sum())
        seen += len(y)
    if seen == 0:
        raise InvalidInputs("accuracy: there are no samples")
    return 100.0 * right / seen


def _compare(name: str, expected: Array, actual: Array, classes: bool) -> OutputParity:
    if expected.shape != actual.shape:
        raise InvalidInputs(f"output {name!r}: expected the shape {expected.shape}, got {actual.shape}")
    if expected.size == 0:
        raise InvalidInputs(f"output {name!r}: nothing to compare, its shape is {expected.shape}")
    want, got = expected.astype(np.float64), actual.astype(np.float64)
    with np.errstate(invalid="ignore"):
        error = np.where(want == got, 0.0, np.abs(want - got))
    error = np.where(np.isnan(error), np.inf, error)
    finite = np.where(np.isfinite(want), want, 0.0)
    worst, scale = float(error.max()), float(np.abs(finite).max())
    top1 = None
    if classes and want.ndim == 2 and want.shape[1] > 1:
        same = (want.argmax(1) == got.argmax(1)) & ~np.isnan(want).any(1) & ~np.isnan(got).any(1)
        top1 = 100.0 * float(same.mean())
    return OutputParity(
        name=name,
        max_abs_error=worst,
        relative_error=0.0 if worst == 0 else worst / scale if scale > 0 else math.inf,
        snr_db=_snr_db(finite, error),
        part_snr_db=_part_snr_db(finite, error),
        top1_agreement=top1,
    )


def _part_snr_db(signal: _Floats, noise: _Floats) -> float | None:
    """The lowest SNR of the channels along a dimension that are far smaller than the others; None where none are."""
    found = []
    for axis in channel_axes(signal.ndim):
        slices, errors = (np.moveaxis(x, axis, 0).reshape(signal.shape[axis], -1) for x in (signal, noise))
        small = drowned(np.abs(slices).max(axis=1))
        if small.any():
            found.append(_snr_db(slices[small], errors[small]))
    return min(found, default=None)


def _snr_db(signal: _Floats, noise: _Floats) -> float:
    # Both are scaled by their peaks first: squares of large or small numbers neither overflow nor vanish.
    signal_peak, noise_peak = float(np.abs(signal).max()), float(np.abs(noise).max())
    if noise_peak == 0:
        return math.inf
    if signal_peak == 0 or math.isinf(noise_peak):
        return -math.inf
    ratio = np.square(signal / signal_peak).sum() / np.square(noise / noise_peak).sum()
    return 10 * math.log10(ratio) + 20 * math.log10(signal_peak / noise_peak)
